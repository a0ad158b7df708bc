"""`python -m minizaya serve`: a chat server on this machine, in OpenAI's protocol, over our engine.

    python -m minizaya serve --model nano-reasoner --port 8000
    curl http://127.0.0.1:8000/v1/chat/completions -d '{"messages": [{"role": "user", "content": "47+85?"}]}'

Every connection has a thread, all share one engine, and what they ask is decoded together. It listens on the loopback
interface only, unless --host says otherwise: there is no key and no encryption.

The released weights run here too, slowly, from their folder: `serve --weights DIR`. The same clients talk to vLLM, which
serves them fast:

    vllm serve Zyphra/ZAYA1-8B --reasoning-parser qwen3 --tool-call-parser zaya_xml --enable-auto-tool-choice \\
        --mamba-cache-dtype float32 --dtype bfloat16          # several GPUs: -dp N -ep; there is no tensor parallelism
"""

import argparse
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import torch

from ..data import template
from ..hub import zoo
from ..hub.weights import add_weight_arguments, open_weights
from ..serve import protocol
from ..serve.checks import Wrong, brief
from ..serve.connections import PatientServer
from ..serve.formats import ChatFormat, TaskFormat, read_text
from ..serve.service import Answer, Busy, Service
from ..serve.telling import Telling
from ..serve.wire import JsonHandler

METHODS = {"/health": "GET", "/v1/health": "GET", "/v1/models": "GET", "/v1/chat/completions": "POST"}
ONE_MODEL = "/v1/models/"


class Server(PatientServer):
    """HTTP around a `Service`. `url` is what a client needs. Use it in a `with` block, which runs both.

    host: an address or a name; one with a colon is IPv6's. port: 0 for a free one.
    Raises OSError, naming both, when it cannot listen there.
    """

    def __init__(self, service: Service, form: ChatFormat | TaskFormat, name: str, host: str = "127.0.0.1", port: int = 0):
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), Handler)
        except OSError as error:
            raise OSError(f"cannot listen on host {host}, port {port}: {error.strerror or error}") from None
        self.service, self.form, self.name, self.born = service, form, name, int(time.time())
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self.server_port}/v1"

    def __enter__(self) -> "Server":
        self.service.start()
        threading.Thread(target=self.serve_forever, args=(0.05, ), daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self.shutdown()
        self.server_close()
        self.service.close()  # whoever is waiting for an answer is told
        self.say_goodbye()

    def handle_error(self, request, client_address) -> None:
        """A client that hangs up is no news; anything else is said in one line, not in a traceback."""
        error = sys.exception() if hasattr(sys, "exception") else sys.exc_info()[1]
        if not isinstance(error, OSError):
            print(f"serve: {type(error).__name__}: {error}", file=sys.stderr)


class Handler(JsonHandler):
    """One connection: which path is asked for, and three ways to answer a chat."""

    server: Server

    def answer(self) -> None:
        """Any request. Whatever goes wrong before the answer has begun is said in a document."""
        with self.server.at_work():
            try:
                self.route(self.body(), self.path.partition("?")[0])
            except Wrong as error:
                self.fail(error.status, str(error), error.param)
            except Busy as error:
                self.fail(503, str(error), kind="overloaded", Retry_After="1")
            except OSError:  # the client has gone
                raise
            except Exception as error:
                self.fail(500, f"{type(error).__name__}: {error}", kind="server_error")

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_HEAD = answer

    def route(self, body: bytes, path: str) -> None:
        method = "GET" if path.startswith(ONE_MODEL) else METHODS.get(path)
        model = {"id": self.server.name, "object": "model", "created": self.server.born, "owned_by": "minizaya"}
        if method is None:
            raise Wrong(f"there is no {brief(path)}; chat is at /v1/chat/completions", status=404)
        if self.command != method:
            self.fail(405, f"{brief(path)} takes {method}, not {self.command}", Allow=method)
        elif path == "/v1/models":
            self.reply(200, {"object": "list", "data": [model]})
        elif path.startswith(ONE_MODEL):
            if unquote(path.removeprefix(ONE_MODEL)) != self.server.name:
                raise Wrong(f"there is no model {brief(unquote(path.removeprefix(ONE_MODEL)))}", "model", 404)
            self.reply(200, model)
        elif method == "GET":
            self.reply(200, {"status": "ok"})
        else:
            self.chat(body)

    def chat(self, body: bytes) -> None:
        request = protocol.read_request(protocol.document(body), self.server.form, self.server.service.engine.size)
        if request.rsa:
            self.rsa(request)
        elif request.stream:
            self.stream(request)
        else:
            self.whole(request)

    # ---- three ways to answer ----------------------------------------------------------------------------------------

    def whole(self, request: protocol.Request) -> None:
        """All choices at once."""
        choices, written = [], 0
        with self.asking([request.prompt] * request.n, request.room, request) as answers:
            for i, answer in enumerate(answers):
                telling = Telling(answer, self.server.form, request, self.watch)
                reply = read_text(self.server.form, "".join(telling), request.thinking)
                choices.append(protocol.choice_of(i, reply, telling.finish))
                written += telling.count
        self.reply(200, protocol.completion(self.server.name, choices, protocol.usage_of(len(request.prompt), written)))

    def rsa(self, request: protocol.Request) -> None:
        """Markovian RSA: every round's traces are decoded together with everybody else's."""
        def ask(prompts, room):
            with self.asking(prompts, room, request) as answers:
                return [list(answer.read(self.watch)) for answer in answers]

        reply, finish, written = protocol.answer_by_rsa(request, self.server.form, ask)
        usage = protocol.usage_of(len(request.prompt), written)
        self.reply(200, protocol.completion(self.server.name, [protocol.choice_of(0, reply, finish)], usage))

    def stream(self, request: protocol.Request) -> None:
        """Server-sent events, a piece as soon as it is certain. One choice after the other where there are several."""
        chunk, written = protocol.chunks(self.server.name), 0
        with self.asking([request.prompt] * request.n, request.room, request) as answers:
            self.begin_events()
            try:
                for i, answer in enumerate(answers):
                    reader, calls = self.server.form.reader(request.thinking), 0
                    telling = Telling(answer, self.server.form, request, self.watch)
                    self.event(chunk(i, {"role": "assistant", "content": ""}))
                    for piece in telling:
                        calls = self.pieces(chunk, i, reader.feed(piece), calls)
                    calls = self.pieces(chunk, i, reader.finish(), calls)
                    self.event(chunk(i, {}, "tool_calls" if calls else telling.finish))
                    written += telling.count
                if request.usage:
                    self.event(chunk(usage=protocol.usage_of(len(request.prompt), written)))
                self.wfile.write(b"data: [DONE]\n\n")
            except OSError:
                raise
            except Exception as error:  # the answer has begun: an error can only be one more event, and the last
                self.event(protocol.error_of(f"{type(error).__name__}: {error}", "server_error"))

    def pieces(self, chunk, i: int, reply, calls: int) -> int:
        """Sends what is new of choice i; returns how many of its calls have been sent."""
        for key, text in (("reasoning_content", reply.reasoning), ("content", reply.content)):
            if text:
                self.event(chunk(i, {key: text}))
        for call in reply.calls:
            self.event(chunk(i, {"tool_calls": [protocol.call_of(calls, call)]}))
            calls += 1
        return calls

    @contextmanager
    def asking(self, prompts: list[list[int]], room: int, request: protocol.Request) -> Iterator[list[Answer]]:
        """Answers under way, one a prompt; afterwards all are over. One that finds no room takes the others with it."""
        answers: list[Answer] = []
        try:
            for i, prompt in enumerate(prompts):
                answers.append(self.server.service.ask(prompt, room, stop=self.server.form.stop, seed=request.seed * 1000 + i,
                                                       **request.settings))
            yield answers
        finally:
            for answer in answers:
                answer.cancel()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="nano-reasoner", help="a shipped checkpoint or a run's folder (default: %(default)s)")
    parser.add_argument("--weights", metavar="DIR",
                        help="instead: a checkpoint folder of any size, paged from disk; answers in --format chat")
    add_weight_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8000, help="0 picks a free one (default: %(default)s)")
    parser.add_argument("--slots", type=int, default=None, help="answers written at a time (default: 64; 4 with --weights)")
    parser.add_argument("--size", type=int, default=1024, help="tokens of a prompt and its answer (default: %(default)s)")
    parser.add_argument("--format", choices=("tasks", "chat"), default=None,
                        help="tasks: the shipped reasoners' notation; chat: the folder's own chat template, or ChatML with think "
                             "tags (default: tasks; chat with --weights)")


def run(args: argparse.Namespace) -> int:
    """Serves until Ctrl-C. Returns 0."""
    args.slots = (4 if args.weights else 64) if args.slots is None else args.slots
    args.format = args.format or ("chat" if args.weights else "tasks")
    for name in ("slots", "size"):
        if getattr(args, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(args, name)}")
    if not args.host:  # trap: to a socket the empty name means every interface
        raise ValueError("--host must name an address, got ''; 127.0.0.1 is this machine only, 0.0.0.0 every interface")
    if not 0 <= args.port < 65536:
        raise ValueError(f"port must lie in 0..65535, got {args.port}")
    torch.set_num_threads(max(1, torch.get_num_threads()))
    if args.weights:
        args.model = Path(args.weights).resolve().name
        model, tokenizer = open_weights(args.weights, args.dtype, args.int8)
        own = template.beside(args.weights)
    else:
        model, tokenizer = zoo.open_model(args.model)
        own = None
    form = ChatFormat(tokenizer, own) if args.format == "chat" else TaskFormat(tokenizer)
    try:
        service = Service(model, tokenizer, args.slots, args.size)
    except MemoryError as error:
        raise ValueError(f"--slots {args.slots} and --size {args.size}: {error}") from None
    with Server(service, form, args.model, args.host, args.port) as server:
        print(f"{args.model} at {server.url}; caches take {service.bytes / 2**20:.0f} MiB; Ctrl-C stops", file=sys.stderr)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
    return 0

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
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch

from . import zoo
from .infer import protocol
from .infer.protocol import ChatFormat, TaskFormat, Wrong
from .infer.service import Busy, Service
from .scale.weights import add_weight_arguments, open_weights

LARGEST_BODY = 4 * 2**20  # bytes
SLOW = 60                 # seconds that a client may take to send or to read


class Server(ThreadingHTTPServer):
    """HTTP around a `Service`. `url` is what a client needs. Use it in a `with` block, or call `serve_forever`."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, service: Service, form, name: str, host: str = "127.0.0.1", port: int = 0):
        super().__init__((host, port), Handler)
        self.service, self.form, self.name = service, form, name
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self.server_port}/v1"

    def __enter__(self) -> "Server":
        self.service.start()
        threading.Thread(target=self.serve_forever, args=(0.05, ), daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self.shutdown()
        self.server_close()
        self.service.close()

    def handle_error(self, request, client_address) -> None:
        """A client that hangs up is no news; anything else is said in one line, not in a traceback."""
        error = sys.exception() if hasattr(sys, "exception") else sys.exc_info()[1]
        if not isinstance(error, OSError):
            print(f"serve: {type(error).__name__}: {error}", file=sys.stderr)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    timeout = SLOW
    server: Server

    def do_GET(self) -> None:
        if self.path in ("/health", "/v1/health"):
            self.reply(200, {"status": "ok"})
        elif self.path == "/v1/models":
            self.reply(200, {"object": "list", "data": [{"id": self.server.name, "object": "model", "owned_by": "minizaya"}]})
        else:
            self.fail(404, f"there is no {self.path}")

    def do_POST(self) -> None:
        if self.path != "/v1/chat/completions":
            self.fail(404, f"there is no {self.path}; chat is at /v1/chat/completions")
            return
        try:
            request = protocol.read_request(self.document(), self.server.form, self.server.service.engine.size)
            if request.rsa:
                self.rsa(request)
            elif request.stream:
                self.stream(request)
            else:
                self.whole(request)
        except Wrong as error:
            self.fail(400, str(error), error.param)
        except Busy as error:
            self.fail(503, str(error), kind="overloaded", retry=1)
        except (RuntimeError, ValueError) as error:
            self.fail(500, f"{type(error).__name__}: {error}", kind="server_error")

    # ---- three ways to answer ----------------------------------------------------------------------------------------

    def whole(self, request) -> None:
        """All choices at once."""
        choices, written = [], 0
        for i, answer in enumerate(self.asked(request)):
            tokens = list(answer)
            text, finish = self.cut(self.server.form.tokenizer.decode(tokens), answer.finish, request.stop)
            reply = self.server.form.read(text)
            choices.append({"index": i, "message": protocol.message_of(reply), "logprobs": None,
                            "finish_reason": "tool_calls" if reply.calls else finish})
            written += len(tokens)
        self.reply(200, protocol.completion(self.server.name, choices, protocol.usage_of(len(request.prompt), written)))

    def rsa(self, request) -> None:
        """Markovian RSA: every round's traces are decoded together with everybody else's."""
        service, form = self.server.service, self.server.form

        def ask(prompts, room):
            answers = [service.ask(prompt, room, stop=form.stop, seed=request.seed * 1000 + i, **request.settings)
                       for i, prompt in enumerate(prompts)]
            try:
                return [list(answer) for answer in answers]
            finally:
                for answer in answers:
                    answer.cancel()

        text, finish, written = protocol.answer_by_rsa(request, form, ask)
        choice = {"index": 0, "message": protocol.message_of(form.read(text)), "logprobs": None, "finish_reason": finish}
        self.reply(200, protocol.completion(self.server.name, [choice], protocol.usage_of(len(request.prompt), written)))

    def stream(self, request) -> None:
        """Server-sent events, a piece as soon as it is certain. One choice after the other where there are several."""
        answers = self.asked(request)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Connection", "close")  # the end of the stream is the end of the connection
        self.end_headers()
        self.close_connection = True
        head = {"id": protocol.new_id(), "object": "chat.completion.chunk", "created": 0, "model": self.server.name}
        written = 0
        try:
            for i, answer in enumerate(answers):
                reader, calls = self.server.form.reader(), 0
                self.event(head | {"choices": [choice(i, {"role": "assistant", "content": ""})]})
                text, shown, finish = "", 0, None
                tokens = []
                for token in answer:
                    tokens.append(token)
                    text = self.server.form.tokenizer.decode(tokens)
                    if any(stop in text for stop in request.stop):
                        finish = "stop"
                        answer.cancel()
                        break
                    # what may be the beginning of a stop text, or half a character, is not shown yet
                    sure = len(text) - held_back(text, request.stop)
                    if sure > shown:
                        calls = self.pieces(head, i, reader.feed(text[shown:sure]), calls)
                        shown = sure
                written += len(tokens)
                text, _ = self.cut(text, None, request.stop)
                calls = self.pieces(head, i, reader.feed(text[shown:]), calls)
                calls = self.pieces(head, i, reader.finish(), calls)
                finish = "tool_calls" if calls else finish or answer.finish
                self.event(head | {"choices": [choice(i, {}, finish)]})
            if request.usage:
                self.event(head | {"choices": [], "usage": protocol.usage_of(len(request.prompt), written)})
            self.wfile.write(b"data: [DONE]\n\n")
        except RuntimeError as error:  # the answer has begun: an error can only be one more event
            self.event(protocol.error_of(str(error), "server_error"))
        finally:
            for answer in answers:
                answer.cancel()

    def pieces(self, head: dict, i: int, reply, calls: int) -> int:
        """Sends what is new; returns how many calls have been sent."""
        for key, text in (("reasoning_content", reply.reasoning), ("content", reply.content)):
            if text:
                self.event(head | {"choices": [choice(i, {key: text})]})
        for call in reply.calls:
            self.event(head | {"choices": [choice(i, {"tool_calls": [protocol.call_of(calls, call)]})]})
            calls += 1
        return calls

    # ---- small parts -------------------------------------------------------------------------------------------------

    def asked(self, request) -> list:
        """The request's n answers under way. One that does not find room takes the others with it."""
        answers: list = []
        try:
            for i in range(request.n):
                answers.append(self.server.service.ask(request.prompt, request.room, stop=self.server.form.stop,
                                                       seed=request.seed * 1000 + i, **request.settings))
        except BaseException:
            for answer in answers:
                answer.cancel()
            raise
        return answers

    def cut(self, text: str, finish: str | None, stops: tuple[str, ...]) -> tuple[str, str | None]:
        """The text before the first stop text, and why it ends."""
        places = [place for stop in stops if (place := text.find(stop)) >= 0]
        return (text[: min(places)], "stop") if places else (text, finish)

    def document(self):
        """The body as JSON. Raises `Wrong`."""
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            self.close_connection = True
            raise Wrong("a Content-Length is needed") from None
        if not 0 <= length <= LARGEST_BODY:
            self.close_connection = True
            raise Wrong(f"the body may have at most {LARGEST_BODY} bytes, got {length}")
        try:
            return json.loads(self.rfile.read(length))
        except (ValueError, RecursionError) as error:
            raise Wrong(f"the body is not JSON: {error}") from None

    def event(self, document: dict) -> None:
        self.wfile.write(b"data: " + json.dumps(document).encode() + b"\n\n")
        self.wfile.flush()

    def reply(self, status: int, document: dict, retry: int | None = None) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if retry is not None:
            self.send_header("Retry-After", str(retry))
        self.end_headers()
        self.wfile.write(body)

    def fail(self, status: int, message: str, param: str | None = None, kind: str = "invalid_request_error",
             retry: int | None = None) -> None:
        self.reply(status, protocol.error_of(message, kind, param), retry)

    def log_message(self, *args) -> None:
        """Nothing: prompts and answers are the users' own."""


def choice(i: int, delta: dict, finish: str | None = None) -> dict:
    return {"index": i, "delta": delta, "logprobs": None, "finish_reason": finish}


def held_back(text: str, stops: tuple[str, ...]) -> int:
    """Characters at the end that may yet become a stop text, or half of a character that is still being written."""
    longest = 0
    for stop in stops:
        longest = max([longest, *(n for n in range(1, min(len(stop), len(text)) + 1) if stop.startswith(text[-n:]))])
    return max(longest, len(text) - len(text.rstrip("\ufffd")))


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
                        help="tasks: the shipped reasoners' notation; chat: ChatML with think tags (default: tasks; chat with "
                             "--weights)")


def run(args: argparse.Namespace) -> int:
    """Serves until Ctrl-C. Returns 0."""
    args.slots = (4 if args.weights else 64) if args.slots is None else args.slots
    args.format = args.format or ("chat" if args.weights else "tasks")
    for name in ("slots", "size"):
        if getattr(args, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(args, name)}")
    if not 0 <= args.port < 65536:
        raise ValueError(f"port must lie in 0..65535, got {args.port}")
    torch.set_num_threads(max(1, torch.get_num_threads()))
    if args.weights:
        args.model = Path(args.weights).name
        model, tokenizer = open_weights(args.weights, args.dtype, args.int8)
    else:
        model, tokenizer = zoo.open_model(args.model)
    form = (ChatFormat if args.format == "chat" else TaskFormat)(tokenizer)
    service = Service(model, tokenizer, args.slots, args.size)
    with Server(service, form, args.model, args.host, args.port) as server:
        print(f"{args.model} at {server.url}; caches take {service.bytes / 2**20:.0f} MiB; Ctrl-C stops", file=sys.stderr)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
    return 0

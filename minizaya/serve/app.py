"""Tornado's handlers: models, health, three ways to answer a chat, a raw prompt's completion. Errors are documents.

Tornado runs them in one thread, its loop. A chat is answered in a thread of its own, which may wait for the engine's
tokens; whatever that thread sends goes through the loop.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import responses

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPInputError, HTTPMessageDelegate, HTTPServerRequest
from tornado.web import Application, HTTPError, RequestHandler

from ..infer.parse import Reply
from . import protocol
from .checks import Wrong, brief
from .formats import as_it_stands, read_text
from .service import Answer, Busy
from .telling import Telling

LARGEST_BODY = 4 * 2**20  # bytes
SLOW = 30                 # seconds that a client may take: to begin a request and send its head; its body; to read


class Unread(Wrong, HTTPInputError):
    """Wrong, with a body that stays unread. Tornado hangs up, or else that body would be taken for the next request."""


def told(error: BaseException) -> tuple[int, dict]:
    """An error as a client hears of it: status and document."""
    if isinstance(error, Busy):
        return 503, protocol.error_of(str(error), "overloaded")
    if isinstance(error, HTTPError):
        error = Wrong(responses[error.status_code], status=error.status_code)
    elif isinstance(error, HTTPInputError) and not isinstance(error, Wrong):
        error = Wrong(str(error))
    if isinstance(error, Wrong):
        return error.status, protocol.error_of(str(error), "invalid_request_error", error.param)
    return 500, protocol.error_of(f"{type(error).__name__}: {error}", "server_error")


# ---- paths -----------------------------------------------------------------------------------------------------------


class Paths(Application):
    """Which handler answers what; and before a body is read, whether it will be. server: a `server.Server`."""

    def __init__(self, server: HTTPServer):
        own = {"server": server}
        paths = {"/health|/v1/health": Health, "/v1/models": Models, "/v1/models/(.*)": Models,
                 "/v1/chat/completions": Chat, "/v1/completions": Completions}
        super().__init__([(path, handler, own) for path, handler in paths.items()],
                         default_handler_class=Nowhere, default_handler_args=own,
                         log_function=lambda handler: None)  # prompts and answers are the users' own

    def find_handler(self, request: HTTPServerRequest, **kwargs) -> HTTPMessageDelegate:
        """Raises `Unread`: 411 for a body of unknown length, 413 for a long one. Tornado refuses what is no length."""
        if "Transfer-Encoding" in request.headers:
            raise Unread("a body in chunks is not supported; send a Content-Length", status=411)
        if request.method == "POST" and "Content-Length" not in request.headers:
            raise Unread("a Content-Length is needed", status=411)
        try:
            length = int(request.headers.get("Content-Length", 0))
        except ValueError:
            length = 0  # tornado has its own words for that
        if length > LARGEST_BODY:
            raise Unread(f"the body may have at most {LARGEST_BODY} bytes, got {length}", status=413)
        request.headers["Content-Type"] = "application/json"  # trap: `curl -d` says form; tornado would take it apart
        return super().find_handler(request, **kwargs)


class Handler(RequestHandler):
    """What all paths share."""

    takes = "GET"  # the one method that a path answers to

    def initialize(self, server: HTTPServer) -> None:
        self.server = server

    def prepare(self) -> None:
        if self.request.method != self.takes:
            raise Wrong(f"{brief(self.request.path)} takes {self.takes}, not {self.request.method}", status=405)

    def write_error(self, status: int, **kwargs) -> None:
        status, document = told(kwargs["exc_info"][1] if "exc_info" in kwargs else HTTPError(status))
        self.set_status(status)
        if status == 405:
            self.set_header("Allow", self.takes)
        if status == 503:
            self.set_header("Retry-After", "1")
        self.finish(document)

    def log_exception(self, *error) -> None:
        """Nothing: the client is told."""


class Nowhere(Handler):
    def prepare(self) -> None:
        raise Wrong(f"there is no {brief(self.request.path)}; chat is at /v1/chat/completions", status=404)


class Health(Handler):
    def get(self) -> None:
        self.finish({"status": "ok"})


class Models(Handler):
    def get(self, name: str | None = None) -> None:
        model = {"id": self.server.name, "object": "model", "created": self.server.born, "owned_by": "minizaya"}
        if name not in (None, self.server.name):
            raise Wrong(f"there is no model {brief(name)}", "model", 404)
        self.finish({"object": "list", "data": [model]} if name is None else model)


class Chat(Handler):
    """A chat. `post` runs in tornado's loop, `answer` and what it calls in a thread."""

    takes = "POST"

    def initialize(self, server: HTTPServer) -> None:
        super().initialize(server)
        self.loop = asyncio.get_running_loop()
        self.gone = self.loop.create_future()

    def on_connection_close(self) -> None:
        """trap: a client that has closed only its sending half counts as gone: from here the two look the same."""
        self.gone.set_result(None)

    async def post(self) -> None:
        task = asyncio.current_task()
        self.server.work.add(task)
        task.add_done_callback(self.server.work.discard)
        with suppress(ConnectionAbortedError):
            document = await asyncio.to_thread(self.answer)
            if document is not None:
                body = json.dumps(document).encode()
                self.set_header("Content-Type", "application/json")
                self.set_header("Content-Length", len(body))
                await self.send(body)

    async def send(self, data: bytes) -> None:
        """Sends, and waits until it has gone out. Raises ConnectionAbortedError where nobody reads for too long."""
        self.write(data)
        sent = self.flush()
        if not sent.done():  # trap: tornado never resolves it when the client hangs up meanwhile
            await asyncio.wait([sent, self.gone], timeout=SLOW, return_when=asyncio.FIRST_COMPLETED)
        if not sent.done():
            self.request.connection.close()
            raise ConnectionAbortedError("the client does not read")

    def watch(self) -> None:
        """Raises ConnectionAbortedError when the client has hung up. Returns at once."""
        if self.gone.done():
            raise ConnectionAbortedError("the client hung up")

    # ---- three ways to answer, each in a thread ----------------------------------------------------------------------

    def answer(self) -> dict | None:
        """Any chat. Returns the document to send, None where a stream has been sent. Raises `Wrong`, `Busy`."""
        body = protocol.document(self.request.body)
        request = protocol.read_request(body, self.server.form, self.server.service.engine.size)
        way = self.rsa if request.rsa else self.stream if request.stream else self.whole
        return way(request)

    def whole(self, request: protocol.Request) -> dict:
        """All choices at once."""
        choices, written = [], 0
        with self.asking([request.prompt] * request.n, request.room, request) as answers:
            for i, answer in enumerate(answers):
                telling = Telling(answer, self.server.form, request, self.watch)
                reply = read_text(self.server.form, "".join(telling), request.thinking, request.tools)
                choices.append(protocol.choice_of(i, reply, telling.finish))
                written += telling.count
        return protocol.completion(self.server.name, choices, protocol.usage_of(len(request.prompt), written))

    def rsa(self, request: protocol.Request) -> dict:
        """Markovian RSA: every round's traces are decoded together with everybody else's."""
        def ask(prompts: list[list[int]], room: int) -> list[list[int] | None]:
            with self.asking(prompts, room, request) as answers:
                return [self.trace(answer) for answer in answers]

        reply, finish, written = protocol.answer_by_rsa(request, self.server.form, ask)
        usage = protocol.usage_of(len(request.prompt), written)
        return protocol.completion(self.server.name, [protocol.choice_of(0, reply, finish)], usage)

    def trace(self, answer: Answer) -> list[int] | None:
        """All of an answer; None for one that broke: the others go on."""
        try:
            return list(answer.read(self.watch))
        except RuntimeError:
            return None

    def stream(self, request: protocol.Request) -> None:
        """Server-sent events, a piece as soon as it is certain. One choice after the other where there are several."""
        chunk, written = protocol.chunks(self.server.name), 0
        with self.asking([request.prompt] * request.n, request.room, request) as answers:
            self.set_header("Content-Type", "text/event-stream")
            self.set_header("Cache-Control", "no-cache")
            self.request.connection.stream.set_nodelay(True)  # trap: else pieces wait for the client's word
            try:
                for i, answer in enumerate(answers):
                    reader, calls = self.server.form.reader(request.thinking, request.tools), 0
                    telling = Telling(answer, self.server.form, request, self.watch)
                    self.event(chunk(i, {"role": "assistant", "content": ""}))
                    for piece in telling:
                        calls = self.pieces(chunk, i, reader.feed(piece), calls)
                    calls = self.pieces(chunk, i, reader.finish(), calls)
                    self.event(chunk(i, {}, protocol.reason(telling.finish, calls > 0)))
                    written += telling.count
                if request.usage:
                    self.event(chunk(usage=protocol.usage_of(len(request.prompt), written)))
                self.event("[DONE]")
            except ConnectionAbortedError:
                raise
            except Exception as error:  # the answer has begun: an error can only be one more event, and the last
                self.event(protocol.error_of(f"{type(error).__name__}: {error}", "server_error"))

    def event(self, said: dict | str) -> None:
        """One event, on its way when this returns."""
        data = said if isinstance(said, str) else json.dumps(said)
        asyncio.run_coroutine_threadsafe(self.send(f"data: {data}\n\n".encode()), self.loop).result()

    def pieces(self, chunk: Callable[..., dict], i: int, reply: Reply, calls: int) -> int:
        """Sends what is new of choice i, malformed blocks too; returns how many of its calls have been sent."""
        for key, text in (("reasoning_content", reply.reasoning), ("content", reply.content)):
            if text:
                self.event(chunk(i, {key: text}))
        for call in reply.calls:
            self.event(chunk(i, {"tool_calls": [protocol.call_of(calls, call)]}))
            calls += 1
        if reply.malformed:
            self.event(chunk(i, {"malformed_tool_calls": reply.malformed}))
        return calls

    @contextmanager
    def asking(self, prompts: list[list[int]], room: int, request: protocol.Request) -> Iterator[list[Answer]]:
        """Answers under way, one a prompt; afterwards all are over. One that finds no room takes the others with it."""
        answers: list[Answer] = []
        try:
            for i, prompt in enumerate(prompts):
                answers.append(self.server.service.ask(prompt, room, stop=self.server.form.stop,
                                                       seed=request.seed * 1000 + i, **request.settings))
            yield answers
        finally:
            for answer in answers:
                answer.cancel()


class Completions(Chat):
    """A raw prompt, and the texts that follow it."""

    def answer(self) -> dict:
        """Returns the document to send. Raises `Wrong`, `Busy`."""
        form, texts, written = as_it_stands(self.server.form), [], 0
        request = protocol.read_completion(protocol.document(self.request.body), form, self.server.service.engine.size)
        with self.asking([request.prompt] * request.n, request.room, request) as answers:
            for answer in answers:
                telling = Telling(answer, form, request, self.watch)
                texts.append(("".join(telling), telling.finish))
                written += telling.count
        return protocol.text_completion(self.server.name, texts, protocol.usage_of(len(request.prompt), written))

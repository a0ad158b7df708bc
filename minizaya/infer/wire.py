"""HTTP that speaks JSON: a request's body in, a document or a stream of events out, and every error as a document.

Connections are bounded: so many at a time, none for ever, and none is cut off in the middle of a short answer.

trap: a connection is kept for the next request. Whatever a body leaves unread would be taken for its first line, so a body
is read before anything else is decided, or the connection ends.
"""

import io
import json
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from . import protocol
from .checks import Wrong

LARGEST_BODY = 4 * 2**20  # bytes
SLOW = 60                 # seconds that a client may take to begin a request, to send all of it, and to read
LINGER = (64 * 2**20, 10)  # bytes and seconds of a refused body that are read and thrown away
FAREWELL = 1              # seconds: a server that closes waits for answers going out; a refused client may read why
MOST_CONNECTIONS = 512    # open at a time: more than the requests that a `Service` has room for
MOST_REFUSED = 32         # of those turned away, how many are kept open until they have read it


class PatientServer(ThreadingHTTPServer):
    """A thread for each connection. `most` may be open at a time; whoever comes then is told 503.

    Whoever closes it calls `say_goodbye` last: a process that ends takes along what its threads have not sent yet.
    """

    daemon_threads = True  # a connection that only waits for its next request keeps nobody
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]):
        self.calm, self.answering = threading.Condition(), 0
        self.most = min(MOST_CONNECTIONS, files_allowed() // 2)  # the rest of the process has files, too
        self.open: set[socket.socket] = set()
        self.refused: deque[tuple[socket.socket, float]] = deque()  # each with the time when it is closed
        super().__init__(address, handler)

    def get_request(self):
        try:
            return super().get_request()
        except OSError:  # trap: without a free file the client stays in line, and the loop would ask again at once
            time.sleep(0.05)
            raise

    def process_request(self, request: socket.socket, client_address) -> None:
        if len(self.open) < self.most:
            self.open.add(request)
            super().process_request(request, client_address)
        else:
            self.refuse(request)

    def shutdown_request(self, request: socket.socket) -> None:
        """The end of any connection, also of one that got no thread."""
        super().shutdown_request(request)
        self.open.discard(request)

    def refuse(self, request: socket.socket) -> None:
        """Never waits: all who want to connect stand behind this one. trap: see `linger`; so it is closed later."""
        body = json.dumps(protocol.error_of(f"{self.most} connections are open already", "overloaded"))
        head = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nRetry-After: 1\r\nConnection: close"
        self.refused.append((request, time.monotonic() + FAREWELL))
        try:
            request.setblocking(False)
            request.sendall(f"HTTP/1.1 503 Service Unavailable\r\n{head}\r\n\r\n{body}".encode())
            request.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has gone

    def service_actions(self) -> None:
        """The loop calls it after each turn."""
        while self.refused and (len(self.refused) > MOST_REFUSED or self.refused[0][1] < time.monotonic()):
            self.shutdown_request(self.refused.popleft()[0])

    def server_close(self) -> None:
        super().server_close()
        while self.refused:
            self.shutdown_request(self.refused.popleft()[0])

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Around the answer to one request."""
        with self.calm:
            self.answering += 1
        try:
            yield
        finally:
            with self.calm:
                self.answering -= 1
                self.calm.notify_all()

    def say_goodbye(self) -> None:
        """Waits until no request is being answered, for at most FAREWELL seconds."""
        with self.calm:
            self.calm.wait_for(lambda: self.answering == 0, FAREWELL)


def files_allowed() -> int:
    """How many files and connections this process may have open."""
    try:
        import resource
    except ImportError:  # Windows, where no such number is set
        return 2 * MOST_CONNECTIONS
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 2 * MOST_CONNECTIONS if allowed == resource.RLIM_INFINITY else allowed


class Deadline(io.RawIOBase):
    """What a client sends, each request in `seconds` from its first bytes on. Raises TimeoutError when they are over.

    trap: a socket's own timeout starts again with every byte, and a client that sends one now and then would stay for ever.
    """

    def __init__(self, connection: socket.socket, seconds: float):
        self.connection, self.seconds, self.until = connection, seconds, None

    def next_request(self) -> None:
        self.until = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        left = self.seconds if self.until is None else self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request took too long")
        self.connection.settimeout(left)
        try:
            count = self.connection.recv_into(buffer)
        finally:
            self.connection.settimeout(self.seconds)
        if self.until is None:
            self.until = time.monotonic() + self.seconds
        return count


class JsonHandler(BaseHTTPRequestHandler):
    """One connection. What comes in, what goes out; who answers what is a subclass's affair."""

    protocol_version, default_request_version = "HTTP/1.1", "HTTP/1.0"  # the latter: of a first line that names none
    timeout = SLOW
    unread = False  # is there a body, or a part of one, that nobody reads?

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.incoming = Deadline(self.connection, self.timeout)
        self.rfile = io.BufferedReader(self.incoming)

    def handle_one_request(self) -> None:
        self.incoming.next_request()
        super().handle_one_request()

    def body(self) -> bytes:
        """The request's body. Raises `Wrong`: 411 for one of unknown length, 413 for one that is too long."""
        lengths = set(self.headers.get_all("Content-Length", ()))
        self.unread = True
        if "Transfer-Encoding" in self.headers:
            raise Wrong("a body in chunks is not supported; send a Content-Length", status=411)
        if len(lengths) > 1:  # trap: whichever we took, the rest of the body might be run as a request of its own
            raise Wrong("there are several Content-Length headers, and they differ")
        if not lengths and self.command == "POST":
            raise Wrong("a Content-Length is needed", status=411)
        length = lengths.pop() if lengths else "0"
        if not re.fullmatch("[0-9]{1,18}", length):
            raise Wrong("Content-Length must be a number of bytes")
        if int(length) > LARGEST_BODY:
            raise Wrong(f"the body may have at most {LARGEST_BODY} bytes, got {length}", status=413)
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise Wrong(f"the body ended after {len(body)} bytes, {length} were announced")
        self.unread = False
        return body

    def watch(self) -> None:
        """Raises ConnectionAbortedError when the client has hung up. Returns at once.

        trap: a client that has closed only its sending half counts as gone: from here the two look the same.
        """
        patience = self.connection.gettimeout()
        self.connection.settimeout(0)
        try:
            gone = self.connection.recv(1, socket.MSG_PEEK) == b""  # anything else is the next request
        except BlockingIOError:
            gone = False
        finally:
            self.connection.settimeout(patience)
        if gone:
            raise ConnectionAbortedError("the client hung up")

    # ---- going out ---------------------------------------------------------------------------------------------------

    def begin_events(self) -> None:
        """The head of a stream of server-sent events. Its end is the end of the connection."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True

    def event(self, document: dict) -> None:
        self.wfile.write(b"data: " + json.dumps(document).encode() + b"\n\n")
        self.wfile.flush()

    def reply(self, status: int, document: dict, **headers: str) -> None:
        """One document, head and body in one piece. headers: further ones, an underscore for each hyphen.

        trap: the base class sends the head by itself. Where the process ends just then, a client waits for a body in vain.
        """
        body, out = json.dumps(document).encode(), self.wfile
        self.wfile = head = io.BytesIO()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            if self.unread:
                self.send_header("Connection", "close")
                self.close_connection = True
            self.end_headers()
        finally:
            self.wfile = out
        self.wfile.write(head.getvalue() + (b"" if self.command == "HEAD" else body))
        if self.unread:
            self.linger()

    def fail(self, status: int, message: str, param: str | None = None, kind: str = "invalid_request_error",
             **headers: str) -> None:
        self.reply(status, protocol.error_of(message, kind, param), **headers)

    def linger(self) -> None:
        """Reads on for a while before the connection ends.

        trap: closing a socket with unread bytes resets it, and a client that is still sending never sees our answer.
        """
        left, until = LINGER[0], time.monotonic() + LINGER[1]
        try:
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(1)
            while left > 0 and time.monotonic() < until and (got := len(self.connection.recv(2**16))):
                left -= got
        except OSError:
            pass  # it has gone, or has nothing more to say

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class finds wrong, such as a first line that is none: as a document, not as a page."""
        self.unread = True
        self.fail(code, message or self.responses[code][0])

    def log_message(self, *args) -> None:
        """Nothing: prompts and answers are the users' own."""

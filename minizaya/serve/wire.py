"""HTTP that speaks JSON: a request's body in, a document or a stream of events out, and every error as a document.

trap: a connection is kept for the next request. Whatever a body leaves unread would be taken for its first line, so a body
is read before anything else is decided, or the connection ends.
"""

import io
import json
import re
import socket
import time
from http.server import BaseHTTPRequestHandler

from . import protocol
from .checks import Wrong
from .connections import SLOW, Deadline

LARGEST_BODY = 4 * 2**20   # bytes
LINGER = (64 * 2**20, 10)  # bytes and seconds of a refused body that are read and thrown away


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

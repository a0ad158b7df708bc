"""Connections, bounded: so many at a time, none for ever, and none is cut off in the middle of a short answer."""

import io
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from . import protocol

SLOW = 60               # seconds that a client may take to begin a request, to send all of it, and to read
FAREWELL = 1            # seconds: a server that closes waits for answers going out; a refused client may read why
MOST_CONNECTIONS = 512  # open at a time: more than the requests that a `Service` has room for
MOST_REFUSED = 32       # of those turned away, how many are kept open until they have read it


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
        """Never waits: all who want to connect stand behind this one. trap: see `wire`'s `linger`; so it is closed later."""
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

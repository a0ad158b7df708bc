"""The server: tornado's HTTP around a `Service`. Tornado reads requests, keeps connections, and ends the slow ones.

It has no limit to their number, says 400 without a document, and cuts off whoever is still sending. So we hook in at
one place, `Server.handle_stream`: it looks how many there are, and has `turn_away` say what tornado would to a request
that it cannot read.
"""

import asyncio
import json
import socket
import sys
import threading
import time
from collections.abc import Awaitable
from concurrent.futures import Future, ThreadPoolExecutor
from http.client import responses

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPInputError
from tornado.iostream import IOStream

from . import app
from .formats import ChatFormat, TaskFormat
from .service import Busy, Service

LINGER = (64 * 2**20, 10)  # bytes and seconds of a refused body that are read and thrown away
FAREWELL = 1               # seconds: a server that closes waits for answers going out; a refused client may read why
MOST_CONNECTIONS = 512     # open at a time: more than the requests that a `Service` has room for
MOST_REFUSED = 32          # of those turned away, how many are kept open until they have read it


class Server(HTTPServer):
    """HTTP around a `Service`. `url` is what a client needs. Use it in a `with` block, which runs both.

    host: an address or a name; one with a colon is IPv6's. port: 0 for a free one.
    Raises OSError, naming both, when it cannot listen there.
    """

    def initialize(self, service: Service, form: ChatFormat | TaskFormat, name: str, host: str = "127.0.0.1",
                   port: int = 0) -> None:
        """trap: tornado makes its servers by this, and not by __init__."""
        super().initialize(app.Paths(self), max_body_size=app.LARGEST_BODY, idle_connection_timeout=app.SLOW,
                           body_timeout=app.SLOW)
        self.service, self.form, self.name, self.born = service, form, name, int(time.time())
        self.most = min(MOST_CONNECTIONS, files_allowed() // 2)  # the rest of the process has files, too
        self.refused: set[IOStream] = set()
        self.work: set[asyncio.Task] = set()  # chats being answered
        self.leave: Future = Future()
        try:
            if ":" in host:
                self.socket = socket.create_server((host, port), family=socket.AF_INET6, backlog=256,
                                                   dualstack_ipv6=socket.has_dualstack_ipv6())
            else:
                self.socket = socket.create_server((host, port), backlog=256)
        except OSError as error:
            why = (error.strerror or str(error)).partition(" (")[0]
            raise OSError(f"cannot listen on host {host}, port {port}: {why}") from None
        self.socket.setblocking(False)
        self.server_port = self.socket.getsockname()[1]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}/v1"

    def __enter__(self) -> "Server":
        self.service.start()
        self.thread = threading.Thread(target=asyncio.run, args=(self.serve(), ))
        self.thread.start()
        return self

    def __exit__(self, *error) -> None:
        self.service.close()  # whoever is waiting for an answer is told
        self.leave.set_result(None)
        self.thread.join()

    async def serve(self) -> None:
        """Until `leave` is set. trap: no thread may outlive it; freeing a tensor while Python ends is a crash."""
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(self.most))
        self.add_socket(self.socket)
        await asyncio.wrap_future(self.leave)
        self.stop()
        if self.work:
            await asyncio.wait(self.work, timeout=FAREWELL)
        await self.close_all_connections()
        await asyncio.gather(*self.work, return_exceptions=True)

    # ---- connections -------------------------------------------------------------------------------------------------

    def handle_stream(self, stream: IOStream, address: tuple) -> Awaitable[None] | None:
        """A new connection. Beyond `most` it is told 503."""
        if len(self._connections) >= self.most:
            patience = FAREWELL if len(self.refused) < MOST_REFUSED else 0
            return self.turn_away(stream, Busy(f"{self.most} connections are open already"), patience)
        write = stream.write

        def write_or_turn_away(data: bytes) -> Awaitable[None]:
            error = sys.exc_info()[1]  # tornado's own words on an error: a status line, and no document
            return self.turn_away(stream, error, LINGER[1]) if isinstance(error, HTTPInputError) else write(data)

        stream.write = write_or_turn_away
        return super().handle_stream(stream, address)

    async def turn_away(self, stream: IOStream, error: Exception, seconds: float) -> None:
        """The end of a connection, with a document that says why.

        trap: closing a socket with unread bytes resets it, and a client that is still sending never sees our answer.
        """
        status, document = app.told(error)
        body, left = json.dumps(document), LINGER[0]
        retry = "Retry-After: 1\r\n" * (status == 503)
        head = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n{retry}Connection: close"
        self.refused.add(stream)
        try:
            async with asyncio.timeout(seconds):
                await IOStream.write(stream, f"HTTP/1.1 {status} {responses[status]}\r\n{head}\r\n\r\n{body}".encode())
                stream.socket.shutdown(socket.SHUT_WR)
                while left > 0:
                    left -= len(await stream.read_bytes(2**16, partial=True))
        except OSError:
            pass  # it has gone, or has nothing more to say
        finally:
            stream.close()
            self.refused.discard(stream)


def files_allowed() -> int:
    """How many files and connections this process may have open."""
    try:
        import resource
    except ImportError:  # Windows, where no such number is set
        return 2 * MOST_CONNECTIONS
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 2 * MOST_CONNECTIONS if allowed == resource.RLIM_INFINITY else allowed

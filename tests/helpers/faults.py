"""A proxy in front of an HTTP server that injects faults, for object storage that misbehaves."""

import http.client
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar


class Fault(Enum):
    """What happens to a request."""

    RESET = auto()
    """The connection is reset before the server sees the request."""
    LOST = auto()
    """The server handles the request, and the connection is reset before the reply."""
    CUT = auto()
    """The connection ends in the middle of the reply."""
    STALL = auto()
    """The reply stops in the middle, and the connection stays open."""
    ERROR = auto()
    """The server handles the request, but the reply is an internal error."""
    FLIP = auto()
    """One bit in the middle of the reply is wrong."""


Choose = Callable[[str, str], Fault | None]
"""Receives method and path of a request."""


@contextmanager
def faulty_proxy(server: str, choose: Choose) -> Iterator[str]:
    """Run the proxy, which yields its URL.

    Args:
        server: URL of the server behind it.
        choose: Chooses what happens to a request; it is called from several threads.
    """
    ended = threading.Event()

    class Handler(_Handler):
        backend, choose_fault, released = server.removeprefix("http://"), staticmethod(choose), ended

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    proxy.daemon_threads = True
    threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{proxy.server_address[1]}"
    finally:
        ended.set()
        proxy.shutdown()
        proxy.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    backend: ClassVar[str]
    choose_fault: ClassVar[Choose]
    released: ClassVar[threading.Event]

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if self.raw_requestline and self.parse_request():
            self._handle()
        self.close_connection = True

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.choose_fault(self.command, self.path)
        if fault is Fault.RESET:
            return self._reset()
        connection = http.client.HTTPConnection(self.backend)
        connection.request(self.command, self.path, body, dict(self.headers))
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        if fault is Fault.LOST:
            return self._reset()
        status = 500 if fault is Fault.ERROR else reply.status
        middle = len(content) // 2
        if fault is Fault.FLIP and content:
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        length = reply.getheader("Content-Length", "0") if self.command == "HEAD" else len(content)
        own = ("Connection", "Transfer-Encoding", "Content-Length")
        headers = [f"{name}: {value}" for name, value in reply.getheaders() if name not in own]
        lines = [f"HTTP/1.1 {status} {reply.reason}", *headers, f"Content-Length: {length}", "Connection: close"]
        head = "\r\n".join([*lines, "", ""]).encode()
        message = head + content
        if fault in (Fault.CUT, Fault.STALL):
            message = message[: len(head) + middle if content else len(head) // 2]
        self.wfile.write(message)
        if fault is Fault.STALL:
            self.released.wait()

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for stream in (self.rfile, self.wfile, self.connection):
            stream.close()

    def log_message(self, *arguments: object) -> None:
        """Stay silent."""

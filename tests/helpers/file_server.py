"""A server of a folder: plain HTTP with or without ranges, and the listing of Google's cloud storage."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse
from xml.sax.saxutils import escape


@contextmanager
def served(folder: Path, *, ranges: bool = True) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder; yields the URL, and the list of requests: method, path and range."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or each reply waits 40 ms for the client to acknowledge its header

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            parts = urlparse(self.path)
            requests.append(f"{self.command} {parts.path} {self.headers.get('Range', '')}".strip())
            query = parse_qs(parts.query)
            if "list-type" in query:
                return self._answer(200, _listing(folder / parts.path.strip("/"), query["prefix"][0]).encode(), {})
            path = folder / unquote(parts.path).strip("/")
            if not path.is_file():
                return self._answer(404, b"", {})
            status = path.stat()
            headers = {"Last-Modified": formatdate(status.st_mtime, usegmt=True), "ETag": f'"{status.st_mtime_ns}"'}
            span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if span is None or not ranges:
                return self._answer(200, path.read_bytes(), headers)
            first, last = int(span[1]), min(int(span[2]), status.st_size - 1)
            with path.open("rb") as file:
                content = os.pread(file.fileno(), last - first + 1, first)
            headers["Content-Range"] = f"bytes {first}-{last}/{status.st_size}"
            return self._answer(206, content, headers)

        def _answer(self, code: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(code)
            for name, value in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            """Stay silent."""

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:
                self.close_connection = True  # the client did not want the rest

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", requests
    finally:
        server.shutdown()
        server.server_close()


def _listing(bucket: Path, prefix: str) -> str:
    """The files directly below a prefix, as Google's XML API lists them."""
    rows = [
        f"<Contents><Key>{escape(f'{prefix}{path.name}')}</Key><Size>{path.stat().st_size}</Size>"
        f'<LastModified>2025-03-05T00:00:00.000Z</LastModified><ETag>"{path.stat().st_mtime_ns}"</ETag></Contents>'
        for path in sorted((bucket / prefix).iterdir())
        if path.is_file()
    ]
    return f"<?xml version='1.0'?><ListBucketResult><Name>b</Name>{''.join(rows)}</ListBucketResult>"

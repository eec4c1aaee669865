"""An S3 service on a folder that answers each request after a fixed time and counts them, in a process of its own."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse
from xml.sax.saxutils import escape, unescape

ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}


@dataclass(frozen=True)
class ObjectStore:
    """A running service."""

    url: str
    """URL of its bucket."""
    environment: dict[str, str]
    """Variables of processes that use it."""
    counter: Any

    @property
    def requests(self) -> int:
        """Requests so far."""
        return int(self.counter.value)


@contextmanager
def object_store(folder: Path, latency_s: float) -> Iterator[ObjectStore]:
    """Run a service, for this process and those that it starts.

    Args:
        folder: Where its files lie.
        latency_s: Seconds from a request to its answer, in addition to what the work takes.

    Yields:
        The service.
    """
    (folder / "bucket").mkdir(parents=True)
    context = multiprocessing.get_context("spawn")
    counter, (ours, theirs) = context.Value("q", 0), context.Pipe()
    process = context.Process(target=_serve, args=(folder, latency_s, counter, theirs), daemon=True)
    process.start()
    environment = {**ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ours.recv()}"}
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield ObjectStore("s3://bucket", environment, counter)
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        process.terminate()
        process.join()


def _serve(folder: Path, latency_s: float, counter: Any, started: Connection) -> None:
    class Handler(_Handler):
        root, latency, requests, uploads = folder, latency_s, counter, {}

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    started.send(server.server_address[1])
    server.serve_forever()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one packet
    root: Path
    latency: float
    requests: Any
    uploads: dict[str, dict[int, bytes]]

    def _begin(self) -> tuple[Path, dict[str, list[str]], bytes]:
        with self.requests.get_lock():
            self.requests.value += 1
        time.sleep(self.latency)
        parts = urlparse(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return self.root / unquote(parts.path).strip("/"), parse_qs(parts.query, keep_blank_values=True), body

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, query, _ = self._begin()
        if "list-type" in query:
            prefix = query.get("prefix", [""])[0]
            return self._answer(200, _listing(path, prefix, "delimiter" in query))
        if not path.is_file():
            return self._answer(404)
        status = path.stat()
        headers = {"Last-Modified": formatdate(status.st_mtime, usegmt=True), "ETag": _tag(path)}
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if span is None:
            return self._answer(200, path.read_bytes(), headers)
        first, last = int(span[1]), min(int(span[2]), status.st_size - 1)
        with path.open("rb") as file:
            content = os.pread(file.fileno(), last - first + 1, first)
        self._answer(206, content, headers | {"Content-Range": f"bytes {first}-{last}/{status.st_size}"})

    def do_PUT(self) -> None:
        path, query, body = self._begin()
        if "uploadId" in query:
            self.uploads[query["uploadId"][0]][int(query["partNumber"][0])] = body
            return self._answer(200, headers={"ETag": f'"{hashlib.md5(body).hexdigest()}"'})
        refused = self.headers.get("If-None-Match") == "*" and path.exists()
        replaced = self.headers.get("If-Match")
        if refused or (replaced is not None and (not path.exists() or replaced != _tag(path))):
            return self._answer(412)
        _write(path, body)
        self._answer(200, headers={"ETag": _tag(path)})

    def do_POST(self) -> None:
        path, query, body = self._begin()
        if "delete" in query:
            keys = re.findall("<Key>(.*?)</Key>", body.decode())
            for key in keys:
                (path / unescape(key)).unlink(missing_ok=True)
            removed = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
            return self._answer(200, _element("DeleteResult", removed))
        if "uploads" in query:
            upload = os.urandom(8).hex()
            self.uploads[upload] = {}
            return self._answer(200, _element("InitiateMultipartUploadResult", f"<UploadId>{upload}</UploadId>"))
        parts = self.uploads.pop(query["uploadId"][0])
        _write(path, b"".join(part for _, part in sorted(parts.items())))
        self._answer(200, _element("CompleteMultipartUploadResult", f"<ETag>{escape(_tag(path))}</ETag>"))

    def _answer(self, code: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Stay silent."""


def _tag(path: Path) -> str:
    return f'"{path.stat().st_mtime_ns}"'


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.parent / f".{os.urandom(8).hex()}"
    staged.write_bytes(content)
    staged.rename(path)


def _listing(bucket: Path, prefix: str, direct: bool) -> bytes:
    folder = bucket / prefix
    paths = [path for path in (folder.glob("*") if direct else folder.rglob("*")) if path.is_file()]
    rows = [
        f"<Contents><Key>{escape(path.relative_to(bucket).as_posix())}</Key><Size>{path.stat().st_size}</Size>"
        f"<LastModified>2025-03-05T00:00:00.000Z</LastModified><ETag>{escape(_tag(path))}</ETag></Contents>"
        for path in sorted(paths)
    ]
    return _element("ListBucketResult", "<Name>bucket</Name>" + "".join(rows))


def _element(name: str, content: str) -> bytes:
    return f"<{name}>{content}</{name}>".encode()

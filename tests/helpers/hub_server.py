"""A server that speaks as much of the hub's protocol as downloads, pinned revisions and commits of files need."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse

import pytest

LARGE = (".safetensors", ".png")
"""Endings of files that are uploaded as large files, of which a commit states only the checksum."""


@dataclass
class Hub:
    """The repositories of a server, and what it was asked."""

    url: str = ""
    requests: list[str] = field(default_factory=list)
    """Method and path of each request."""
    commits: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    """Files by repository and commit."""
    branches: dict[str, dict[str, str]] = field(default_factory=dict)
    """Commits by repository and branch."""
    private: dict[str, bool] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    """Uploaded large files by checksum."""

    def create(self, name: str, *, private: bool = False) -> None:
        self.commits[name], self.branches[name], self.private[name] = {}, {}, private
        self.commit(name, "main", {".gitattributes": b""})

    def commit(self, name: str, branch: str, changes: dict[str, bytes]) -> str:
        before = self.commits[name].get(self.branches[name].get(branch, ""), {})
        oid = hashlib.sha1(f"{name} {branch} {len(self.commits[name])}".encode()).hexdigest()
        self.commits[name][oid] = before | changes
        self.branches[name][branch] = oid
        return oid

    def resolve(self, name: str, revision: str) -> str | None:
        oid = self.branches.get(name, {}).get(revision, revision)
        return oid if oid in self.commits.get(name, {}) else None


@contextmanager
def served_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serve a hub, and lead this process to it."""
    from huggingface_hub import constants

    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or each reply waits 40 ms for the client to acknowledge its header

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self._path()
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
                oid = self._commit(match[1], match[2] or "main")
                if oid is not None:
                    self._answer(200, {"id": match[1], "sha": oid, "private": hub.private[match[1]], "tags": []})
            elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                oid = self._commit(match[1], match[2])
                if oid is None:
                    return
                content = hub.commits[match[1]][oid].get(match[3])
                if content is None:
                    self._answer(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": oid})
                else:
                    etag = f'"{hashlib.sha256(content).hexdigest()}"'
                    self._answer(200, content, {"X-Repo-Commit": oid, "ETag": etag})
            else:
                self._answer(404, {"error": f"no such path {path}"})

        def do_POST(self) -> None:
            path, body = self._path(), self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}"
                hub.create(name, private=asked.get("visibility") == "private" or bool(asked.get("private")))
                self._answer(200, {"url": f"{hub.url}/{name}", "id": name})
            elif path == "/api/validate-yaml":
                text = json.loads(body)["content"]
                assert text.startswith("---\n")
                self._answer(200, {"errors": [], "warnings": []})
            elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/branch/(.+)", path):
                hub.branches[match[1]].setdefault(match[2], hub.branches[match[1]]["main"])
                self._answer(200, {})
            elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/(.+)", path):
                modes = [
                    {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(LARGE) else "regular"}
                    for f in json.loads(body)["files"]
                ]
                self._answer(200, {"files": [mode | {"shouldIgnore": False} for mode in modes]})
            elif path.endswith(".git/info/lfs/objects/batch"):
                objects = [
                    {**item, "actions": {"upload": {"href": f"{hub.url}/large/{item['oid']}", "header": {}}}}
                    for item in json.loads(body)["objects"]
                ]
                self._answer(200, {"transfer": "basic", "objects": objects})
            elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", path):
                lines = [json.loads(line) for line in body.splitlines()]
                small = {v["path"]: base64.b64decode(v["content"]) for v in _values(lines, "file")}
                large = {v["path"]: hub.large[v["oid"]] for v in _values(lines, "lfsFile")}
                oid = hub.commit(match[1], match[2], small | large)
                self._answer(200, {"commitUrl": f"{hub.url}/{match[1]}/commit/{oid}", "commitOid": oid})
            else:
                self._answer(404, {"error": f"no such path {path}"})

        def do_PUT(self) -> None:
            path, body = self._path(), self.rfile.read(int(self.headers["Content-Length"]))
            oid = path.rpartition("/")[2]
            assert hashlib.sha256(body).hexdigest() == oid
            hub.large[oid] = body
            self._answer(200, {})

        def _path(self) -> str:
            path = unquote(urlparse(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            return path

        def _commit(self, name: str, revision: str) -> str | None:
            """The commit of a revision; None, and an answer, if there is none."""
            oid = hub.resolve(name, revision)
            if name not in hub.commits:
                self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            elif oid is None:
                self._answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
            return oid

        def _answer(self, code: int, content: Any, headers: dict[str, str] | None = None) -> None:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(code)
            for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _values(lines: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    return [line["value"] for line in lines if line["key"] == key]

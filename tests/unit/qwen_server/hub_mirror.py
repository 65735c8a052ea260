"""A mirror of the Hugging Face Hub on loopback, with one repository and the faults of a network."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REPOSITORY = "Qwen/Tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = bytes(range(256)) * 4096
"""1 MiB."""

FILES = {
    "config.json": b'{"model_type": "qwen3"}',
    "tokenizer.json": b"{}",
    "model-00001-of-00002.safetensors": WEIGHTS,
    "model-00002-of-00002.safetensors": WEIGHTS[::-1],
    "pytorch_model.bin": b"the same weights again",
    "original/consolidated.safetensors": b"and again",
}
LARGE = (".safetensors", ".bin")


@dataclass
class Refusal:
    """An answer instead of the real one, for requests whose path contains `part`."""

    part: str
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1_000_000


@dataclass
class Mirror:
    """The mirror's address, its faults and what it was asked for.

    Attributes:
        cut_after: so many bytes of the next answer with weights are sent, then the connection ends.
        damaged: how many answers with weights have a wrong byte.
        chunk_seconds: a pause after each 64 KiB.
        files: the content of the repository.
        token: if it is set, requests without it are denied as the Hub does it.
        requests: method, path and range of all requests.
    """

    url: str = ""
    cut_after: int | None = None
    damaged: int = 0
    chunk_seconds: float = 0.0
    token: str = ""
    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    refusals: list[Refusal] = field(default_factory=list)
    requests: list[tuple[str, str, str]] = field(default_factory=list)

    def refuse(self, part: str, status: int, times: int = 1_000_000, **headers: str) -> None:
        """Refuses requests from now on, so many times."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self.refusals.append(Refusal(part, status, names, times))

    def refusal(self, path: str) -> Refusal | None:
        """The refusal of a request, if there is one."""
        for refusal in self.refusals:
            if refusal.part in path and refusal.times > 0:
                refusal.times -= 1
                return refusal
        return None

    def ranges(self) -> list[str]:
        """The ranges that were asked for."""
        return [asked for method, _, asked in self.requests if method == "GET" and asked]

    def downloads(self) -> list[str]:
        """The names of the files that were downloaded, once for each request."""
        pattern = re.compile(r"/resolve/[^/]+/(.+)")
        return [found[1] for method, path, _ in self.requests if method == "GET" and (found := pattern.search(path))]


def _listing(files: dict[str, bytes]) -> list[dict[str, Any]]:
    entries = []
    for path, content in files.items():
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": _etag("x", content)}
        if path.endswith(LARGE):
            entry["lfs"] = {"oid": _etag(path, content), "size": len(content), "pointerSize": 130}
        entries.append(entry)
    return entries


def _etag(path: str, content: bytes) -> str:
    if path.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    mirror: Mirror
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = self.path.split("?")[0]
        self.mirror.requests.append((self.command, path, self.headers.get("Range", "")))
        if (refusal := self.mirror.refusal(path)) is not None:
            self._send(refusal.status, b"{}", refusal.headers)
        elif self.mirror.token and self.headers.get("Authorization") != f"Bearer {self.mirror.token}":
            self._send(401, b"{}", {"X-Error-Message": "Invalid username or password."})
        elif path == f"/api/models/{REPOSITORY}/revision/main":
            self._send(200, json.dumps({"id": REPOSITORY, "sha": COMMIT}).encode(), {})
        elif path == f"/api/models/{REPOSITORY}/tree/{COMMIT}":
            self._send(200, json.dumps(_listing(self.mirror.files)).encode(), {})
        elif path.startswith(f"/{REPOSITORY}/resolve/{COMMIT}/"):
            self._file(path.split(f"/{COMMIT}/")[1])
        elif path.startswith(f"/api/models/{REPOSITORY}/revision/"):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _file(self, name: str) -> None:
        content = self.mirror.files[name]
        headers = {"ETag": f'"{_etag(name, content)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        start = int((self.headers.get("Range") or "bytes=0-")[len("bytes=") :].split("-")[0])
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if self.command == "GET" and name.endswith(LARGE) and self.mirror.damaged:
            self.mirror.damaged -= 1
            content = content[:-1] + b"!"
        self._send(206 if start else 200, content[start:], headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.mirror.cut_after is not None and len(body) > self.mirror.cut_after:
            body, self.mirror.cut_after = body[: self.mirror.cut_after], None
            self.close_connection = True
        for begin in range(0, len(body), 65536):
            self.wfile.write(body[begin : begin + 65536])
            time.sleep(self.mirror.chunk_seconds)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        pass


@contextmanager
def serve_mirror(host: str = "127.0.0.1", port: int = 0) -> Iterator[Mirror]:
    """A running mirror."""
    mirror = Mirror()

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that was killed is no error."""

    server = Server((host, port), type("Handler", (_Handler,), {"mirror": mirror}))
    mirror.url = f"http://{host}:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield mirror
    finally:
        server.shutdown()
        server.server_close()

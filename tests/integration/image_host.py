"""A host that images are fetched from, on loopback."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class ImageHost:
    """Answers each path with a status, headers and a body. `asked` counts the requests by path."""

    def __init__(self, port: int, answers: dict[str, tuple[int, Mapping[str, str], bytes]]) -> None:
        self.port = port
        self.answers = answers
        self.asked: Counter[str] = Counter()

    def url(self, path: str, host: str = "localhost") -> str:
        """The URL of a path; `host` is one of the names of this machine."""
        return f"http://{host}:{self.port}{path}"


@contextlib.contextmanager
def image_host() -> Iterator[ImageHost]:
    """A host without any path yet; it ends with the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host.asked[self.path] += 1
            status, headers, body = host.answers[self.path]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            with contextlib.suppress(ConnectionError):  # who reads no further has seen enough
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Tests read the log of the server, not of this one."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        host = ImageHost(server.server_address[1], {})
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield host
        finally:
            server.shutdown()
            thread.join()

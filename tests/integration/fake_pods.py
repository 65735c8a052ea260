"""The HTTP servers of pods that nobody runs: what the operator polls."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


@dataclass
class FakePodServer:
    """The answers of one pod. A hung engine still answers metrics, with an alert."""

    alerts: list[str] = field(default_factory=list)
    generates: bool = True
    silent: bool = False
    garbled: bool = False
    busy: int = 0
    uptime: float = 100.0
    progress: dict[str, Any] | None = None
    asked: dict[str, int] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    """What its alerts say beside their name."""
    more: dict[str, Any] = field(default_factory=dict)
    """Further fields of its metrics."""

    def answer(self, where: str) -> tuple[int, bytes]:
        """The status and body for a path."""
        self.asked[where] = self.asked.get(where, 0) + 1
        if self.silent:
            return 500, b"oops"
        if where == "/progress":
            return (404, b"") if self.progress is None else (200, json.dumps(self.progress).encode())
        if self.garbled and where == "/api/v1/metrics":
            return 200, b"oops"
        if where == "/health/generate":
            return (200 if self.generates else 503), b"{}"
        self.uptime += 0.1
        body = {
            "status": "unhealthy" if self.alerts else "healthy",
            "uptime": {"seconds": self.uptime, "human": ""},
            "requests": {"running": self.busy, "waiting": 0},
            "alerts": [{"name": name, "severity": "critical", **self.details} for name in self.alerts],
            **self.more,
        }
        return 200, json.dumps(body).encode()


class FakePodServers:
    """The HTTP servers of all pods on one port; the first part of the path is the pod's address."""

    def __init__(self) -> None:
        self.by_ip: dict[str, FakePodServer] = {}
        servers = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                _, ip, rest = self.path.split("/", 2)
                server = servers.by_ip.get(ip)
                status, body = (404, b"") if server is None else server.answer(f"/{rest}")
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
                """Logs nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def url_of(self, ip: str) -> str:
        """The base URL for a pod's address."""
        return f"http://127.0.0.1:{self._server.server_port}/{ip}"

    def add(self, ip: str, **behaviour: Any) -> FakePodServer:
        """Adds the server of a pod."""
        server = self.by_ip[ip] = FakePodServer(**behaviour)
        return server

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

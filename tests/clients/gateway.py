"""A gateway between a coding agent and the server: it keeps what both say.

The test model cannot call tools by itself. The gateway adds a grammar to the requests of a test's
choice, so that the model writes what a capable one would. Anthropic's API has no such field.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

_HOP = frozenset({"connection", "content-length", "host", "transfer-encoding"})
_SECONDS = 240


@dataclass(frozen=True)
class Exchange:
    """A request as the agent sent it, and the answer."""

    path: str
    body: Any
    status: int
    answer: str


class Gateway(ThreadingHTTPServer):
    """Forwards requests to `server`, the base URL of the server."""

    daemon_threads = True

    def __init__(self, server: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.exchanges: list[Exchange] = []
        self.client = httpx.Client(base_url=server, timeout=_SECONDS, trust_env=False)
        self._calls: list[tuple[str, dict[str, Any]]] = []
        self._lock = threading.Lock()

    def calls(self, name: str, **arguments: Any) -> None:
        """Lets the next request with tools be answered by this call, after the calls before it."""
        self._calls.append((name, arguments))

    def forwarded(self, body: Any) -> Any:
        """The request body that the server gets."""
        with self._lock:
            if not self._calls or not isinstance(body, dict) or not body.get("tools"):
                return body
            name, arguments = self._calls.pop(0)
        return _writing(body, name, arguments)

    def answers_of(self, path: str) -> list[Exchange]:
        """The exchanges of a path. Fails if one of them was refused."""
        found = [exchange for exchange in self.exchanges if exchange.path.partition("?")[0] == path]
        assert {exchange.status for exchange in found} == {200}, self.exchanges
        return found


def _writing(body: dict[str, Any], name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The body with a grammar that allows one call only."""
    call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return body | {"structured_outputs": {"choice": [f"<tool_call>\n{call}\n</tool_call>"]}}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Gateway

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """The exchanges say more than the lines of the base class."""

    def _forward(self) -> None:
        sent = self.rfile.read(int(self.headers.get("content-length") or 0))
        body = json.loads(sent) if sent else None
        content = json.dumps(self.server.forwarded(body)).encode() if sent else b""
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        headers["accept-encoding"] = "identity"
        with self.server.client.stream(self.command, self.path, content=content, headers=headers) as response:
            self.send_response(response.status_code)
            for name, value in response.headers.items():
                if name not in _HOP:
                    self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            answer = self._relay(response)
        self.server.exchanges.append(Exchange(self.path, body, response.status_code, answer))

    def _relay(self, response: httpx.Response) -> str:
        chunks = []
        for chunk in response.iter_raw():
            chunks.append(chunk)
            self.wfile.write(chunk)
            self.wfile.flush()
        self.close_connection = True
        return b"".join(chunks).decode()

    do_GET = do_HEAD = do_POST = _forward  # noqa: N815


@contextmanager
def running(server: str) -> Iterator[Gateway]:
    """A gateway in threads of its own; it ends with the block."""
    with Gateway(server) as gateway, gateway.client:
        thread = threading.Thread(target=gateway.serve_forever, daemon=True)
        thread.start()
        yield gateway
        gateway.shutdown()
        thread.join()

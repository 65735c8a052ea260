"""The streams of the end-to-end tests say what became of each, whatever the server does."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.e2e.long_streams import follow

USAGE = 'data: {"choices": [], "usage": {"completion_tokens": 2}}\n\n'
TEXT = 'data: {"choices": [{"text": "字"}]}\n\n'
PAUSE_SECONDS = 0.3


class Handler(BaseHTTPRequestHandler):
    """Answers with the parts of the server's `script`, and pauses at each number of seconds.

    A pause begins when the client has read that the stream has begun.
    """

    def do_POST(self) -> None:
        """Reads the request and plays the script."""
        self.server.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))  # type: ignore[attr-defined]
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.end_headers()
        for part in self.server.script:  # type: ignore[attr-defined]
            if isinstance(part, float):
                self.server.begun.wait(10)  # type: ignore[attr-defined]
                time.sleep(part)
            else:
                self.wfile.write(part.encode())
                self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


@pytest.fixture
def server() -> Iterator[Any]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def lines(server: Any, *script: str | float, status: int = 200) -> list[dict[str, Any]]:
    """The lines about a stream that the server answers with these parts."""
    server.script, server.status, server.begun = script, status, threading.Event()
    found: list[dict[str, Any]] = []

    def report(line: dict[str, Any]) -> None:
        found.append(line)
        server.begun.set()

    follow(f"http://127.0.0.1:{server.server_port}", 3, 2, report)
    return found


def test_a_stream_has_begun_ended_and_paused(server: Any) -> None:
    begun, end = lines(server, TEXT, TEXT, ": wait\n\n", PAUSE_SECONDS, USAGE, "data: [DONE]\n\n")
    assert begun == {"stream": 3, "begun": True}
    assert PAUSE_SECONDS <= end.pop("pause") < 10
    assert end == {"stream": 3, "done": True, "tokens": 2, "error": ""}
    assert server.body["max_tokens"] == 2


def test_a_stream_that_ends_early_was_not_done(server: Any) -> None:
    error = {"code": "engine_restarted"}
    assert lines(server, TEXT)[-1]["done"] is False
    assert lines(server, TEXT, f"data: {json.dumps({'error': error})}\n\n")[-1]["error"] == error


def test_a_refusal_is_the_error(server: Any) -> None:
    [end] = lines(server, "too many", status=503)
    assert (end["error"], end["done"]) == ("too many", False)

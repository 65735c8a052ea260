"""The load of the end-to-end tests counts every request that was due, whatever the server does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import pytest

from tests.cluster.processes import wait_until
from tests.e2e.keep_alive_load import Client, run

STALL_SECONDS = 1.0


class Handler(BaseHTTPRequestHandler):
    """Answers at once, but stalls while the server's `stalled` is set."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Reads the request and answers it."""
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.stalled.is_set():  # type: ignore[attr-defined]
            time.sleep(STALL_SECONDS)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
        if self.server.closes:  # type: ignore[attr-defined]
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


class Server(ThreadingHTTPServer):
    """A server whose clients may have to wait, or lose their connections without a word."""

    daemon_threads = True
    request_queue_size = 128
    closes = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.stalled = threading.Event()
        self.connections = 0
        self.ended = 0

    def process_request(self, request: Any, client_address: Any) -> None:
        """Counts connections."""
        self.connections += 1
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Counts the ends of connections."""
        super().shutdown_request(request)
        self.ended += 1


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def client_of(server: Server, timeout: float = 10.0) -> Client:
    return Client(f"http://127.0.0.1:{server.server_port}", timeout=timeout, pod_of=lambda _: "a")


def sent(server: Server, rate: float, seconds: float, timeout: float = 10.0) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    run(client_of(server, timeout), rate, seconds, threading.Event(), found.append)
    return sorted(found, key=lambda line: line["start"])


def test_requests_are_due_however_long_others_wait(server: Server) -> None:
    server.stalled.set()
    threading.Timer(STALL_SECONDS, server.stalled.clear).start()
    found = sent(server, rate=20, seconds=2)
    assert [(line["status"], line["error"]) for line in found] == [(200, "")] * 40
    pauses = [after["start"] - before["start"] for before, after in pairwise(found)]
    assert pauses == pytest.approx([0.05] * 39, abs=0.001)
    assert max(line["end"] - line["start"] for line in found) >= STALL_SECONDS


def test_a_request_without_an_answer_counts_as_failed(server: Server) -> None:
    server.stalled.set()
    found = sent(server, rate=10, seconds=0.5, timeout=0.2)
    assert [(line["status"], line["pod"]) for line in found] == [(0, "a")] * 5
    assert all("timed out" in line["error"] for line in found)


def test_connections_are_used_again(server: Server) -> None:
    client = client_of(server)
    assert [client.ask(time.time())["status"] for _ in range(20)] == [200] * 20
    assert server.connections == 1


def test_a_connection_that_the_server_has_closed_is_not_used(server: Server) -> None:
    server.closes = True
    client = client_of(server)
    for number in range(1, 11):
        assert client.ask(time.time())["status"] == 200
        assert wait_until(lambda number=number: server.ended == number, 10)  # type: ignore[misc]
    assert server.connections == 10

"""Measures how long a server is silent: another process asks `/health/live` every 10 ms.

`python -m tests.integration.silence PORT` prints a line for each line that it reads: the longest
answer since the previous one, in seconds.
"""

from __future__ import annotations

import contextlib
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Self

from tests.cluster.settings import ROOT

INTERVAL_SECONDS = 0.01
_REQUEST = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"


class Watch:
    """`with Watch(port) as watch`: `during(action)` returns the longest silence, in seconds."""

    def __init__(self, port: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.silence", str(port)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        self._longest()  # it runs
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def during(self, action: Callable[[], object]) -> float:
        """Runs `action`. Returns the longest time that the server took to answer meanwhile."""
        self._longest()
        action()
        return self._longest()

    def _longest(self) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _watch(port: int) -> None:
    connection = _connect(port)
    longest = 0.0
    while True:
        begun = time.monotonic()
        connection.sendall(_REQUEST)
        answer = connection.recv(65536)
        longest = max(longest, time.monotonic() - begun)
        if b"connection: close" in answer.lower() or not answer:
            connection.close()  # the server ends each connection after a while
            connection = _connect(port)
        if select.select([sys.stdin], [], [], INTERVAL_SECONDS)[0]:
            if not sys.stdin.readline():
                return
            print(longest, flush=True)
            longest = 0.0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, ConnectionError):
        _watch(int(sys.argv[1]))

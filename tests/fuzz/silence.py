"""Measures from outside how long the server's event loop is silent, while it is attacked."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

_PAUSE_SECONDS = 0.01
_GIVES_UP_SECONDS = 120.0


class Silence:
    """The longest time that `GET /health/live` took. `at` is when that began, since the start."""

    def __init__(self, url: str) -> None:
        self._host = urlsplit(url).netloc
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="silence", daemon=True)
        self.longest = 0.0
        self.at = 0.0
        self.samples = 0
        self.failed: str | None = None

    def start(self) -> None:
        """Begins to measure."""
        self._thread.start()

    def stop(self) -> None:
        """Ends, after the answer to the last probe."""
        self._ends.set()
        self._thread.join(_GIVES_UP_SECONDS)

    @contextlib.contextmanager
    def measured(self) -> Iterator[Silence]:
        """Measures until the block ends."""
        self.start()
        try:
            yield self
        finally:
            self.stop()

    def _poll(self) -> None:
        begun = time.monotonic()
        connection = http.client.HTTPConnection(self._host, timeout=_GIVES_UP_SECONDS)
        while not self._ends.wait(_PAUSE_SECONDS):
            before = time.monotonic()
            try:
                self._ask(connection)
            except (OSError, http.client.HTTPException) as error:
                self.failed = f"{time.monotonic() - begun:.1f} s after the start: {error!r}"
                return
            took = time.monotonic() - before
            self.samples += 1
            if took > self.longest:
                self.longest, self.at = took, before - begun
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection) -> None:
        try:
            connection.request("GET", "/health/live")
        except (http.client.NotConnected, BrokenPipeError, ConnectionResetError):
            connection.close()  # its time was over: the server bounds the age of connections
            connection.request("GET", "/health/live")
        response = connection.getresponse()
        response.read()
        if response.status != 200:
            raise http.client.HTTPException(f"status {response.status}")

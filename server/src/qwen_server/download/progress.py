"""How far a download is, for the log and for the operator, which asks for it over HTTP."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Literal

from qwen_server.http.listeners import open_listener

Phase = Literal["Starting", "Downloading", "Verifying", "Complete", "Failed"]

PROGRESS_PATH: Final = "/progress"
_WINDOW_SECONDS: Final = 30.0

_log = logging.getLogger("qwen_server.download")


class Tracker:
    """Follows a download. Any thread may call it. Times are in seconds of `clock`.

    `phase` and `trouble` (why nothing arrives at the moment, else empty) are set by whoever
    downloads. `total_bytes` is None until it is known.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.phase: Phase = "Starting"
        self.total_bytes: int | None = None
        self.downloaded_bytes = 0
        self.trouble = ""
        self._lock = threading.Lock()
        self._samples: deque[tuple[float, int]] = deque()
        self._active_at = clock()

    def begin(self, total: int, there: int) -> None:
        """The download begins, or goes on, with the bytes that are there already."""
        with self._lock:
            self._samples.clear()
            self._samples.append((self._clock(), there))
            self.phase, self.total_bytes, self.downloaded_bytes = "Downloading", total, there

    def sample(self, downloaded: int) -> None:
        """Takes note of the number of bytes that are there now. Call it about once a second."""
        with self._lock:
            now = self._clock()
            if downloaded > self.downloaded_bytes:
                self.trouble = ""
                self._active_at = now
            self.downloaded_bytes = downloaded
            self._samples.append((now, downloaded))
            while now - self._samples[0][0] > _WINDOW_SECONDS:
                self._samples.popleft()

    def alive(self) -> None:
        """Something happened, such as the check of a part of a file."""
        self._active_at = self._clock()

    def idle_seconds(self) -> float:
        """For how long nothing has happened."""
        return self._clock() - self._active_at

    def report(self) -> dict[str, Any]:
        """The figures as JSON, with the names that they have in the status of a QwenService."""
        with self._lock:
            rate = _rate(self._samples)
            left = None if self.total_bytes is None else max(0, self.total_bytes - self.downloaded_bytes)
            return {
                "phase": self.phase,
                "downloadedBytes": self.downloaded_bytes,
                "totalBytes": self.total_bytes,
                "bytesPerSecond": round(rate),
                "secondsRemaining": _seconds(left, rate),
                "message": self.trouble,
            }


def _rate(samples: deque[tuple[float, int]]) -> float:
    """Bytes per second in the last half minute."""
    if not samples:
        return 0.0
    (start, first), (end, last) = samples[0], samples[-1]
    return max(0.0, (last - first) / (end - start)) if end > start else 0.0


def _seconds(left: int | None, rate: float) -> int | None:
    """How long the rest takes; None if nobody can tell."""
    if left == 0:
        return 0
    return None if left is None or rate < 1 else round(left / rate)


def serve(tracker: Tracker, host: str | None, port: int) -> ThreadingHTTPServer:
    """Answers `GET /progress` from a thread. Raises OSError if the port is taken."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 5.0

        def do_GET(self) -> None:
            known = self.path == PROGRESS_PATH
            body = json.dumps(tracker.report()).encode() if known else b""
            self.send_response(200 if known else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
            _log.debug(format, *args)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    listener = open_listener(host, port, Server.request_queue_size)
    server = Server(listener.getsockname()[:2], Handler, bind_and_activate=False)
    server.socket.close()  # one of IPv4, not bound
    server.socket = listener
    server.server_port = listener.getsockname()[1]
    threading.Thread(target=server.serve_forever, name="progress", daemon=True).start()
    return server

"""The state of the process: starting -> ready -> draining -> dead, and restarting from ready.

The application reads the state and tracks the requests that it has accepted. Only the runner
(`qwen_server.runner`) changes the state. Nothing here knows uvicorn or vLLM.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from qwen_server.control.restarts import EngineRestarts
from qwen_server.observe.request_figures import RestartCause

State = Literal["starting", "ready", "restarting", "draining", "dead"]

EXIT_OK = 0
EXIT_ENGINE_DIED = 70
EXIT_CONFIGURATION = 78

# A terminating pod gets no new connections after some seconds, but clients keep the ones they have,
# and nothing has told them to go. Each may send one more request, whose answer closes it.
LAST_REQUEST_SECONDS = 5.0

# They ask for a restart of the process, and for one of the engine.
RESTART_ANNOTATION = "qwen-vllm.io/restart"
RESTART_ENGINE_ANNOTATION = "qwen-vllm.io/restart-engine"


class Lifecycle:
    """The state of the process, and the number of accepted requests that are not finished.

    `started_at` and `draining_since` are in seconds of `time.monotonic()`. `cause` says why the
    process is draining or dead. The state only moves forward, except that a ready engine may be
    restarted and is then ready again.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.started_at = clock()
        self.ready_at: float | None = None
        self.restarts = EngineRestarts(clock)
        self._clock = clock
        self.draining_since = math.inf
        self._last_requests_until = -math.inf
        self.state: State = "starting"
        self.cause: str | None = None
        self.in_flight = 0
        self.given_up = False
        self._deadlines: set[asyncio.Timeout] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def track(self) -> Iterator[None]:
        """Counts an accepted request until its answer is sent. A drain waits for it."""
        self.in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.in_flight -= 1
            if self.in_flight == 0:
                self._idle.set()

    @contextmanager
    def at_most_until(self, deadline: asyncio.Timeout) -> Iterator[None]:
        """Lets `give_up` move the deadline of an accepted request forward to now."""
        self._deadlines.add(deadline)
        try:
            yield
        finally:
            self._deadlines.discard(deadline)

    def give_up(self) -> None:
        """Ends all accepted requests, because the process ends."""
        self.given_up = True
        self.end_requests()

    def end_requests(self) -> None:
        """Ends all accepted requests by their deadlines, so that each still answers its client."""
        now = asyncio.get_running_loop().time()
        for deadline in self._deadlines:
            if not deadline.expired():
                deadline.reschedule(now)

    async def wait_idle(self) -> None:
        """Waits until no accepted request is left."""
        await self._idle.wait()

    def mark_ready(self) -> None:
        """The engine is warmed up. Ignored if the process is already draining or dead."""
        if self.state == "starting":
            self.state = "ready"
            self.ready_at = self._clock()

    def begin_restart(self, cause: RestartCause) -> None:
        """The engine is being replaced. Accepted requests wait. A drain goes on meanwhile."""
        self.restarts.begin(cause)
        if self.state == "ready":
            self.state = "restarting"

    def end_restart(self) -> None:
        """The attempt to replace the engine is over, and it is ready or has failed."""
        self.restarts.end()
        if self.state == "restarting":
            self.state = "ready"

    def begin_drain(self, cause: str, last_request_seconds: float = 0.0) -> None:
        """From now on no new requests are accepted. Accepted requests may finish.

        For `last_request_seconds`, connections that are already open may still send one.
        """
        if self.state in ("starting", "ready", "restarting"):
            self.state = "draining"
            self.cause = cause
            self.draining_since = self._clock()
            self._last_requests_until = self.draining_since + last_request_seconds

    def may_send_last_request(self, opened_at: float) -> bool:
        """Whether a connection, open since then, may still send a request although this drains."""
        return opened_at <= self.draining_since and self._clock() < self._last_requests_until

    def mark_dead(self, cause: str) -> None:
        """The engine is lost.

        The process exits as soon as its clients have their error responses.
        """
        if self.state != "dead":
            self.state = "dead"
            self.cause = cause


def restart_request(annotations: str, annotation: str = RESTART_ANNOTATION) -> str | None:
    """Returns the value of a restart annotation, or None.

    `annotations` is the text of a downward API file, with a line `key="value"` per annotation.
    """
    match = re.search(rf'^{re.escape(annotation)}="((?:[^"\\]|\\.)*)"$', annotations, re.MULTILINE)
    return match[1] if match else None


class RestartWatch:
    """Detects that a restart annotation has changed since the process started.

    The annotation stays on the pod after the restart of the container, so only a value that differs
    from the initial one is a request. A file that cannot be read counts as unchanged.
    """

    def __init__(self, podinfo_dir: Path, annotation: str = RESTART_ANNOTATION) -> None:
        self._file = podinfo_dir / "annotations"
        self._annotation = annotation
        self._handled = self._read()

    def _read(self) -> str | None:
        try:
            return restart_request(self._file.read_text(encoding="utf-8"), self._annotation)
        except (OSError, UnicodeDecodeError):
            return None

    def requested(self) -> str | None:
        """Returns the ID of a restart that was requested since the start, or None."""
        value = self._read()
        return value if value is not None and value != self._handled else None

    def done(self, value: str) -> None:
        """The restart with this ID is done. Only another value is a request from now on."""
        self._handled = value

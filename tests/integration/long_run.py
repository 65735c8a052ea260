"""What a long run under load must not change: the memory of the server, and its latency."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

from benchmarks.procfs import memory_of
from qwen_server.observe.request_figures import percentile
from tests.integration.load import Answer
from tests.integration.server_process import ServerProcess

WINDOW_SECONDS = 300.0  # at the beginning and at the end
WARM_UP_SECONDS = 30.0
LEAST_SECONDS = 2 * WINDOW_SECONDS + WARM_UP_SECONDS
_INTERVAL_SECONDS = 5.0
_MEMORY_CHANGE = 0.02
_LATENCY_CHANGE = 0.10


class Change(NamedTuple):
    """A figure of the first and of the last window."""

    first: float
    last: float

    @property
    def share(self) -> float:
        return self.last / self.first - 1

    def __str__(self) -> str:
        return f"{self.first:.4g} -> {self.last:.4g} ({self.share:+.1%})"


class MemorySampler:
    """`with MemorySampler(server)`: the resident memory of all its processes, in MiB."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.samples: list[tuple[float, float]] = []  # monotonic seconds, MiB

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(_INTERVAL_SECONDS):
            pids = [self._server.process.pid, *self._server.children()]
            self.samples.append((time.monotonic(), sum(map(_resident_mib, pids))))


def check(samples: Sequence[tuple[float, float]], answers: Sequence[Answer]) -> None:
    """Prints both changes. Fails if memory changed by over 2 %, or latency rose by over 10 %."""
    memory = Change(*(statistics.median(values) for values in _windows(samples)))
    ends = [(answer.sent + answer.latency, answer.latency) for answer in answers if answer.status == 200]
    latency = Change(*(percentile(sorted(values), 99) or 0.0 for values in _windows(ends)))
    print(f"resident memory, MiB: {memory}; p99 of the latency, s: {latency}")
    assert abs(memory.share) <= _MEMORY_CHANGE
    assert latency.share <= _LATENCY_CHANGE


def _windows(values: Iterable[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """The values of the first window after the warm-up, and those of the last window."""
    ordered = sorted(values)
    begin, end = ordered[0][0] + WARM_UP_SECONDS, ordered[-1][0]
    first = [value for at, value in ordered if begin <= at < begin + WINDOW_SECONDS]
    return first, [value for at, value in ordered if at > end - WINDOW_SECONDS]


def _resident_mib(pid: int) -> float:
    try:
        return memory_of(pid).rss
    except OSError:
        return 0.0  # a process that has just ended

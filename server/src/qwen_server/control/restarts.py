"""Restarts of the engine inside of this process: how many are allowed, and how long they took."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from qwen_server.observe.request_figures import RestartCause

BUDGET_SECONDS: Final = 600.0
_MIN_PATIENCE_SECONDS: Final = 600.0
_PATIENCE_FACTOR: Final = 3
_KEPT_PAUSES: Final = 64


def may_restart(limit: int, begun: Iterable[float], now: float) -> bool:
    """Whether one more restart fits the budget: at most `limit` within 10 minutes of work.

    `begun` has the times at which restarts began, in seconds of the same clock as `now`. It stands
    still while the engine is away: an engine that needs minutes to load and then dies would
    otherwise never use up the budget.
    """
    return restarts_left(limit, begun, now) > 0


def restarts_left(limit: int, begun: Iterable[float], now: float) -> int:
    """How many restarts the budget still allows (see `may_restart`)."""
    return max(limit - sum(now - at < BUDGET_SECONDS for at in begun), 0)


def patience(loading_seconds: float) -> float:
    """How long a restart may take before only a new process can help.

    `loading_seconds` is how long the process took to be ready.
    """
    return max(_MIN_PATIENCE_SECONDS, _PATIENCE_FACTOR * loading_seconds)


@dataclass(frozen=True, slots=True)
class Pause:
    """One restart, from its begin to its end, in seconds of the monotonic clock."""

    begin: float
    end: float


def overlap(pauses: Iterable[Pause], since: float, now: float) -> float:
    """How many of the seconds between `since` and `now` were pauses."""
    return sum(max(min(pause.end, now) - max(pause.begin, since), 0.0) for pause in pauses)


class EngineRestarts:
    """The restarts of one process. Only the runner begins and ends them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._begun: deque[float] = deque(maxlen=1024)
        self._pauses: deque[Pause] = deque(maxlen=_KEPT_PAUSES)
        self._paused = 0.0  # seconds of all complete restarts
        self.counts: Counter[RestartCause] = Counter()
        self.since: float | None = None

    def allowed(self, limit: int) -> bool:
        """Whether one more restart fits the budget now."""
        return may_restart(limit, self._begun, self._worked())

    def left(self, limit: int) -> int:
        """How many restarts the budget allows now."""
        return restarts_left(limit, self._begun, self._worked())

    def begin(self, cause: RestartCause) -> None:
        """A restart begins, of which the budget has one less."""
        self._begun.append(self._worked())
        self.since = self._clock()
        self.counts[cause] += 1

    def end(self) -> None:
        """The restart is over."""
        if self.since is not None:
            pause = Pause(self.since, self._clock())
            self._pauses.append(pause)
            self._paused += pause.end - pause.begin
            self.since = None

    @property
    def ended_at(self) -> float | None:
        """When the latest complete restart was over."""
        return self._pauses[-1].end if self._pauses else None

    @property
    def latest_seconds(self) -> float | None:
        """How long the latest complete restart took."""
        return self._pauses[-1].end - self._pauses[-1].begin if self._pauses else None

    def paused_seconds(self, since: float) -> float:
        """How long the engine was away after `since`."""
        now = self._clock()
        running = () if self.since is None else (Pause(self.since, now),)
        return overlap((*self._pauses, *running), since, now)

    @property
    def total_seconds(self) -> float:
        """How long the engine was away in total."""
        return self._paused + (0.0 if self.since is None else self._clock() - self.since)

    def _worked(self) -> float:
        """The clock, less the seconds of all restarts."""
        return self._clock() - self.total_seconds

    def takes_too_long(self, loading_seconds: float) -> bool:
        """Whether the restart that runs is stuck."""
        return self.since is not None and self._clock() - self.since > patience(loading_seconds)

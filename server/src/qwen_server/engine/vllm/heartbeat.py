"""The engine's pulse: what is written down at each step, request and ping, and read as `Vitals`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Below this share of a core, used between two looks, a process only idles: timers and polling, no computing.
_ACTIVE_SHARE = 0.1


@dataclass(slots=True)
class Heartbeat:
    """All times in seconds of `time.monotonic()`, None before the first event."""

    last_step_at: float | None = None
    last_token_at: float | None = None
    last_request_at: float | None = None
    busy_since: float | None = None
    ping_sent_at: float | None = None
    cpu_active_at: float | None = None
    kv_cache_usage: float = 0.0
    _cpu_seconds: Mapping[int, float] | None = None
    _cpu_seen_at: float = 0.0

    def on_step(self, now: float, *, tokens: int, kv_cache_usage: float) -> None:
        """The scheduler made a step that brought `tokens` prompt and output tokens.

        A long prompt is computed in chunks that bring no token until the last, but each takes up cache.
        """
        if tokens > 0 or kv_cache_usage != self.kv_cache_usage:
            self.last_token_at = now
        self.last_step_at = now
        self.kv_cache_usage = kv_cache_usage

    def on_answered_ping(self, now: float, *, stands_for_a_step: bool) -> None:
        """The engine core answered, as it does between two steps; where steps are not seen, this stands for one."""
        self.ping_sent_at = None
        if stands_for_a_step:
            self.last_step_at = self.last_token_at = now

    def on_request(self, now: float, unfinished: int) -> None:
        """A request goes to an engine that has `unfinished` others.

        While a ping is unanswered the engine has been busy since then: clients that give up and come back must not
        make a hung engine look fresh.
        """
        self.last_request_at = now
        if unfinished == 0:
            self.busy_since = now if self.ping_sent_at is None else min(self.ping_sent_at, now)

    def quiet_seconds(self, now: float, unfinished: int) -> float:
        """For how long a sign of life has been due: a step, or with nothing to do the answer to a ping."""
        since = max(self.last_step_at or 0.0, self.busy_since or 0.0) if unfinished else self.ping_sent_at
        return 0.0 if since is None else now - since

    def on_life(self, now: float) -> None:
        """The engine is alive, as its steps and answers tell; what CPU time it uses does not matter."""
        self.cpu_active_at = now
        self._cpu_seconds = None

    def on_cpu_time(self, now: float, cpu_seconds: Mapping[int, float]) -> None:
        """The engine is quiet; its processes, by their ids, have used `cpu_seconds` so far.

        They come and go: compilers do. The first look only sets the mark for the next.
        """
        before = self._cpu_seconds
        used = 0.0 if before is None else sum(max(at - before.get(pid, 0.0), 0) for pid, at in cpu_seconds.items())
        if used >= _ACTIVE_SHARE * (now - self._cpu_seen_at) or self.cpu_active_at is None:
            self.cpu_active_at = now
        self._cpu_seconds = cpu_seconds
        self._cpu_seen_at = now

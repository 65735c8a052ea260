"""Records the engine's steps, requests and pings. `Vitals` are read from this record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# A process that uses less than this share of a core only idles: timers and polling.
_ACTIVE_SHARE = 0.1


@dataclass(slots=True)
class Heartbeat:
    """All times are in seconds of `time.monotonic()`, None before the first event."""

    last_step_at: float | None = None
    last_token_at: float | None = None
    last_request_at: float | None = None
    busy_since: float | None = None
    ping_sent_at: float | None = None
    switching_since: float | None = None
    cpu_active_at: float | None = None
    compiling_seconds: float = 0.0
    most_compiling_seconds: float = 0.0
    kv_cache_usage: float = 0.0
    _cpu_seconds: Mapping[int, float] | None = None
    _cpu_seen_at: float = 0.0

    def on_step(self, now: float, *, tokens: int, kv_cache_usage: float, compiling: bool = False) -> None:
        """Records a step of the scheduler that produced `tokens` prompt and output tokens.

        A long prompt is computed in chunks. Only the last one produces tokens, but each one uses
        more of the cache, so a change of `kv_cache_usage` also counts as progress. If `compiling`,
        all requests wait for their grammars. The time of this is bounded, because clients could
        send grammars forever.
        """
        if tokens > 0 or kv_cache_usage != self.kv_cache_usage:
            self.last_token_at = now
            self.compiling_seconds = 0.0
        elif compiling:
            since = max(self.last_step_at or now, self.busy_since or 0.0)
            self.compiling_seconds = min(self.compiling_seconds + max(now - since, 0.0), self.most_compiling_seconds)
        self.last_step_at = now
        self.kv_cache_usage = kv_cache_usage

    def on_result(self, now: float) -> None:
        """Records the result of a text to pool: progress, although it is no token."""
        self.last_token_at = now

    def on_answered_ping(self, now: float, *, stands_for_a_step: bool) -> None:
        """Records that the engine core has answered a ping, as it does between two steps.

        If the server does not see steps, the answer also counts as one.
        """
        self.ping_sent_at = None
        if stands_for_a_step:
            self.last_step_at = self.last_token_at = now

    def on_switched(self, now: float) -> None:
        """Records that the engine has fallen asleep or woken up. Work and pings waited for it."""
        self.switching_since = None
        if self.ping_sent_at is not None:
            self.ping_sent_at = now
        if self.busy_since is not None:
            self.busy_since = now

    def on_request(self, now: float, unfinished: int) -> None:
        """Records a new request to an engine that has `unfinished` others.

        While a ping is unanswered, the engine counts as busy since the ping. Otherwise, clients
        that give up and retry would make a hung engine look responsive.
        """
        self.last_request_at = now
        if unfinished == 0:
            self.compiling_seconds = 0.0
            self.busy_since = now if self.ping_sent_at is None else min(self.ping_sent_at, now)

    def quiet_seconds(self, now: float, unfinished: int) -> float:
        """How long the next step has been due, or the answer to a ping if the engine is idle."""
        since = max(self.last_step_at or 0.0, self.busy_since or 0.0) if unfinished else self.ping_sent_at
        return 0.0 if since is None else now - since

    def on_life(self, now: float) -> None:
        """Records that steps or answers show a live engine, whatever CPU time it uses."""
        self.cpu_active_at = now
        self._cpu_seconds = None

    def on_cpu_time(self, now: float, cpu_seconds: Mapping[int, float]) -> None:
        """Records the CPU time that each process has used so far, while the engine is quiet.

        Processes such as compilers come and go. The first call only sets the baseline.
        """
        before = self._cpu_seconds
        used = 0.0 if before is None else sum(max(at - before.get(pid, 0.0), 0) for pid, at in cpu_seconds.items())
        if used >= _ACTIVE_SHARE * (now - self._cpu_seen_at) or self.cpu_active_at is None:
            self.cpu_active_at = now
        self._cpu_seconds = cpu_seconds
        self._cpu_seen_at = now

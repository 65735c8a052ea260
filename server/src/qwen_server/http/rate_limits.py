"""Limits how often each caller may call the API."""

from __future__ import annotations

import math
import time

from limits import RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from qwen_server.config.values import RateLimit
from qwen_server.http.error_bodies import client_error


class RateLimiter:
    """A sliding-window limit per caller.

    The window is approximated by two counters per caller: that of the current period, and that of
    the previous one, weighted by its overlap. `limits` reads the wall clock, so a window may begin
    early when the clock is set.
    """

    def __init__(self, limit: RateLimit | None) -> None:
        self._limit = limit
        self._item = None if limit is None else RateLimitItemPerSecond(limit.requests, int(limit.seconds))
        # The asyncio storage expires counters in a task. The synchronous one starts a thread for it
        # at almost every request.
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def check(self, caller: str) -> None:
        """Counts a request of `caller`. Raises HttpError 429 with Retry-After."""
        if self._limit is None or self._item is None or await self._limiter.hit(self._item, caller):
            return
        wait = (await self._limiter.get_window_stats(self._item, caller)).reset_time - time.time()
        raise client_error(
            429,
            f"rate limit of {self._limit.text} reached",
            code="rate_limit_exceeded",
            headers={"Retry-After": str(max(1, math.ceil(wait)))},
        )

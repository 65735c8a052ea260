"""A queue of keys. One worker at a time handles a key, bursts are merged, failures back off."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

logger = logging.getLogger(__name__)

K = TypeVar("K")

DEBOUNCE: Final = 0.1
BACKOFF_BASE: Final = 1.0
BACKOFF_MAX: Final = 300.0


def backoff(failures: int) -> float:
    """Seconds to wait after this number of consecutive failures."""
    return min(BACKOFF_MAX, BACKOFF_BASE * 2.0 ** min(failures - 1, 20))


class WorkQueue(Generic[K]):
    """Keys with the time when they are due.

    A key that is added while it is handled is handled again.
    """

    def __init__(self, work: Callable[[K], Awaitable[None]], on_error: Callable[[K, Exception, int], None]) -> None:
        self._work = work
        self._on_error = on_error
        self._due: dict[K, float] = {}
        self._busy: set[K] = set()
        self._failures: dict[K, int] = {}
        self._first: set[K] = set()
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._due)

    def add(self, key: K, delay: float = DEBOUNCE, *, first: bool = False) -> None:
        """Makes a key due after a delay, unless it is already due earlier.

        With `first`, it does not wait behind others that are due.
        """
        if first:
            self._first.add(key)
        due = asyncio.get_running_loop().time() + delay
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            self._changed.set()

    def forget(self, key: K) -> None:
        """Removes a key."""
        self._due.pop(key, None)
        self._first.discard(key)
        self._failures.pop(key, None)

    async def run(self, workers: int = 4) -> None:
        """Works until cancelled.

        One worker goes by the time alone, so that no number of first ones keeps the others waiting.
        """
        async with asyncio.TaskGroup() as tasks:
            for number in range(workers):
                tasks.create_task(self._worker(by_time=number == 0))

    async def _worker(self, *, by_time: bool) -> None:
        while True:
            key = await self._next(by_time=by_time)
            try:
                await self._work(key)
                self._failures.pop(key, None)
            except Exception as error:  # noqa: BLE001 - the key is retried and the others continue
                failures = self._failures[key] = self._failures.get(key, 0) + 1
                self._on_error(key, error, failures)
                self.add(key, backoff(failures))
            finally:
                self._busy.discard(key)
                self._changed.set()

    async def _next(self, *, by_time: bool) -> K:
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            waiting = {key: due for key, due in self._due.items() if key not in self._busy}
            due_now = [(not by_time and key not in self._first, due, key) for key, due in waiting.items() if due <= now]
            if due_now:
                key = min(due_now, key=lambda item: item[:2])[2]
                del self._due[key]
                self._first.discard(key)
                self._busy.add(key)
                return key
            self._changed.clear()
            timeout = min(waiting.values()) - now if waiting else None
            try:
                await asyncio.wait_for(self._changed.wait(), timeout)
            except TimeoutError:
                continue

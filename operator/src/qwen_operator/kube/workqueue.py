"""A queue of keys. One worker at a time handles a key, bursts are merged, failures back off."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from qwen_operator.kube.turns import Turns

logger = logging.getLogger(__name__)

K = TypeVar("K")

DEBOUNCE: Final = 0.1
BACKOFF_BASE: Final = 1.0
BACKOFF_MAX: Final = 60.0
REST: Final = 1.0
"""A key rests for so many times the time that its work took: it gets half of a worker."""
LONGEST_REST: Final = 30.0


def backoff(failures: int) -> float:
    """Seconds to wait after this number of consecutive failures."""
    return min(BACKOFF_MAX, BACKOFF_BASE * 2.0 ** min(failures - 1, 20))


class WorkQueue(Generic[K]):
    """Keys with the time when they are due. Tenants take turns, as `Turns` says.

    Of the keys of a tenant, the one that has been due for longest is next. A key that is added
    while it is handled is handled again. Between two turns a key rests, in proportion to the time
    that its work took, or until its back-off is over if the work failed. Nothing that is added
    meanwhile shortens the rest, so no key can keep the workers from the others, however often it is
    added and however long its work takes.

    `tenant(key)` names whom a key belongs to; by default, all belong to one. A turn costs the
    logarithm of the number of keys, and a look at each tenant with a key that is due.
    """

    def __init__(
        self,
        work: Callable[[K], Awaitable[None]],
        on_error: Callable[[K, Exception, int], None],
        *,
        rest: float = REST,
        tenant: Callable[[K], str] = lambda _: "",
    ) -> None:
        self._work = work
        self._on_error = on_error
        self._rest = rest
        self._due: dict[K, float] = {}
        self._resting: dict[K, float] = {}
        self._busy: set[K] = set()
        self._failures: dict[K, int] = {}
        self._first: set[K] = set()
        self._turns: Turns[K] = Turns(tenant)
        # When a key may be due or rested. The numbers keep keys from being compared.
        self._looks: list[tuple[float, int, K]] = []
        self._numbers = itertools.count()
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._due)

    def add(self, key: K, delay: float = DEBOUNCE, *, first: bool = False) -> None:
        """Makes a key due after a delay, unless it is already due earlier.

        With `first`, it does not wait behind others of its tenant that are due, nor behind those of
        other tenants if none of its tenant has had a turn since they wait.
        """
        if first:
            self._first.add(key)
            self._turns.hurry(key)
        due = asyncio.get_running_loop().time() + delay
        if due < self._due.get(key, math.inf):
            self._due[key] = due
            self._look_at(key, due)
            self._changed.set()

    def forget(self, key: K) -> None:
        """Removes a key."""
        self._due.pop(key, None)
        self._resting.pop(key, None)
        self._first.discard(key)
        self._failures.pop(key, None)
        self._turns.discard(key)

    async def run(self, workers: int = 4) -> None:
        """Works until cancelled.

        One worker goes by turns and time alone, so that no number of first keys keeps the others
        waiting.
        """
        async with asyncio.TaskGroup() as tasks:
            for number in range(workers):
                tasks.create_task(self._worker(by_time=number == 0))

    async def _worker(self, *, by_time: bool) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            key = await self._next(by_time=by_time)
            started = clock()
            try:
                await self._work(key)
                self._failures.pop(key, None)
                self._resting[key] = clock() + min(LONGEST_REST, self._rest * (clock() - started))
            except Exception as error:  # noqa: BLE001 - the key is retried and the others continue
                failures = self._failures[key] = self._failures.get(key, 0) + 1
                self._on_error(key, error, failures)
                self._resting[key] = clock() + backoff(failures)
                self.add(key, 0.0)
            finally:
                self._busy.discard(key)
                self._turns.done(key)
                self._look_at(key, self._resting.get(key, clock()))
                self._changed.set()

    async def _next(self, *, by_time: bool) -> K:
        clock = asyncio.get_running_loop().time
        while True:
            self._look(clock())
            key = self._turns.take(by_time=by_time)
            if key is not None:
                del self._due[key]
                self._first.discard(key)
                self._busy.add(key)
                return key
            self._changed.clear()
            timeout = self._looks[0][0] - clock() if self._looks else None
            # Before Python 3.12, wait_for loses a cancellation that comes together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._changed.wait()

    def _look_at(self, key: K, at: float) -> None:
        heapq.heappush(self._looks, (at, next(self._numbers), key))

    def _look(self, now: float) -> None:
        """Gives a place in the turns to the keys that are due, rested and not being handled."""
        while self._looks and self._looks[0][0] <= now:
            key = heapq.heappop(self._looks)[2]
            if self._resting.get(key, now) <= now:
                self._resting.pop(key, None)
                if key not in self._busy and self._due.get(key, math.inf) <= now:
                    self._turns.put(key, first=key in self._first)

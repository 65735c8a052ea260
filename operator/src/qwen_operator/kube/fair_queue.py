"""A queue whose items belong to groups, for several workers: no group waits behind another."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from typing import Generic, TypeVar

G = TypeVar("G")
T = TypeVar("T")


class FairQueue(Generic[G, T]):
    """Items in groups. Next is an item of the group of which the fewest are being handled."""

    def __init__(self) -> None:
        self._waiting: dict[G, deque[T]] = {}
        self._handled: Counter[G] = Counter()
        self._count = asyncio.Semaphore(0)

    def put(self, group: G, item: T) -> None:
        """Adds an item to a group."""
        self._waiting.setdefault(group, deque()).append(item)
        self._count.release()

    async def get(self) -> tuple[G, T]:
        """Waits for an item. The caller calls `done` when it has handled it."""
        await self._count.acquire()
        group = min(self._waiting, key=self._handled.__getitem__)
        items = self._waiting.pop(group)
        item = items.popleft()
        if items:
            self._waiting[group] = items  # behind the other groups
        self._handled[group] += 1
        return group, item

    def done(self, group: G) -> None:
        """Says that an item of a group was handled."""
        self._handled[group] -= 1
        if not self._handled[group]:
            del self._handled[group]

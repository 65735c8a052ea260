"""A queue of items that belong to groups, for several workers.

A group is a pair of a namespace and a name, such as that of a service. No namespace waits behind
another, however many groups it has, and in a namespace no group waits behind another.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

from qwen_operator.api.objects import Key

T = TypeVar("T")
K = TypeVar("K")


def next_group(waiting: Mapping[str, Iterable[str]], namespaces: Mapping[str, int], groups: Mapping[Key, int]) -> Key:
    """The group whose item is next: in the namespace of which the fewest items are being handled,
    the group of which the fewest are. Pure.

    `waiting` has the names of the groups with items by namespace, `namespaces` and `groups` how
    many items are being handled. Of equals, the first one is next.
    """
    namespace = min(waiting, key=lambda name: namespaces.get(name, 0))
    return namespace, min(waiting[namespace], key=lambda name: groups.get((namespace, name), 0))


class FairQueue(Generic[T]):
    """Items in groups. Equal namespaces take turns, and so do equal groups of a namespace."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[str, deque[T]]] = {}
        self._namespaces: Counter[str] = Counter()
        self._groups: Counter[Key] = Counter()
        self._count = asyncio.Semaphore(0)

    def put(self, group: Key, item: T) -> None:
        """Adds an item to a group."""
        namespace, name = group
        self._waiting.setdefault(namespace, {}).setdefault(name, deque()).append(item)
        self._count.release()

    async def get(self) -> tuple[Key, T]:
        """Waits for an item. The caller calls `done` when it has handled it."""
        await self._count.acquire()
        group = namespace, name = next_group(self._waiting, self._namespaces, self._groups)
        # What still has items is put behind the others.
        names = self._waiting.pop(namespace)
        items = names.pop(name)
        item = items.popleft()
        if items:
            names[name] = items
        if names:
            self._waiting[namespace] = names
        self._namespaces[namespace] += 1
        self._groups[group] += 1
        return group, item

    def done(self, group: Key) -> None:
        """Says that an item of a group was handled."""
        _decrease(self._namespaces, group[0])
        _decrease(self._groups, group)


def _decrease(counts: Counter[K], key: K) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]

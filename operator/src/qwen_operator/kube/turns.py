"""Whose turn it is among the keys of several tenants."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")


class _Line(Generic[K]):
    """The keys of a tenant that wait, in the order in which they became ready.

    Attributes:
        first: those of them that wait behind no other key of the tenant.
        served: whether a key had its turn since the tenant began to wait.
    """

    def __init__(self) -> None:
        self.keys: OrderedDict[K, None] = OrderedDict()
        self.first: OrderedDict[K, None] = OrderedDict()
        self.served = False

    @property
    def is_urgent(self) -> bool:
        """Whether a key is first, and the tenant waits for its first turn."""
        return bool(self.first) and not self.served


class Turns(Generic[K]):
    """Keys that are ready to be handled.

    The next key is one of the tenant of which the fewest keys are being handled. Of equal tenants,
    those that have not had a turn since they began to wait and have a key that is first precede,
    and then the one whose last turn is longest ago. So no tenant waits behind the many keys of
    another, whether they are first or not.
    """

    def __init__(self, tenant: Callable[[K], str]) -> None:
        self._tenant = tenant
        self._lines: dict[str, _Line[K]] = {}
        self._handled: Counter[str] = Counter()

    def put(self, key: K, *, first: bool) -> None:
        """Adds a key behind the others of its tenant. One that waits already keeps its place."""
        line = self._lines.setdefault(self._tenant(key), _Line())
        line.keys[key] = None
        if first:
            line.first[key] = None

    def hurry(self, key: K) -> None:
        """Makes a key first, if it waits."""
        line = self._lines.get(self._tenant(key))
        if line is not None and key in line.keys:
            line.first[key] = None

    def discard(self, key: K) -> None:
        """Removes a key, if it waits."""
        tenant = self._tenant(key)
        line = self._lines.get(tenant)
        if line is None:
            return
        line.keys.pop(key, None)
        line.first.pop(key, None)
        if not line.keys:
            del self._lines[tenant]

    def take(self, *, by_time: bool) -> K | None:
        """The next key, None if none waits. The caller calls `done` when it has handled it.

        by_time: whether it is a matter of turns and time alone, with no key before the others.
        """
        if not self._lines:
            return None
        tenant = min(self._lines, key=lambda name: (self._handled[name], by_time or not self._lines[name].is_urgent))
        line = self._lines.pop(tenant)
        key = next(iter(line.keys if by_time or not line.first else line.first))
        del line.keys[key]
        line.first.pop(key, None)
        if line.keys:
            line.served = True
            self._lines[tenant] = line  # behind the others
        self._handled[tenant] += 1
        return key

    def done(self, key: K) -> None:
        """Says that a key was handled."""
        self._handled -= Counter([self._tenant(key)])

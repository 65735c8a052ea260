"""Who is next in the queue: tenants share the slots and the queue's places by their weights.

Start-time fair queueing over the time of slots. Each tenant has a level: the seconds for which it
held slots while anyone waited, divided by its weight. The waiting tenant with the lowest level is
next. So those that wait get slots in proportion to their weights, whatever their requests take, and
no slot stays free while a request waits. A tenant that begins to wait starts at the level of those
that wait already: it has no credit for the time in which it wanted nothing.

A request of a tenant below its share waits at most for the next slot that becomes free. Where that
is too long, slots can be held in reserve: while others have been here in the last minute, a tenant
above its share leaves so many of them free.

Inside a tenant the order is that of arrival. With one tenant there is nothing to choose.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

DEFAULT_TENANT = "default"  # of requests without a key, and of keys that no file names
# A turn costs at least this, in seconds, so that turns that end at once cannot hold up others.
_LEAST_SECONDS = 0.001
_RECENT_SECONDS = 60.0  # for so long the reserve remembers a tenant

Item = TypeVar("Item")


@dataclass(eq=False, slots=True)
class Tenant(Generic[Item]):
    """One tenant with its part of the queue.

    line: its requests that have no slot. more: those that have slots and want further turns.
    level: its use of slots in seconds, divided by `weight`. slots: those that it holds. present:
    its requests that have not left. left_at: when the last one left.
    """

    name: str
    weight: float
    line: deque[Item] = field(default_factory=deque, repr=False)
    more: deque[Item] = field(default_factory=deque, repr=False)
    level: float = 0.0
    slots: int = 0
    present: int = 0
    left_at: float = 0.0

    @property
    def first(self) -> Item:
        """What is next of this tenant: a request without a slot comes before further turns."""
        return (self.line or self.more)[0]

    @property
    def waits(self) -> bool:
        return bool(self.line or self.more)


class Shares(Generic[Item]):
    """The tenants that have requests here, and those whose use is not forgotten yet.

    reserve: the slots that tenants above their share leave free. An operation takes time in
    proportion to the number of tenants (n log n for the order), or constant time with one.
    """

    def __init__(self, weights: Mapping[str, float] | None = None, reserve: int = 0) -> None:
        self._weights = dict(weights or {})
        self._reserve = reserve
        self._tenants: dict[str, Tenant[Item]] = {}
        self._waiting: dict[Tenant[Item], None] = {}  # want slots
        self._level = 0.0  # that of the tenants that wait; it never falls
        self._counted = 0.0  # the time up to which the use of slots is counted

    def __iter__(self) -> Iterator[Tenant[Item]]:
        return iter(self._tenants.values())

    def weight_of(self, name: str) -> float:
        return self._weights.get(name, 1.0)

    def get(self, name: str) -> Tenant[Item] | None:
        """Returns a tenant that has requests here, or whose use is not forgotten."""
        return self._tenants.get(name)

    def tenant(self, name: str) -> Tenant[Item]:
        """Returns the tenant of that name; a new one has used nothing."""
        if (tenant := self._tenants.get(name)) is None:
            tenant = self._tenants[name] = Tenant(name, self.weight_of(name))
        return tenant

    def rate_share(self, name: str) -> float:
        """Returns the share of the slots that `name` gets if it waits now, from 0 to 1."""
        own = self.weight_of(name)
        return own / (own + sum(tenant.weight for tenant in self._waiting if tenant.name != name))

    def queue(self, tenant: Tenant[Item], item: Item, now: float, *, holds_slots: bool) -> None:
        """Puts a request at the end of its tenant's line, or of those that want further turns."""
        self._count(now)
        if tenant not in self._waiting:
            if self._waiting:
                self._level = max(self._level, min(other.level for other in self._waiting))
            tenant.level = max(tenant.level, self._level)
            self._waiting[tenant] = None
        (tenant.more if holds_slots else tenant.line).append(item)

    def unqueue(self, tenant: Tenant[Item], item: Item, now: float, *, holds_slots: bool) -> None:
        """Takes a request out of the queue. Raises ValueError if it is not there."""
        self._count(now)
        (tenant.more if holds_slots else tenant.line).remove(item)
        if not tenant.waits:
            del self._waiting[tenant]
            # The last one that waited knows the level of those that will wait.
            self._level = max(self._level, tenant.level if not self._waiting else 0.0)

    def order(self, now: float, turn_seconds: float) -> Iterable[Tenant[Item]]:
        """Returns the tenants that wait, in the order in which they are served.

        turn_seconds: what a turn takes of one slot, on average. The slots that a tenant holds count
            for as long, so that turns which are granted at the same time are shared, too.
        """
        if len(self._waiting) <= 1:
            return tuple(self._waiting)
        self._count(now)
        return sorted(self._waiting, key=lambda tenant: tenant.level + tenant.slots * turn_seconds / tenant.weight)

    def may_take(self, name: str, slots: int, *, free: int, limit: int, now: float) -> bool:
        """Whether a tenant may take so many of the `free` slots, of `limit` in all.

        One that has no slot always may, so that no request waits forever.
        """
        reserve = min(self._reserve, limit - 1)
        if free - slots >= reserve or free < slots:
            return free >= slots
        tenant = self._tenants.get(name)
        if tenant is None or not tenant.slots:
            return True
        recent = (each for each in self if each.present or now - each.left_at < _RECENT_SECONDS)
        return tenant.slots + slots <= limit * tenant.weight / sum(each.weight for each in recent)

    def take(self, tenant: Tenant[Item], slots: int, now: float) -> None:
        """Counts slots as in use by a tenant."""
        self._count(now)
        tenant.slots += slots
        tenant.level += slots * _LEAST_SECONDS / tenant.weight

    def give_back(self, tenant: Tenant[Item], slots: int, now: float) -> None:
        """Counts slots as free again."""
        self._count(now)
        tenant.slots -= slots

    def forget(self, now: float) -> None:
        """Drops the tenants that have no request here and whose use no longer matters."""
        seconds = _RECENT_SECONDS if self._reserve else 0.0
        for tenant in list(self):
            used = bool(self._waiting) and tenant.level > self._level
            if not (tenant.present or used or now - tenant.left_at < seconds):
                del self._tenants[tenant.name]

    def outgrown(self, name: str, may_go: Callable[[Item], bool]) -> Item | None:
        """Returns the request that makes room in a full queue for one more of `name`, if any.

        It is the youngest waiting one of the tenant that has the most requests here for its weight,
        and only if `name` has fewer with the new one. may_go: whether a request may be sent away.
        """
        known = self._tenants.get(name)
        newcomer = ((known.present if known else 0) + 1) / self.weight_of(name)
        others = [tenant for tenant in self._waiting if tenant.name != name]
        for tenant in sorted(others, key=lambda tenant: tenant.present / tenant.weight, reverse=True):
            if tenant.present / tenant.weight <= newcomer:
                return None
            for item in reversed(tenant.line):
                if may_go(item):
                    return item
        return None

    def _count(self, now: float) -> None:
        """Adds what the tenants have used since the last call. It counts only if anyone waited."""
        seconds = now - self._counted
        self._counted = now
        if self._waiting and len(self._tenants) > 1 and seconds > 0:
            for tenant in self._tenants.values():
                if tenant.slots:
                    tenant.level += tenant.slots * seconds / tenant.weight

"""Admission: the bounded queue in front of the engine.

A limited number of sequences run, a limited number of requests wait, and the next one is refused at
once. The decision is synchronous, so the state cannot change between the check and the grant.

A request generates one sequence or several (prompts x n). Each is a turn: it takes slots when it
starts and gives them back when it ends. Requests that have no slot come first, in the order of
their arrival; what is left goes to requests that want further turns. So a heavy request uses the
slots that nobody else needs, and a small one that arrives later waits for one turn and not for all
of them. A turn that needs several slots blocks the lighter ones behind it, so it never starves.

This is the order inside a tenant. Which tenant is next, and whose place in a full queue a newcomer
may take, is decided in `shares`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from qwen_server.control.shares import DEFAULT_TENANT, Shares, Tenant

MIN_RETRY_SECONDS = 1
MAX_RETRY_SECONDS = 30
_FIRST_GUESS_SECONDS = 2.0  # the duration of a turn, before any has ended
_SMOOTHING = 0.1  # weight of the latest turn in the moving average of durations

TicketState = Literal["waiting", "running", "left"]


class QueueFullError(Exception):
    """The queue is full."""


class QueueTimeoutError(Exception):
    """The request has waited for the maximum time."""


class DisplacedError(Exception):
    """The request has lost its place in a full queue to a tenant that had fewer requests."""


@dataclass(eq=False, slots=True)
class _Turn:
    """Slots that are in use since `granted`, in seconds of the admission's clock."""

    granted: float
    weight: int


@dataclass(eq=False, slots=True)
class Ticket:
    """The place of a request in the line or among the running ones.

    weight: the slots that each of its turns needs.
    granted: when the first turn was granted, in seconds of the admission's clock.
    turns: those that hold slots; `unclaimed` are the ones of them that have not started.
    waiters: the further turns that have no slots yet.
    queued: whether it is in one of the two lines of its tenant.
    displaced: whether it has left because it lost its place.
    """

    weight: int
    tenant: Tenant[Ticket] = field(repr=False)
    granted: float | None = None
    turns: dict[_Turn, None] = field(default_factory=dict, repr=False)
    unclaimed: deque[_Turn] = field(default_factory=deque, repr=False)
    waiters: deque[asyncio.Future[_Turn]] = field(default_factory=deque, repr=False)
    first: asyncio.Future[None] | None = field(default=None, repr=False)
    queued: bool = False
    has_left: bool = False
    displaced: bool = False

    @property
    def state(self) -> TicketState:
        """`waiting` while it wants a slot and has none, also between two of its turns."""
        if self.has_left:
            return "left"
        return "waiting" if self.queued and not self.turns else "running"

    def wants_a_turn(self) -> bool:
        """Whether it waits for slots. Waiters that were cancelled do not count."""
        while self.waiters and self.waiters[0].done():
            self.waiters.popleft()
        return self.granted is None or bool(self.waiters)


class Admission:
    """Runs turns with a total weight of at most `limit` and queues at most `queue_limit` requests.

    Not thread-safe: one event loop owns it.
    """

    def __init__(
        self,
        limit: int,
        queue_limit: int,
        *,
        weights: Mapping[str, float] | None = None,
        reserve: int = 0,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._limit = limit
        self._queue_limit = queue_limit
        self._clock = clock
        self._jitter = jitter
        self._shares: Shares[Ticket] = Shares(weights, reserve)
        self._waiting = 0  # have no slot
        self._present: dict[Ticket, None] = {}  # have not left
        self._holders = 0  # have slots
        self._load = 0
        self._slot_seconds: float | None = None  # of one turn, on average
        self._starts = asyncio.Lock()
        self.peak = 0  # the most requests that had slots at the same time

    @property
    def limit(self) -> int:
        return self._limit

    @property
    def queue_limit(self) -> int:
        return self._queue_limit

    @property
    def running(self) -> int:
        """The number of running requests. A request counts once, however many turns it has.

        Above `limit` only by requests whose turns are over and whose answers are still being sent.
        """
        return len(self._present) - self._waiting

    @property
    def load(self) -> int:
        """The total weight of the running turns.

        Above `limit` only after `limit` was lowered.
        """
        return self._load

    @property
    def waiting(self) -> int:
        """The number of requests that have no slot.

        Above `queue_limit` only by requests that wait between two of their turns.
        """
        return self._waiting

    def enter(self, weight: int, tenant: str = DEFAULT_TENANT) -> Ticket:
        """Takes slots for a first turn if they are free, or else a place in the line.

        If the queue is full, it takes the place of a tenant that has more requests for its weight.
        Raises QueueFullError.
        """
        weight = max(1, min(weight, self._limit))
        if self._waiting >= self._queue_limit and (self._waiting or not self._fits(tenant, weight)):
            outgrown = self._shares.outgrown(tenant, lambda waiting: waiting.granted is None)
            if outgrown is None:
                raise QueueFullError
            self._displace(outgrown)
        ticket = Ticket(weight, self._shares.tenant(tenant))
        self._present[ticket] = None
        ticket.tenant.present += 1
        self._queue(ticket)
        self._advance()
        return ticket

    async def wait(self, ticket: Ticket, timeout: float) -> None:
        """Waits until the first turn is granted. Raises QueueTimeoutError after `timeout` seconds.

        Raises DisplacedError if it has lost its place. The caller must call `leave` in any case.
        """
        if ticket.granted is not None:
            return
        if ticket.displaced:
            raise DisplacedError
        ticket.first = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                await ticket.first
        except TimeoutError:
            # Otherwise the deadline coincided with something else, which counts.
            if ticket.granted is None and not ticket.displaced:
                raise QueueTimeoutError from None
        if ticket.displaced:
            raise DisplacedError

    @contextlib.asynccontextmanager
    async def turn(self, ticket: Ticket) -> AsyncIterator[None]:
        """One sequence of a request, from its slots to its end.

        The first turn is the one that `wait` has waited for. A turn that ends without an exception
        has generated a sequence, so its time tells how long others take.
        """
        further = not ticket.unclaimed
        turn = await self._another(ticket) if further else ticket.unclaimed.popleft()
        try:
            if further:
                # One start an iteration of the event loop, because each takes up to milliseconds.
                async with self._starts:
                    await asyncio.sleep(0)
            yield
            self._observe(turn)
        finally:
            self._release(ticket, turn)

    def leave(self, ticket: Ticket, *, generated: bool = False) -> None:
        """Gives back all slots and the place in the line. Further calls do nothing.

        generated: whether the model has answered the request. Only then does the time of a turn
            that did not pass through `turn` tell how long others take.
        """
        if ticket.has_left:
            return
        for turn in ticket.unclaimed if generated else ():
            self._observe(turn)
        self._remove(ticket)
        self._advance()

    def resize(self, limit: int, queue_limit: int) -> None:
        """Changes both limits (`auto`). Requests that were already accepted stay accepted."""
        self._limit = max(1, limit)
        self._queue_limit = max(0, queue_limit)
        for tenant in self._shares:
            for ticket in (*tenant.line, *tenant.more):
                ticket.weight = min(ticket.weight, self._limit)
        self._advance()

    def completions_per_second(self) -> float:
        """The rate at which turns end while all slots are in use.

        Running turns that are older than the average turn show that the average is too low.
        """
        seconds = self._turn_seconds
        turns = [turn for ticket in self._present for turn in ticket.turns]
        if turns:
            now = self._clock()
            seconds = max(seconds, sum((now - turn.granted) * turn.weight for turn in turns) / len(turns))
        return self._limit / max(seconds, 1e-3)

    def retry_after(self, tenant: str = DEFAULT_TENANT) -> int:
        """Returns the seconds after which a refused client should retry.

        This is the length of its tenant's line divided by the tenant's share of the completion
        rate, with jitter.
        """
        rate = self.completions_per_second() * self._shares.rate_share(tenant)
        waiting, _ = self.counts_of(tenant)
        seconds = (waiting + 1) / rate * (0.75 + 0.5 * self._jitter())
        return min(max(math.ceil(seconds), MIN_RETRY_SECONDS), MAX_RETRY_SECONDS)

    def weight_of(self, tenant: str) -> float:
        """Returns the weight of a tenant; 1 where none is set."""
        return self._shares.weight_of(tenant)

    def counts_of(self, tenant: str) -> tuple[int, int]:
        """Returns how many requests of a tenant wait without a slot, and how many run."""
        found = self._shares.get(tenant)
        return (0, 0) if found is None else (len(found.line), found.present - len(found.line))

    @property
    def _turn_seconds(self) -> float:
        return self._slot_seconds or _FIRST_GUESS_SECONDS

    @property
    def _line(self) -> list[Ticket]:
        """All requests that have no slot, tenant by tenant, each in their order."""
        return [ticket for tenant in self._shares for ticket in tenant.line]

    async def _another(self, ticket: Ticket) -> _Turn:
        """Waits for the slots of a further turn."""
        waiter: asyncio.Future[_Turn] = asyncio.get_running_loop().create_future()
        ticket.waiters.append(waiter)
        if not ticket.queued:
            self._queue(ticket)
        self._advance()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                if ticket.queued and not ticket.wants_a_turn():
                    self._unqueue(ticket)
                self._advance()  # it may have blocked the others
            else:
                self._release(ticket, waiter.result())
            raise

    def _queue(self, ticket: Ticket) -> None:
        ticket.queued = True
        holds = bool(ticket.turns)
        self._waiting += not holds
        self._shares.queue(ticket.tenant, ticket, self._clock(), holds_slots=holds)

    def _unqueue(self, ticket: Ticket) -> None:
        ticket.queued = False
        holds = bool(ticket.turns)
        self._waiting -= not holds
        self._shares.unqueue(ticket.tenant, ticket, self._clock(), holds_slots=holds)

    def _displace(self, ticket: Ticket) -> None:
        """Sends away a request that waits for its first turn."""
        self._remove(ticket)
        ticket.displaced = True
        if ticket.first is not None and not ticket.first.done():
            ticket.first.set_result(None)

    def _remove(self, ticket: Ticket) -> None:
        if ticket.queued:
            self._unqueue(ticket)
        ticket.has_left = True
        del self._present[ticket]
        ticket.tenant.present -= 1
        self._holders -= bool(ticket.turns)
        slots = sum(turn.weight for turn in ticket.turns)
        self._load -= slots
        now = ticket.tenant.left_at = self._clock()
        self._shares.give_back(ticket.tenant, slots, now)
        self._shares.forget(now)

    def _release(self, ticket: Ticket, turn: _Turn) -> None:
        if ticket.has_left:
            return
        moves = ticket.queued and len(ticket.turns) == 1  # to those that have no slot
        if moves:
            self._unqueue(ticket)
        del ticket.turns[turn]
        self._load -= turn.weight
        self._shares.give_back(ticket.tenant, turn.weight, self._clock())
        self._holders -= not ticket.turns
        if moves:
            self._queue(ticket)
        self._advance()

    def _advance(self) -> None:
        while (ticket := self._next()) is not None:
            wants = ticket.wants_a_turn()
            self._unqueue(ticket)
            if wants:
                self._grant(ticket)
            if ticket.wants_a_turn():
                self._queue(ticket)

    def _next(self) -> Ticket | None:
        """What leaves the queue now: it gets slots, or no longer wants any."""
        for tenant in self._shares.order(self._clock(), self._turn_seconds):
            ticket = tenant.first
            if not ticket.wants_a_turn() or self._fits(tenant.name, ticket.weight):
                return ticket
            if self._load + ticket.weight > self._limit:
                return None
        return None

    def _fits(self, tenant: str, weight: int) -> bool:
        free = self._limit - self._load
        return self._shares.may_take(tenant, weight, free=free, limit=self._limit, now=self._clock())

    def _grant(self, ticket: Ticket) -> None:
        turn = _Turn(self._clock(), ticket.weight)
        self._holders += not ticket.turns
        ticket.turns[turn] = None
        self._load += turn.weight
        self._shares.take(ticket.tenant, turn.weight, turn.granted)
        self.peak = max(self.peak, self._holders)
        if ticket.granted is None:
            ticket.granted = turn.granted
            if ticket.first is not None and not ticket.first.done():
                ticket.first.set_result(None)
        if ticket.waiters:
            ticket.waiters.popleft().set_result(turn)
        else:
            ticket.unclaimed.append(turn)

    def _observe(self, turn: _Turn) -> None:
        seconds = (self._clock() - turn.granted) * turn.weight
        known = self._slot_seconds
        self._slot_seconds = seconds if known is None else known + _SMOOTHING * (seconds - known)

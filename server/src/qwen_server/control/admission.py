"""The bounded queue in front of the engine: a few requests run, a few wait, the rest is refused at once.

Deciding is synchronous, so that nothing can happen between looking and taking. Requests wait in one line, first come
first served: a heavy request at its head holds the lighter ones behind it back, and so is never starved.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

MIN_RETRY_SECONDS = 1
MAX_RETRY_SECONDS = 30
_FIRST_GUESS_SECONDS = 2.0  # what one request takes, before any has been seen
_SMOOTHING = 0.1  # weight of the latest request in the moving average of durations

TicketState = Literal["waiting", "running", "left"]


class QueueFullError(Exception):
    """Nothing may wait any more."""


class QueueTimeoutError(Exception):
    """The request waited for as long as it may."""


@dataclass(eq=False, slots=True)
class Ticket:
    """A request's place: in the line, or among those that run. `granted` is a reading of the clock."""

    weight: int
    state: TicketState = "waiting"
    granted: float | None = None
    wake: asyncio.Future[None] | None = field(default=None, repr=False)


class Admission:
    """At most `limit` weights run and `queue_limit` requests wait. Not thread-safe: one event loop owns it."""

    def __init__(
        self,
        limit: int,
        queue_limit: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._limit = limit
        self._queue_limit = queue_limit
        self._clock = clock
        self._jitter = jitter
        self._line: deque[Ticket] = deque()
        self._load = 0
        self._running = 0
        self._seconds_per_weight: float | None = None
        self.peak = 0

    @property
    def limit(self) -> int:
        return self._limit

    @property
    def queue_limit(self) -> int:
        return self._queue_limit

    @property
    def running(self) -> int:
        """Requests that run; a heavy one counts once."""
        return self._running

    @property
    def load(self) -> int:
        """The sum of the weights that run: never above `limit`, unless `limit` was lowered since."""
        return self._load

    @property
    def waiting(self) -> int:
        return len(self._line)

    def enter(self, weight: int) -> Ticket:
        """Takes a slot if one is free and nobody waits, else a place in the line. Raises QueueFullError."""
        ticket = Ticket(weight=max(1, min(weight, self._limit)))
        if not self._line and self._load + ticket.weight <= self._limit:
            self._grant(ticket)
        elif len(self._line) < self._queue_limit:
            self._line.append(ticket)
        else:
            raise QueueFullError
        return ticket

    async def wait(self, ticket: Ticket, timeout: float) -> None:
        """Returns when the ticket's turn has come. Raises QueueTimeoutError; the caller leaves in any case."""
        if ticket.state == "running":
            return
        ticket.wake = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                await ticket.wake
        except TimeoutError:
            if ticket.granted is None:  # else its turn came in the same turn of the loop
                raise QueueTimeoutError from None

    def leave(self, ticket: Ticket) -> None:
        """Gives the slot or the place in the line back; harmless when repeated."""
        state, ticket.state = ticket.state, "left"
        if state == "waiting":
            self._line.remove(ticket)
        elif state == "running":
            self._load -= ticket.weight
            self._running -= 1
            self._observe(ticket)
        self._advance()

    def resize(self, limit: int, queue_limit: int) -> None:
        """Changes both limits (`auto`); requests already accepted stay accepted."""
        self._limit = max(1, limit)
        self._queue_limit = max(0, queue_limit)
        for ticket in self._line:
            ticket.weight = min(ticket.weight, self._limit)
        self._advance()

    def completions_per_second(self) -> float:
        """The rate at which requests of weight 1 end while every slot is taken."""
        return self._limit / max(self._seconds_per_weight or _FIRST_GUESS_SECONDS, 1e-3)

    def retry_after(self) -> int:
        """Whole seconds after which a refused client should come back: the line's length over the rate, spread."""
        seconds = (len(self._line) + 1) / self.completions_per_second() * (0.75 + 0.5 * self._jitter())
        return min(max(math.ceil(seconds), MIN_RETRY_SECONDS), MAX_RETRY_SECONDS)

    def _grant(self, ticket: Ticket) -> None:
        ticket.state = "running"
        ticket.granted = self._clock()
        self._load += ticket.weight
        self._running += 1
        self.peak = max(self.peak, self._running)
        if ticket.wake is not None and not ticket.wake.done():
            ticket.wake.set_result(None)

    def _advance(self) -> None:
        while self._line and self._load + self._line[0].weight <= self._limit:
            self._grant(self._line.popleft())

    def _observe(self, ticket: Ticket) -> None:
        if ticket.granted is None:
            return
        seconds = (self._clock() - ticket.granted) * ticket.weight
        known = self._seconds_per_weight
        self._seconds_per_weight = seconds if known is None else known + _SMOOTHING * (seconds - known)


@dataclass(frozen=True, slots=True)
class AutoLimits:
    """What `auto` needs to know. Tokens are those of one request; seconds are the queue's deadline."""

    max_num_seqs: int
    kv_cache_tokens: int
    prompt_tokens_p95: int
    max_tokens: int
    completions_per_second: float
    queue_timeout: float

    def running(self) -> int:
        """As many as the scheduler and the KV cache hold, each with a long prompt and a full answer."""
        if self.kv_cache_tokens <= 0:
            return max(1, self.max_num_seqs)
        fitting = self.kv_cache_tokens // max(1, self.prompt_tokens_p95 + self.max_tokens)
        return max(1, min(self.max_num_seqs, fitting))

    def waiting(self, running: int) -> int:
        """As many as can be served before their deadline, but 10 at least and 4 times the running at most."""
        served = int(self.completions_per_second * self.queue_timeout)
        return max(10, min(served, 4 * running))

"""Admission: the bounded queue in front of the engine.

A limited number of requests run, a limited number wait, and the next one is refused at once. The
decision is synchronous, so the state cannot change between the check and the grant. The queue is
strictly first in, first out: a heavy request at its head blocks the lighter ones behind it, so it
never starves.
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
_FIRST_GUESS_SECONDS = 2.0  # the duration of a request, before any has finished
_SMOOTHING = 0.1  # weight of the latest request in the moving average of durations

TicketState = Literal["waiting", "running", "left"]


class QueueFullError(Exception):
    """The queue is full."""


class QueueTimeoutError(Exception):
    """The request has waited for the maximum time."""


@dataclass(eq=False, slots=True)
class Ticket:
    """The place of a request in the queue or among the running ones.

    `granted` is a reading of the admission's clock, in seconds.
    """

    weight: int
    state: TicketState = "waiting"
    granted: float | None = None
    wake: asyncio.Future[None] | None = field(default=None, repr=False)


class Admission:
    """Runs requests with a total weight of at most `limit` and queues at most `queue_limit` more.

    Not thread-safe: one event loop owns it.
    """

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
        """The number of running requests. A heavy request counts once."""
        return self._running

    @property
    def load(self) -> int:
        """The total weight of the running requests.

        Above `limit` only after `limit` was lowered.
        """
        return self._load

    @property
    def waiting(self) -> int:
        return len(self._line)

    def enter(self, weight: int) -> Ticket:
        """Takes a slot if one is free and the queue is empty, or else a place in the queue.

        Raises QueueFullError.
        """
        ticket = Ticket(weight=max(1, min(weight, self._limit)))
        if not self._line and self._load + ticket.weight <= self._limit:
            self._grant(ticket)
        elif len(self._line) < self._queue_limit:
            self._line.append(ticket)
        else:
            raise QueueFullError
        return ticket

    async def wait(self, ticket: Ticket, timeout: float) -> None:
        """Waits until the ticket has a slot. Raises QueueTimeoutError after `timeout` seconds.

        The caller must call `leave` in either case.
        """
        if ticket.state == "running":
            return
        ticket.wake = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                await ticket.wake
        except TimeoutError:
            if ticket.granted is None:  # otherwise grant and timeout coincided; the grant counts
                raise QueueTimeoutError from None

    def leave(self, ticket: Ticket) -> None:
        """Gives back the slot or the place in the queue. Further calls do nothing."""
        state, ticket.state = ticket.state, "left"
        if state == "waiting":
            self._line.remove(ticket)
        elif state == "running":
            self._load -= ticket.weight
            self._running -= 1
            self._observe(ticket)
        self._advance()

    def resize(self, limit: int, queue_limit: int) -> None:
        """Changes both limits (`auto`). Requests that were already accepted stay accepted."""
        self._limit = max(1, limit)
        self._queue_limit = max(0, queue_limit)
        for ticket in self._line:
            ticket.weight = min(ticket.weight, self._limit)
        self._advance()

    def completions_per_second(self) -> float:
        """The rate at which requests of weight 1 finish while all slots are in use."""
        return self._limit / max(self._seconds_per_weight or _FIRST_GUESS_SECONDS, 1e-3)

    def retry_after(self) -> int:
        """Returns the seconds after which a refused client should retry.

        This is the queue's length divided by the completion rate, with jitter.
        """
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
    """The inputs of the limits in `auto` mode.

    `prompt_tokens_p95` and `max_tokens` are tokens per request, `queue_timeout` is in seconds.
    """

    max_num_seqs: int
    kv_cache_tokens: int
    prompt_tokens_p95: int
    max_tokens: int
    completions_per_second: float
    queue_timeout: float

    def running(self) -> int:
        """How many requests with a long prompt and a full answer fit scheduler and KV cache."""
        if self.kv_cache_tokens <= 0:
            return max(1, self.max_num_seqs)
        fitting = self.kv_cache_tokens // max(1, self.prompt_tokens_p95 + self.max_tokens)
        return max(1, min(self.max_num_seqs, fitting))

    def waiting(self, running: int) -> int:
        """How many requests can be served within `queue_timeout`, between 10 and 4 * `running`."""
        served = int(self.completions_per_second * self.queue_timeout)
        return max(10, min(served, 4 * running))

"""Where requests wait while a dead engine is replaced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Generic, TypeVar, cast

from qwen_server.engine.base import EngineError, EngineGoneError, Observer, ReferenceAnswer
from qwen_server.engine.replays import BEGUN_TEXT, Observations, require_innocence, restarted

Running = TypeVar("Running")


class Revival(Generic[Running]):
    """The running engine, or the wait for it. One event loop owns this.

    `cause` says why an engine is dead for which no other comes.
    """

    def __init__(self, cause: Callable[[], str]) -> None:
        self._cause = cause
        self._current: Running | None = None
        self._given_up = False
        self._changed = asyncio.Event()

    @property
    def current(self) -> Running | None:
        """The latest engine that was ready. It may be dead."""
        return self._current

    def arrived(self, running: Running) -> None:
        """An engine is ready: all requests go on."""
        self._current = running
        self._notify()

    def give_up(self) -> None:
        """No further engine comes."""
        self._given_up = True
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def after(self, dead: Running | None) -> Running:
        """The engine that follows `dead`. Raises EngineGoneError if none does."""
        while self._current is dead or self._current is None:
            if self._given_up:
                raise EngineGoneError(self._cause())
            await self._changed.wait()
        return self._current


Attempt = Callable[[Running, Observer], Awaitable[ReferenceAnswer]]


async def answered_with_repeats(
    attempt: Attempt[Running],
    observe: Observer,
    *,
    running: Running,
    dead: Callable[[Running], bool],
    revival: Revival[Running],
) -> ReferenceAnswer:
    """Answers with `attempt`, and from the beginning if the engine dies before the first event.

    An answer that is not a stream has no first event, so it always starts over. Raises
    EngineRestartedError for a stream that has begun, and what `attempt` raises.
    """
    observations, deaths = Observations(observe), 0
    while True:
        observations.begin()
        try:
            answer = await attempt(running, observations)
        except EngineError:
            if not dead(running):
                raise
            running, deaths = await revival.after(running), deaths + 1
            require_innocence(deaths)
            continue
        if answer.stream is None:
            return answer
        events = _events(
            answer.stream, attempt, observations, running=running, dead=dead, revival=revival, deaths=deaths
        )
        return replace(answer, stream=events)


async def _events(
    first: AsyncIterator[str],
    attempt: Attempt[Running],
    observations: Observations,
    *,
    running: Running,
    dead: Callable[[Running], bool],
    revival: Revival[Running],
    deaths: int,
) -> AsyncGenerator[str, None]:
    stream: AsyncIterator[str] | None = first
    begun = False
    while True:
        try:
            if stream is None:
                observations.begin()
                stream = (await attempt(running, observations)).stream
            async with aclosing(cast("Any", stream)) as events:
                async for event in events:
                    begun = True
                    yield event
        except EngineError:
            if not dead(running):
                raise
        else:
            return
        running, stream, deaths = await revival.after(running), None, deaths + 1
        if begun:
            raise restarted(BEGUN_TEXT)
        require_innocence(deaths)

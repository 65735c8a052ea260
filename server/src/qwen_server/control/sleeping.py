"""Puts the engine to sleep and wakes it up, so that no request is in it while it sleeps."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any, Literal, TypeVar

from qwen_server.control.lifecycle import Lifecycle
from qwen_server.engine.base import Engine, EngineError

Answer = TypeVar("Answer")
Mode = Literal["abort", "wait"]

# vLLM's executor gives up a call to its workers after this time.
ENGINE_SECONDS = 300.0

_log = logging.getLogger(__name__)


async def answer_of(work: Coroutine[Any, Any, Answer], seconds: float = ENGINE_SECONDS) -> Answer:
    """Returns what the engine answers. Raises EngineError if it has not answered in time.

    The call goes on then, because a call that is cancelled would leave an answer that nobody takes.
    """
    task = asyncio.ensure_future(work)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        task.add_done_callback(lambda late: late.cancelled() or late.exception())
        raise EngineError(f"the engine has not answered within {seconds:g} s")
    return task.result()


class Sleep:
    """Whether the engine sleeps.

    `active` is True from the order to sleep until the engine is fully awake, and `asleep` while its
    scheduler stands. An engine that takes the place of one that died asleep is awake.
    """

    def __init__(self, engine: Engine, lifecycle: Lifecycle) -> None:
        self._engine = engine
        self._lifecycle = lifecycle
        self._turn = asyncio.Lock()  # one order at a time
        self._ordered = False  # the engine is about to sleep, also one that comes meanwhile
        self._engine_asleep: int | None = None  # its number
        self._level = 0

    @property
    def active(self) -> bool:
        """See above. No request is accepted then."""
        return self._ordered or self.asleep

    @property
    def asleep(self) -> bool:
        """See above. It is not yet while requests that were accepted are waited for."""
        return self._engine_asleep == self._number()

    @property
    def level(self) -> int:
        """At which its weights sleep, 1 or 2; 0 while they do not. vLLM does not change it."""
        return self._level if self.asleep else 0

    def _number(self) -> int:
        return sum(self._lifecycle.restarts.counts.values())

    async def fall_asleep(self, level: int, mode: Mode) -> None:
        """Refuses new requests, ends those that were accepted, or waits for them, and sleeps.

        Raises EngineError. If the engine has not fallen asleep, it serves again.
        """
        async with self._turn:
            self._ordered = True
            try:
                if mode == "abort":
                    self._lifecycle.end_requests()
                await self._lifecycle.wait_idle()
                await self._put_to_sleep(level)
            finally:
                self._ordered = False
        _log.info("the engine sleeps at level %d", level)

    async def wake_up(self, tags: Sequence[str] | None) -> bool:
        """Wakes the engine up and returns whether it is fully awake. Raises EngineError."""
        async with self._turn:
            awake = await answer_of(self._engine.maintenance.wake_up(tags))
            if awake:
                self._engine_asleep = None
            if tags is None or "weights" in tags:
                self._level = 0
        _log.info("the engine is %s", "awake" if awake else "partly awake")
        return awake

    async def _put_to_sleep(self, level: int) -> None:
        number = self._number()
        try:
            await answer_of(self._engine.maintenance.sleep(level))
        except EngineError:
            if self._engine_asleep != number and await self._sleeps():
                self._engine_asleep = number
            raise
        self._engine_asleep, self._level = number, max(level, self.level)

    async def _sleeps(self) -> bool:
        """Whether the engine sleeps after an order that failed; True if it does not say so."""
        try:
            return await answer_of(self._engine.maintenance.is_sleeping(), 1.0)
        except EngineError:
            return True

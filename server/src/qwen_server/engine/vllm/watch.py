"""The watch of one engine: it writes the vital signs that do not come by themselves."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from qwen_server.engine.background import BackgroundTasks
from qwen_server.engine.base import EngineError, InvalidRequestError
from qwen_server.engine.processes import any_stopped, cpu_seconds, descendants
from qwen_server.engine.vllm.heartbeat import Heartbeat

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

_log = logging.getLogger(__name__)

_PULSE_SECONDS: Final = 0.5
_IDLE_PROBE_SECONDS: Final = 60.0


class Watch:
    """Pings the engine core, measures CPU time in quiet phases and probes idle workers.

    Only one ping is in flight at a time. A ping does not reach the workers, so an idle worker that
    is stopped is probed immediately.

    sees_steps: whether the heartbeat hears of each step of the engine.
    on_cpu: whether the model runs on a CPU, where a long step is not a hang.
    asleep: whether the engine sleeps. A probe would wait until it wakes up.
    strangers: the processes below this one that are no part of the engine.
    probe: asks the model for a token. It has no timeout.
    """

    def __init__(
        self,
        llm: AsyncLLM,
        heartbeat: Heartbeat,
        tasks: BackgroundTasks,
        *,
        sees_steps: bool,
        on_cpu: bool,
        asleep: Callable[[], bool],
        strangers: Callable[[], Iterable[int]],
        probe: Callable[[], Awaitable[None]],
    ) -> None:
        self._llm = llm
        self._heartbeat = heartbeat
        self._tasks = tasks
        self._sees_steps = sees_steps
        self._on_cpu = on_cpu
        self._asleep = asleep
        self._strangers = strangers
        self._probe = probe

    async def run(self) -> None:
        """Watches until the engine is dead."""
        processes: list[int] = []
        failing = False
        while not self._llm.errored:
            try:
                processes = processes or await asyncio.to_thread(descendants)
                await self._pulse(processes)
                failing = False
            except Exception:  # noqa: BLE001 - without the watch, nobody would notice a hang
                if not failing:
                    _log.exception("the watch of the engine failed, trying again")
                failing = True
            await asyncio.sleep(_PULSE_SECONDS)

    async def _pulse(self, processes: Sequence[int]) -> None:
        heartbeat = self._heartbeat
        now = time.monotonic()
        # First, because it needs nothing that could fail.
        if heartbeat.ping_sent_at is None:
            heartbeat.ping_sent_at = now
            self._tasks.start(self._ping())
        unfinished = self._llm.get_num_unfinished_requests()
        if self._on_cpu:
            await self._check_cpu_time(now, unfinished)
        if self._asleep():
            return
        idle = now - (heartbeat.last_request_at or now)
        if unfinished == 0 and (idle > _IDLE_PROBE_SECONDS or any_stopped(processes)):
            self._tasks.start(self._quiet_probe())

    async def _check_cpu_time(self, now: float, unfinished: int) -> None:
        """Records whether the processes compute.

        Reading the CPU time takes milliseconds, so this happens only when the engine is quiet.
        """
        if self._heartbeat.quiet_seconds(now, unfinished) < _PULSE_SECONDS:
            self._heartbeat.on_life(now)
        else:
            self._heartbeat.on_cpu_time(now, await asyncio.to_thread(self._cpu_seconds))

    def _cpu_seconds(self) -> dict[int, float]:
        """The CPU time of the engine's processes. The check of a grammar is no sign of life."""
        others = set(self._strangers())
        return cpu_seconds(pid for pid in descendants() if pid not in others)

    async def _ping(self) -> None:
        """Makes a round trip to the engine core.

        It has no timeout, because the age of the ping shows a hang. A dead engine never answers.
        """
        try:
            await self._llm.is_sleeping()
        except Exception as error:  # noqa: BLE001 - any answer is a sign of life, `errored` shows death
            _log.debug("ping: %r", error)
        self._heartbeat.on_answered_ping(time.monotonic(), stands_for_a_step=not self._sees_steps)

    async def _quiet_probe(self) -> None:
        try:
            await self._probe()
        except (EngineError, InvalidRequestError) as error:
            _log.warning("the probe of the idle engine failed: %s", error)

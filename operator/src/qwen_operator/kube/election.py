"""The election in a thread of its own, so that the Lease is renewed however busy the process is.

With one event loop for all, thousands of pods that change at once would delay the renewal, and a
leader that is only busy would end. The other way round, a leader whose loop stands still must not
keep the Lease: it is renewed only while that loop goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, Self, TypeVar

from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.lease import RENEW_DEADLINE, Leader

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

END_SECONDS: Final = RENEW_DEADLINE / 2
"""Seconds after the loss of the Lease in which the process has to end by itself. It is ended then,
as others may take the Lease a second later."""
STILL_SECONDS: Final = 15.0
"""Seconds without a turn of the acting event loop after which the process is ended."""
_PULSE_SECONDS: Final = 1.0


class Election:
    """One candidate, to be used in the event loop that acts.

    `end` ends the process at once. It is called in another thread, because that event loop does not
    answer.
    """

    _kube: KubeClient
    _leader: Leader

    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end
        self._acting = asyncio.get_running_loop()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="election", daemon=True)
        self._thread.start()

    @classmethod
    async def join(cls, *, name: str, namespace: str, identity: str, end: Callable[[], None]) -> Self:
        """Connects to the API, with connections that nothing else uses. Nothing is written yet."""
        election = cls(end)
        election._kube = await election._run(KubeClient.connect())
        election._leader = Leader(election._kube, name=name, namespace=namespace, identity=identity)
        return election

    @property
    def seen_at(self) -> float:
        """When the Lease was last read, on the monotonic clock; negative if never."""
        return self._leader.seen_at

    async def acquire(self) -> None:
        """Returns once this process is the leader. Retries forever."""
        await self._run(self._leader.acquire())

    async def hold(self) -> None:
        """Renews the Lease. Returns when it is lost; the process then has `END_SECONDS` to end."""
        await self._run(self._hold())

    async def release(self) -> None:
        """See Leader.release."""
        await self._run(self._leader.release())

    async def leave(self) -> None:
        """Ends the thread and its connections. From now on, nothing ends the process."""
        try:
            await self._run(self._stop())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            await asyncio.to_thread(self._thread.join, END_SECONDS)
            if not self._thread.is_alive():
                self._loop.close()

    async def _stop(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._kube.close()

    async def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Awaits work of the thread. Cancelling the wait cancels the work."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def _hold(self) -> None:
        holding = asyncio.create_task(self._leader.hold())
        watching = asyncio.create_task(self._watch())
        try:
            await holding
        finally:
            holding.cancel()
            watching.cancel()
            if not asyncio.current_task().cancelling():  # type: ignore[union-attr]
                self._loop.call_later(END_SECONDS, self._end)

    async def _watch(self) -> None:
        """Ends the process when its acting event loop stands still."""
        while True:
            turn = asyncio.Event()
            with contextlib.suppress(RuntimeError):  # that loop is closed: the process ends
                self._acting.call_soon_threadsafe(self._loop.call_soon_threadsafe, turn.set)
            try:
                async with asyncio.timeout(STILL_SECONDS):
                    await turn.wait()
            except TimeoutError:
                logger.critical("the operator stands still: it is ended, so that another one can act")
                self._end()
            await asyncio.sleep(_PULSE_SECONDS)

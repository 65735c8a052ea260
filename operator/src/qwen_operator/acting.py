"""The leader's part of the process: kopf as the frame, in it the controller."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from qwen_operator.controller import Controller
from qwen_operator.handlers import run_frame

logger = logging.getLogger(__name__)

EXIT_LOST: Final = 1
"""The exit code if a part of the process failed or the Lease was lost."""


class Acting:
    """Runs a controller in kopf's frame until `ending` is set.

    `stopped` is awaited as soon as the controller has stopped.
    """

    def __init__(self, controller: Controller, ending: asyncio.Event, stopped: Callable[[], Awaitable[None]]) -> None:
        self._controller = controller
        self._ending = ending
        self._stopped = stopped
        self._working: asyncio.Task[None] | None = None

    async def run(self) -> int:
        """Acts until it is ended, SIGTERM arrives or a part fails. Returns the exit code."""
        try:
            await run_frame(self._start, self._stop, self._ending)
        except Exception:
            logger.exception("kopf failed")
            return EXIT_LOST
        finally:
            self.end()
        if self._working is None or self._working.cancelled() or self._working.exception() is None:
            return 0
        logger.error("the controller failed", exc_info=self._working.exception())
        return EXIT_LOST

    def end(self) -> None:
        """Ends it. The controller, which acts, is cancelled at once; the rest follows."""
        if self._working is not None:
            self._working.cancel()
        self._ending.set()

    async def _start(self) -> None:
        self._working = asyncio.create_task(self._controller.run(), name="controller")
        self._working.add_done_callback(lambda _: self._ending.set())

    async def _stop(self) -> None:
        if self._working is not None:
            self._working.cancel()
            await asyncio.wait((self._working,))
        try:
            await self._stopped()
        except Exception:  # kopf would wait a minute and try again
            logger.exception("the end was not orderly")

"""Restarts the engine when it has died or hung for long, or when that was requested.

The runner asks at each of its polls. What the budget does not allow is left to it: the end of the
process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from qwen_server.config.settings import Settings
from qwen_server.control.lifecycle import RESTART_ENGINE_ANNOTATION, Lifecycle, RestartWatch
from qwen_server.control.restarts import BUDGET_SECONDS
from qwen_server.engine.base import Engine, EngineError
from qwen_server.observe.request_figures import RestartCause

_log = logging.getLogger("qwen_server")


class Reviver:
    """Restarts one engine.

    `is_lost` returns whether the engine has hung for so long that only a restart can help.
    `recover` is what follows a restart before the server is ready again.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        lifecycle: Lifecycle,
        *,
        is_lost: Callable[[], bool],
        recover: Callable[[], Awaitable[None]],
    ) -> None:
        self._limit = settings.engine_restarts
        self._engine = engine
        self._lifecycle = lifecycle
        self._is_lost = is_lost
        self._recover = recover
        self._requests = RestartWatch(settings.podinfo_dir, RESTART_ENGINE_ANNOTATION)
        self._restarting: asyncio.Task[None] | None = None
        self._failed = False  # the latest restart

    def cause_of_death(self) -> str | None:
        """Returns why the engine is dead for good, and restarts an engine that has died otherwise.

        While the process drains, only requests that were accepted are worth a restart.
        """
        if not self._is_over():
            return None
        vitals = self._engine.vitals()
        if vitals.state != "dead":
            self._failed = False
            return None
        cause = vitals.death_cause or "the engine died"
        needed = self._lifecycle.state != "draining" or self._lifecycle.in_flight > 0
        if needed and self._begin("failed" if self._failed else "died", cause):
            return None
        self._engine.give_up()
        exhausted = self._limit and not self._lifecycle.restarts.allowed(self._limit)
        return f"{cause} ({self._limit} restarts within {BUDGET_SECONDS:.0f} s are the limit)" if exhausted else cause

    def unmet_request(self) -> str | None:
        """Restarts an engine that hangs, or as requested.

        Returns the ID of a request that is beyond the budget.
        """
        if self._restarting is not None or self._lifecycle.state != "ready":
            return None
        request = self._requests.requested()
        if request is None:
            if self._limit and self._is_lost():
                self._begin("hung", "the engine hangs")
            return None
        if self._begin("requested", f"restart {request} of the engine was requested"):
            self._requests.done(request)
            return None
        return request

    def abandon(self) -> None:
        """The process ends. Nobody waits for a restart that is under way."""
        if self._restarting is not None:
            self._restarting.add_done_callback(lambda task: task.cancelled() or task.exception())

    def _begin(self, why: RestartCause, cause: str) -> bool:
        """Begins a restart if the budget allows it."""
        if not self._lifecycle.restarts.allowed(self._limit):
            return False
        self._lifecycle.begin_restart(why)
        _log.error("%s: restarting the engine, %d request(s) wait for it", cause, self._lifecycle.in_flight)
        self._restarting = asyncio.create_task(self._restart(), name="engine-restart")
        return True

    async def _restart(self) -> None:
        await self._engine.restart()
        await self._recover()

    def _is_over(self) -> bool:
        """Whether no restart is under way. The first call after one reports how it ended."""
        task = self._restarting
        if task is None:
            return True
        if not task.done():
            return False
        self._restarting = None
        self._lifecycle.end_restart()
        error = task.exception()
        self._failed = error is not None
        if error is None:
            if (request := self._requests.requested()) is not None:
                self._requests.done(request)  # it was about the engine before
            _log.info("the engine is back after %.1f s", self._lifecycle.restarts.latest_seconds or 0.0)
        elif isinstance(error, EngineError):
            _log.error("the restart of the engine failed: %s", error)
        else:
            _log.error("the restart of the engine failed", exc_info=error)
        return True

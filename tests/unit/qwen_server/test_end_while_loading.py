"""A stop while the model loads: the start then fails, which is no error."""

from __future__ import annotations

import asyncio
import gc
from typing import Any, cast

import pytest

from qwen_server.control.lifecycle import Lifecycle
from qwen_server.engine.base import EngineError
from qwen_server.runner import Ending, Runner
from tests.unit.qwen_server.serving import IdleServer, make_settings


class LoadingEngine:
    """An engine whose start fails when its processes are ended."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self._ended = asyncio.Event()

    async def start(self) -> None:
        self.begun.set()
        await self._ended.wait()
        raise EngineError("the engine core ended")

    async def shutdown(self, drain_seconds: float) -> None:
        self._ended.set()
        await asyncio.sleep(0.01)


async def test_a_start_that_fails_after_a_stop_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    engine, server = cast("Any", LoadingEngine()), cast("Any", IdleServer())
    runner = Runner(make_settings(), engine, Lifecycle(), server, is_stuck=lambda: False, poll_seconds=0.01)
    running = asyncio.create_task(runner.run(cast("Any", None)))
    await engine.begun.wait()
    runner.request_stop("received SIGTERM")
    assert await running == Ending(0, "received SIGTERM while the model was loading")
    del runner, running
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_a_signal_to_all_processes_may_end_the_engines_first() -> None:
    engine, server = cast("Any", LoadingEngine()), cast("Any", IdleServer())
    runner = Runner(make_settings(), engine, Lifecycle(), server, is_stuck=lambda: False, poll_seconds=0.01)
    running = asyncio.create_task(runner.run(cast("Any", None)))
    await engine.begun.wait()
    await engine.shutdown(0.0)
    await asyncio.sleep(0.1)  # the runner has seen that the start has failed
    runner.request_stop("received SIGTERM")
    assert await running == Ending(0, "received SIGTERM while the model was loading")

"""Ends what is left of an engine, so that another one can take its place in this process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from qwen_server.engine.base import EngineError
from qwen_server.engine.processes import kill_engine

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

_log = logging.getLogger(__name__)
_DEATH_SECONDS = 10.0
_POLL_SECONDS = 0.02
_RENDERING_SECONDS = 60.0


async def end(llm: AsyncLLM, spared: Callable[[], Iterable[int]], shared_memory: Iterable[Path]) -> None:
    """Kills the engine's processes, closes the connections to them and fails what waits for them.

    The renderer goes on for a while, because requests may be in it. Raises EngineError.
    """
    # Imported late, because it imports vLLM.
    from qwen_server.engine.vllm.patches.replay import fail_all  # noqa: PLC0415

    if not await asyncio.to_thread(kill_engine, spared):
        raise EngineError("the engine's processes cannot be killed")
    try:
        async with asyncio.timeout(_DEATH_SECONDS):
            await asyncio.to_thread(llm.engine_core.shutdown, 0)
            while not llm.errored:  # noqa: ASYNC110 - a thread of vLLM finds it out
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        raise EngineError("the remains of the engine cannot be closed") from None
    if llm.output_handler is not None:
        llm.output_handler.cancel()
    fail_all(llm)
    fail_calls(llm)
    for file in shared_memory:
        with contextlib.suppress(OSError):
            file.unlink()
    asyncio.get_running_loop().call_later(_RENDERING_SECONDS, _close, llm)


def fail_calls(llm: AsyncLLM) -> None:
    """Fails the calls, such as those for an adapter, that a dead engine has not answered.

    vLLM leaves them waiting for ever.
    """
    calls: dict[int, asyncio.Future[object]] = getattr(llm.engine_core, "utility_results", {})
    for call in calls.values():
        if not call.done():
            call.set_exception(EngineError("the engine died"))
            call.exception()  # who asked may have gone
    calls.clear()


def _close(llm: AsyncLLM) -> None:
    try:
        llm.shutdown(0)
    except Exception:  # noqa: BLE001 - nothing uses it any more
        _log.warning("the remains of an engine could not be closed", exc_info=True)

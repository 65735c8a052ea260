"""How the engine's processes ended, read from the manager that vLLM's client keeps to itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.core_client import AsyncMPClient, BackgroundResources
from vllm.v1.engine.utils import CoreEngineProcManager

from qwen_server.config.patches import Patch, absent


def _missing() -> Iterator[str]:
    yield from absent(AsyncLLM, "engine_core")
    yield from absent(AsyncMPClient, "resources")
    yield from absent(BackgroundResources, "engine_manager")
    yield from absent(CoreEngineProcManager, "processes")


EXIT_CODES: Final = Patch(
    name="exit-codes",
    gains="an engine that was killed is told from one that failed: the cause names the signal",
    relies_on="vLLM's client keeps its CoreEngineProcManager in `resources.engine_manager`",
    missing=_missing,
)


def exit_codes(llm: AsyncLLM) -> dict[str, int | None]:
    """The exit codes by the processes' names; None for one that lives, negative for a signal."""
    manager: Any = llm.engine_core.resources.engine_manager
    return {process.name: process.exitcode for process in getattr(manager, "processes", ())}

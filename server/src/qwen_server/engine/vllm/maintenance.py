"""What administrators do with a running engine: its caches, its sleep and its tokenizer."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from qwen_server.engine.base import EngineError
from qwen_server.engine.vllm.heartbeat import Heartbeat

if TYPE_CHECKING:
    from qwen_server.engine.vllm.build import Parts


class VllmMaintenance:
    """Implements `engine.base.Maintenance`.

    `parts` returns the running engine, or raises EngineError, and `heartbeat` its signs of life.
    `asleep` is True from the order to sleep until the engine is fully awake.
    """

    def __init__(self, parts: Callable[[], Parts], heartbeat: Callable[[], Heartbeat]) -> None:
        self._parts = parts
        self._heartbeat = heartbeat
        self.asleep = False

    async def reset_prefix_cache(self, *, running: bool, external: bool) -> bool:
        """See Maintenance."""
        return bool(await self._asked(self._parts().llm.reset_prefix_cache(running, external)))

    async def sleep(self, level: int) -> None:
        """See Maintenance."""
        self.asleep = True
        try:
            # Only requests that nobody counts are left, such as a probe.
            await self._switch(self._parts().llm.sleep(level, "abort"))
        except EngineError:
            self.asleep = False
            raise

    async def wake_up(self, tags: Sequence[str] | None) -> bool:
        """See Maintenance."""
        awake = await self._switch(self._parts().llm.wake_up(None if tags is None else list(tags)))
        self.asleep = self.asleep and not awake
        return bool(awake)

    async def is_sleeping(self) -> bool:
        """See Maintenance."""
        return bool(await self._asked(self._parts().llm.is_sleeping()))

    async def tokenizer_info(self) -> dict[str, Any]:
        """See Maintenance."""
        from vllm.entrypoints.serve.tokenize.serving import TokenizerInfo  # noqa: PLC0415 - is it ever asked for?

        parts = self._parts()
        info = TokenizerInfo(parts.llm.get_tokenizer(), parts.serving_options["chat_template"])
        return dict(info.to_dict())

    async def _switch(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Waits while the engine moves its memory. The engine core answers no ping meanwhile."""
        heartbeat = self._heartbeat()
        heartbeat.switching_since = time.monotonic()
        try:
            return await self._asked(work)
        finally:
            heartbeat.on_switched(time.monotonic())

    async def _asked(self, work: Coroutine[Any, Any, Any]) -> Any:
        try:
            return await work
        except EngineError:
            raise
        except Exception as error:
            raise EngineError(f"the engine refused: {error}") from error

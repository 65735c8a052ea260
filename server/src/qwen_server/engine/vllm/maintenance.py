"""What administrators do with a running engine: its caches, its sleep and its tokenizer."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from qwen_server.engine.base import EngineError
from qwen_server.engine.vllm.heartbeat import Heartbeat

if TYPE_CHECKING:
    from qwen_server.engine.vllm.build import Parts


FREES_WEIGHTS = 2  # the level of sleep


class VllmMaintenance:
    """Implements `engine.base.Maintenance`.

    `parts` returns the running engine, or raises EngineError, and `heartbeat` its signs of life.
    `asleep` is True from the order to sleep until the engine is fully awake.
    """

    def __init__(self, parts: Callable[[], Parts], heartbeat: Callable[[], Heartbeat]) -> None:
        self._parts = parts
        self._heartbeat = heartbeat
        self._without_weights: Parts | None = None  # the engine whose weights are to be read again
        self.asleep = False

    async def reset_prefix_cache(self, *, running: bool, external: bool) -> bool:
        """See Maintenance."""
        return bool(await self._asked(self._parts().llm.reset_prefix_cache(running, external)))

    async def sleep(self, level: int) -> None:
        """See Maintenance."""
        self.asleep = True
        parts = self._parts()
        try:
            # Only requests that nobody counts are left, such as a probe.
            await self._switch(parts.llm.sleep(level, "abort"))
        except EngineError:
            self.asleep = False
            raise
        if level == FREES_WEIGHTS:
            self._without_weights = parts

    async def wake_up(self, tags: Sequence[str] | None) -> bool:
        """See Maintenance."""
        awake = await self._switch(self._woken(None if tags is None else list(tags)))
        self.asleep = self.asleep and not awake
        return bool(awake)

    async def _woken(self, tags: list[str] | None) -> Any:
        """Wakes up, and reads weights that were freed again. Until then they are garbage."""
        parts = self._parts()
        if self._without_weights is not parts or (tags is not None and "weights" not in tags):
            return await parts.llm.wake_up(tags)
        # Weights first: what they are read into is free as long as there is no KV cache.
        awake = await parts.llm.wake_up(["weights"])
        await parts.llm.collective_rpc("reload_weights")
        self._without_weights = None
        others = [tag for tag in tags if tag != "weights"] if tags is not None else ["kv_cache"]
        return await parts.llm.wake_up(others) if others and not awake else awake

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

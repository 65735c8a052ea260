"""The engine's streams of a request, one per prompt, and how they end with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any


class PromptStreams:
    """The streams of one request. vLLM's code may read each of them in a task of its own."""

    def __init__(self) -> None:
        self._streams: list[AsyncGenerator[Any, None]] = []
        self._readers: dict[int, asyncio.Task[Any] | None] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def add(self, stream: AsyncGenerator[Any, None]) -> None:
        """Adds the stream of the next prompt."""
        self._streams.append(stream)

    def read(self, index: int) -> None:
        """The stream `index` calls this whenever it goes on. It remembers its reader."""
        self._readers[index] = asyncio.current_task()

    async def close(self) -> None:
        """Ends all streams.

        With several prompts, vLLM cancels the tasks that read them, but does not wait for their
        end. A generator that still runs in a task cannot be closed.
        """
        running = {self._readers.get(index) for index, stream in enumerate(self._streams) if _runs(stream)}
        tasks = [task for task in running if task is not None and task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for stream in self._streams:
            await stream.aclose()


def _runs(stream: AsyncGenerator[Any, None]) -> bool:
    return bool(getattr(stream, "ag_running", False))

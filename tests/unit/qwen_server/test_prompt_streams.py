"""The streams of a request end with it, whichever task reads them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress

import pytest

from qwen_server.engine.vllm.prompt_streams import PromptStreams
from tests.unit.qwen_server.serving import until


class Request:
    """Three prompts, each of which a task reads, as in vLLM's `merge_async_iterators`."""

    def __init__(self) -> None:
        self.streams = PromptStreams()
        self.waiting: list[int] = []  # for a token that never comes
        self.ended: list[int] = []
        self.generators = [self._stream(index) for index in range(3)]
        for generator in self.generators:
            self.streams.add(generator)

    async def _stream(self, index: int) -> AsyncGenerator[int, None]:
        self.streams.read(index)
        try:
            for token in range(2 + index):
                yield token
                self.streams.read(index)
            self.waiting.append(index)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # like the message to the engine that it may stop
            self.ended.append(index)

    async def merged(self) -> AsyncGenerator[int, None]:
        reading = {asyncio.ensure_future(anext(generator)): generator for generator in self.generators}
        try:
            while reading:
                done, _ = await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    generator = reading.pop(task)
                    yield await task
                    reading[asyncio.ensure_future(anext(generator))] = generator
        finally:
            for task, generator in reading.items():
                task.cancel()
                with suppress(BaseException):
                    await generator.aclose()

    async def serve(self) -> None:
        try:
            async for _ in self.merged():
                pass
        finally:
            await self.streams.close()


async def test_streams_that_tasks_read_end_with_a_cancelled_request() -> None:
    request = Request()
    serving = asyncio.create_task(request.serve())
    await until(lambda: len(request.waiting) == 3)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):  # and not a RuntimeError about a running generator
        await serving
    assert sorted(request.ended) == [0, 1, 2]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_stream_that_the_request_reads_itself_is_closed() -> None:
    request = Request()
    async for _ in request.generators[0]:
        break
    await request.streams.close()
    assert request.ended == [0]
    for generator in request.generators:
        with pytest.raises(StopAsyncIteration):
            await anext(generator)

"""Requests with several sequences: each takes its turn, so that nobody waits for all of them."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import httpx
import pytest

from qwen_server.engine.merging import merged
from tests.unit.qwen_server.serving import Served, events_of, serve, until

TURN = '@{"tokens": 4, "delay": 0.02}'


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serve() as served:
        yield served


async def complete(served: Served, prompts: list[str], **fields: Any) -> httpx.Response:
    return await served.client.post("/v1/completions", json={"prompt": prompts} | fields)


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_small_request_waits_for_one_turn_of_a_heavy_one(served: Served, stream: bool, reference: bool) -> None:
    fields: dict[str, Any] = {"stream": stream} | ({"logprobs": 1} if reference else {})
    heavy = asyncio.create_task(complete(served, [TURN] * 60, **fields))
    await until(lambda: served.service.admission.load == 3)
    small = [await served.chat('@{"tokens": 1}') for _ in range(5)]
    assert [response.status_code for response in small] == [200] * 5
    assert not heavy.done()
    generated = served.engine.generated
    assert generated < 60 * 4 / 2, f"{generated} tokens were generated before five small requests had ended"
    assert (await heavy).status_code == 200
    await served.until_idle()
    assert served.service.admission.load == 0


async def test_a_heavy_request_uses_all_slots_that_nobody_needs_and_counts_once(served: Served) -> None:
    heavy = asyncio.create_task(complete(served, [TURN] * 8, n=2))
    await until(lambda: served.service.admission.load == 3)
    requests = (await served.metrics())["requests"]
    assert (requests["running"], requests["waiting"]) == (1, 0)
    body = (await heavy).json()
    assert [choice["index"] for choice in body["choices"]] == list(range(16))
    assert body["usage"]["completion_tokens"] == 64
    assert served.service.admission.peak == 1


async def test_the_events_of_a_heavy_stream_have_their_choices(served: Served) -> None:
    *events, done = events_of((await complete(served, ["a", "b"], n=3, stream=True)).text)
    assert done == "[DONE]"
    texts = dict.fromkeys(range(6), "")
    for event in events:
        texts[event["choices"][0]["index"]] += event["choices"][0]["text"]
    assert len(set(texts.values())) == 1
    assert all(texts.values())


async def test_two_heavy_requests_share_the_slots(served: Served) -> None:
    first = asyncio.create_task(complete(served, [TURN] * 30))
    await until(lambda: served.service.admission.load == 3)
    second = asyncio.create_task(complete(served, [TURN] * 6))
    done, _ = await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
    assert done == {second}
    assert (await first).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_in_the_middle_frees_all_turns(served: Served, stream: bool) -> None:
    heavy = asyncio.create_task(complete(served, [TURN] * 60, stream=stream))
    await until(lambda: served.engine.generated > 8)
    heavy.cancel()
    await served.until_idle()
    assert (served.service.admission.load, served.service.admission.waiting) == (0, 0)
    assert served.engine.generated < 60
    assert (await served.chat()).status_code == 200


async def test_a_failure_of_one_sequence_ends_the_request(served: Served) -> None:
    response = await complete(served, [TURN, '@{"fail": "CUDA out of memory", "after": 1}', TURN, TURN, TURN])
    assert (response.status_code, response.json()) == (500, {"error": "CUDA out of memory"})
    await served.until_idle()
    assert served.service.admission.load == 0


@pytest.mark.parametrize(
    ("prompts", "n", "param"), [(["x"] * 17, 16, "n"), (["x"] * 128, 3, "n"), (["x"] * 20, 1, "prompt")]
)
async def test_the_sequences_of_a_request_are_bounded(prompts: list[str], n: int, param: str) -> None:
    async with serve(max_sequences=256 if n > 1 else 19) as served:
        response = await complete(served, prompts, n=n)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert str(len(prompts) * n) in error["message"]
    assert "--max-sequences" in error["message"]


async def test_retry_after_is_about_the_true_wait_when_short_requests_came_before() -> None:
    async with serve(max_concurrent_requests=1, max_queue_size=3) as served:
        for _ in range(30):
            await served.client.post("/tokenize", json={"prompt": "x"})
        waiting = [asyncio.create_task(served.chat('@{"first": 30}')) for _ in range(4)]
        await until(lambda: served.service.admission.waiting == 3)
        served.service.admission._clock = lambda: served.service.clock() + 8  # the running one is 8 s old
        response = await served.chat()
        assert response.status_code == 503
        # 3 wait before the next one and each takes 8 s or more, less or more a quarter.
        assert 24 <= int(response.headers["retry-after"]) <= 30
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _count(to: int, closed: list[int]) -> AsyncGenerator[int, None]:
    try:
        for number in range(to):
            await asyncio.sleep(0)
            yield number
    finally:
        closed.append(to)


async def _fail() -> AsyncGenerator[int, None]:
    yield 0
    raise ValueError("broken")


async def test_merged_streams_keep_their_order() -> None:
    closed: list[int] = []
    items = [item async for item in merged([_count(3, closed), _count(0, closed), _count(5, closed)])]
    assert [number for index, number in items if index == 0] == [0, 1, 2]
    assert [number for index, number in items if index == 2] == [0, 1, 2, 3, 4]
    assert sorted(closed) == [0, 3, 5]


async def test_the_first_error_ends_all_merged_streams() -> None:
    closed: list[int] = []

    async def read() -> None:
        async for _ in merged([_count(1000, closed), _fail()]):
            pass

    with pytest.raises(ValueError, match="broken"):
        await read()
    assert closed == [1000]


async def test_closing_merged_streams_closes_each_of_them() -> None:
    closed: list[int] = []
    async with aclosing(merged([_count(1000, closed), _count(2000, closed)])) as items:
        await anext(items)
    assert sorted(closed) == [1000, 2000]

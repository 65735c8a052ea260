"""The unchanged openai SDK against the server: both clients, streamed and not."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI, OpenAI

from tests.unit.qwen_server.serving import Served, serve, until

MODEL = "qwen-news-classifier"
ANSWER = "这条新闻属于【财经】类别。"


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Served]:
    async with serve() as served:
        yield served


def client_of(served: Served) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


async def test_chat_and_completion(served: Served) -> None:
    client = client_of(served)
    chat = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "x"}],
        n=2,
        seed=1,
        stop=["\n"],
        user="u",
        logit_bias={"5": 1},
    )
    assert [choice.message.content for choice in chat.choices] == [ANSWER, ANSWER]
    assert chat.usage is not None
    assert chat.usage.total_tokens == chat.usage.prompt_tokens + chat.usage.completion_tokens
    completion = await client.completions.create(model=MODEL, prompt=["a", "b"], max_tokens=5)
    assert [choice.text for choice in completion.choices] == ["科技", "科技"]


async def test_streams(served: Served) -> None:
    client = client_of(served)
    stream = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "x"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == ANSWER
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage is not None
    texts = [
        chunk.choices[0].text async for chunk in await client.completions.create(model=MODEL, prompt="x", stream=True)
    ]
    assert "".join(texts) == "科技"


async def test_models(served: Served) -> None:
    client = client_of(served)
    assert [model.id async for model in await client.models.list()] == [MODEL]
    assert (await client.models.retrieve(MODEL)).id == MODEL


async def test_errors_become_the_sdks_exceptions(served: Served) -> None:
    client = client_of(served)
    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "x"}])
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        await client.completions.create(model=MODEL, prompt="x", temperature=2)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.InternalServerError):
        await client.completions.create(model=MODEL, prompt='@{"fail": "boom"}')
    stream = await client.completions.create(model=MODEL, prompt='@{"fail": "boom", "after": 1}', stream=True)
    with pytest.raises(openai.APIError, match="boom"):
        [chunk async for chunk in stream]


async def test_the_sdk_comes_back_after_a_refusal() -> None:
    async with serve(max_concurrent_requests=1, max_queue_size=0) as served:
        client = AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=3)
        blocking = asyncio.create_task(served.chat('@{"first": 1.5}'))
        await until(lambda: served.service.admission.running == 1)
        assert (await client.completions.create(model=MODEL, prompt="x")).choices[0].text == "科技"
        assert served.service.figures.counters.refusals["queue_full"] >= 1
        assert (await blocking).status_code == 200


async def test_the_synchronous_form(served: Served) -> None:
    def talk() -> tuple[str | None, str]:
        client = OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
        chat = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}])
        stream = client.completions.create(model=MODEL, prompt="x", stream=True)
        return chat.choices[0].message.content, "".join(chunk.choices[0].text for chunk in stream)

    assert await asyncio.to_thread(talk) == (ANSWER, "科技")


async def test_a_client_that_closes_its_stream_frees_the_slot(served: Served) -> None:
    client = client_of(served)
    stream = await client.completions.create(model=MODEL, prompt='@{"tokens": 90, "delay": 0.05}', stream=True)
    await anext(aiter(stream))
    assert served.service.admission.running == 1
    await stream.close()
    await until(lambda: served.service.admission.running == 0, 1)


async def test_a_refusal_is_raised_when_the_sdk_may_not_retry() -> None:
    async with serve(max_concurrent_requests=1, max_queue_size=0) as served:
        client = client_of(served)
        blocking = asyncio.create_task(served.chat('@{"first": 1.5}'))
        await until(lambda: served.service.admission.running == 1)
        with pytest.raises(openai.InternalServerError) as busy:
            await client.completions.create(model=MODEL, prompt="x")
        assert busy.value.status_code == 503
        assert int(busy.value.response.headers["retry-after"]) >= 1
        assert busy.value.response.json() == {"error": "服务繁忙，请稍后重试", "queue_size": 0, "max_queue_size": 0}
        assert (await blocking).status_code == 200


async def test_the_sdk_waits_as_long_as_retry_after_says() -> None:
    async with serve(max_concurrent_requests=1, max_queue_size=0) as served:
        client = AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=1)
        blocking = asyncio.create_task(served.chat('@{"first": 1.5}'))
        await until(lambda: served.service.admission.running == 1)
        begun = time.monotonic()
        assert (await client.completions.create(model=MODEL, prompt="x")).choices[0].text == "科技"
        assert time.monotonic() - begun >= 1  # its own first pause is half a second
        assert (await blocking).status_code == 200


async def test_a_wrong_key_is_an_authentication_error(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("right")
    async with serve(api_keys_dir=tmp_path) as served:
        with pytest.raises(openai.AuthenticationError) as refused:
            await client_of(served).models.list()
        assert refused.value.type == "authentication_error"
        client = AsyncOpenAI(base_url=f"{served.url}/v1", api_key="right", max_retries=0)
        assert [model.id async for model in await client.models.list()] == [MODEL]

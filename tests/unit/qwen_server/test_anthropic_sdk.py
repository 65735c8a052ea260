"""The unchanged anthropic SDK against the server: its exceptions, retries and disconnects."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
import pytest_asyncio
from anthropic import AsyncAnthropic

from qwen_server.config.values import RateLimit
from tests.unit.qwen_server.serving import Served, serve, until

MODEL = "qwen-news-classifier"
ANSWER = "这条新闻属于【财经】类别。"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Served]:
    async with serve() as served:
        yield served


def client_of(served: Served, key: str = "none", retries: int = 0) -> AsyncAnthropic:
    return AsyncAnthropic(base_url=served.url, api_key=key, max_retries=retries, timeout=30)


def asked(text: str = "你好", **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": text}]} | fields


def text_of(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


async def test_errors_become_the_sdks_exceptions(served: Served) -> None:
    client = client_of(served)
    with pytest.raises(anthropic.NotFoundError, match="claude-haiku") as missing:
        await client.messages.create(**asked(model="claude-haiku-4-5"))
    assert missing.value.type == "not_found_error"
    with pytest.raises(anthropic.BadRequestError, match=r"max_tokens.*512") as bad:
        await client.messages.create(**asked(max_tokens=100_000))
    assert bad.value.type == "invalid_request_error"
    with pytest.raises(anthropic.BadRequestError, match=r"messages\[0\]\.role"):
        await client.messages.create(**asked(messages=[{"role": "nobody", "content": "x"}]))


async def test_a_wrong_key_is_an_authentication_error(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("right")
    async with serve(api_keys_dir=tmp_path) as served:
        with pytest.raises(anthropic.AuthenticationError) as refused:
            await client_of(served, "wrong").messages.create(**asked())
        assert refused.value.type == "authentication_error"
        assert text_of(await client_of(served, "right").messages.create(**asked())) == ANSWER


async def test_a_rate_limit_is_raised_or_waited_out() -> None:
    # Longer than a second, so that a slow machine sends all three within the period.
    async with serve(rate_limit=RateLimit(2, 4.0, "2 in 4 s")) as served:
        impatient, patient = client_of(served), client_of(served, retries=4)
        for _ in range(2):
            await impatient.messages.create(**asked())
        with pytest.raises(anthropic.RateLimitError) as refused:
            await impatient.messages.create(**asked())
        assert refused.value.type == "rate_limit_error"
        assert int(refused.value.response.headers["retry-after"]) >= 1
        begun = time.monotonic()
        assert text_of(await patient.messages.create(**asked())) == ANSWER
        assert time.monotonic() - begun >= 1  # its own first pause is half a second


async def test_a_full_queue_is_raised_or_waited_out() -> None:
    async with serve(max_concurrent_requests=1, max_queue_size=0) as served:
        impatient, patient = client_of(served), client_of(served, retries=1)
        blocking = asyncio.create_task(served.chat('@{"first": 1.5}'))
        await until(lambda: served.service.admission.running == 1)
        with pytest.raises(anthropic.InternalServerError) as busy:
            await impatient.messages.create(**asked())
        assert busy.value.status_code == 503
        assert int(busy.value.response.headers["retry-after"]) >= 1
        begun = time.monotonic()
        assert text_of(await patient.messages.create(**asked())) == ANSWER
        assert time.monotonic() - begun >= 1
        assert (await blocking).status_code == 200


async def test_a_client_that_closes_its_stream_frees_the_slot(served: Served) -> None:
    stream = await client_of(served).messages.create(**asked('@{"tokens": 90, "delay": 0.05}'), stream=True)
    await anext(aiter(stream))
    assert served.service.admission.running == 1
    await stream.close()
    await until(lambda: served.service.admission.running == 0, 1)

"""How many tokens of a prompt came from the cache, and answers that end because they repeat."""

from collections.abc import AsyncGenerator, AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from qwen_server.api.bodies.checking import Bodies
from qwen_server.engine.base import Kind
from qwen_server.engine.vllm.completion_api import _noting_cached, _with_all_cached
from qwen_server.engine.vllm.outputs import Merger
from qwen_server.http.error_bodies import HttpError
from tests.unit.qwen_server.serving import Served, events_of, make_settings, serve

pytestmark = pytest.mark.asyncio(loop_scope="module")

REPEATING = {"max_pattern_size": 20, "min_pattern_size": 2, "min_count": 3}
TALK = [{"role": "user", "content": "x"}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Served]:
    async with serve(enable_prompt_tokens_details=True) as served:
        served.engine.cached_tokens = 3
        yield served


async def usage_of_stream(served: Served, **fields: Any) -> dict[str, Any]:
    response = await served.chat(stream=True, stream_options={"include_usage": True}, **fields)
    usage: dict[str, Any] = events_of(response.text)[-2]["usage"]
    return usage


async def test_the_usage_tells_how_much_of_the_prompt_was_cached(served: Served) -> None:
    assert (await served.chat()).json()["usage"]["prompt_tokens_details"] == {"cached_tokens": 3}
    assert (await served.chat(n=2)).json()["usage"]["prompt_tokens_details"] == {"cached_tokens": 3}
    assert (await usage_of_stream(served))["prompt_tokens_details"] == {"cached_tokens": 3}


async def test_without_the_setting_the_usage_has_the_fields_of_the_specification() -> None:
    async with serve() as plain:
        plain.engine.cached_tokens = 3
        fields = {"prompt_tokens", "completion_tokens", "total_tokens"}
        assert set((await plain.chat()).json()["usage"]) == fields
        assert set(await usage_of_stream(plain)) == fields


def result(cached: int | None, prompt: list[int] | None) -> Any:
    return SimpleNamespace(
        outputs=[],
        finished=False,
        metrics=None,
        prompt_token_ids=prompt,
        num_cached_tokens=cached,
        prompt_logprobs=None,
    )


async def test_each_prompt_counts_its_cached_tokens_once() -> None:
    merger = Merger(1)
    for _ in range(2):
        merger.add_prompt(1)
    outputs = [merger.convert(index, result(cached, [1] * 32)) for index, cached in ((0, 16), (0, 16), (1, 8), (1, 8))]
    assert [output.cached_tokens for output in outputs] == [16, 0, 8, 0]
    assert Merger(1).add_prompt(1) == 0


async def test_vllms_stream_of_several_prompts_counts_all_of_them() -> None:
    async def results() -> AsyncGenerator[tuple[int, Any], None]:
        for index, cached in ((0, 16), (1, 8), (0, 16), (2, None)):
            yield index, result(cached, None)

    cached: dict[int, int] = {}

    async def events() -> AsyncGenerator[str, None]:
        async for _ in _noting_cached(results(), cached):
            yield 'data: {"choices":[{"text":"\\"prompt_tokens_details\\":{\\"cached_tokens\\":1"}]}\n\n'
        details = '"prompt_tokens_details":{"cached_tokens":16,"created_cache_tokens":null}'
        yield f'data: {{"choices":[],"usage":{{{details}}}}}\n\n'

    written = [event async for event in _with_all_cached(events(), cached)]
    assert '"cached_tokens":24,' in written[-1]
    assert all('\\"cached_tokens\\":1"' in event for event in written[:-1])


@pytest.mark.parametrize("kind", ["chat", "completion"])
async def test_the_detection_of_repetition_goes_the_fast_way_and_names_its_reason(kind: Kind) -> None:
    prompt = {"messages": TALK} if kind == "chat" else {"prompt": "x"}
    body = Bodies(make_settings()).check(kind, prompt | {"repetition_detection": REPEATING})
    assert (body.fast, body.stop_reasons) == (True, True)
    assert body.fields["repetition_detection"] == REPEATING


@pytest.mark.parametrize("off", [None, {}, {"max_pattern_size": 0}, {"max_pattern_size": 0, "min_count": 1}])
async def test_a_detection_that_is_off_is_accepted(off: Any) -> None:
    assert Bodies(make_settings()).check("chat", {"messages": TALK, "repetition_detection": off}).fast


async def test_other_apis_do_not_have_it() -> None:
    for kind, fields in (("responses", {"input": "x"}), ("messages", {"messages": TALK, "max_tokens": 5})):
        with pytest.raises(HttpError) as refused:
            Bodies(make_settings()).check(kind, fields | {"repetition_detection": REPEATING})  # type: ignore[arg-type]
        assert refused.value.param == "repetition_detection"

"""The openai package for Python on real vLLM: both clients, and common uses of applications."""

from __future__ import annotations

import json
from typing import Any, Literal

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel
from tokenizers import Tokenizer

from tests.integration.builtin_model import ANSWER, NAME, QUESTION
from tests.integration.server_process import ServerProcess

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(420, func_only=True)]

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": QUESTION}]
PROMPT = "请分类：苹果发布新款iPhone\n类别："
# The model's configuration makes answers deterministic; these are random as in OpenAI's API.
RANDOM: dict[str, Any] = {"top_k": -1}


class Category(BaseModel):
    category: Literal["财经", "体育"]
    certain: bool


def test_a_chat(sdk: openai.OpenAI) -> None:
    chat = sdk.chat.completions.create(
        model=NAME, messages=MESSAGES, temperature=0, max_completion_tokens=50, user="u", metadata={"a": "b"}
    )
    assert chat.object == "chat.completion"
    (choice,) = chat.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", ANSWER, "stop")
    assert chat.usage is not None
    assert chat.usage.total_tokens == chat.usage.prompt_tokens + chat.usage.completion_tokens
    cut = sdk.chat.completions.create(model=NAME, messages=MESSAGES, temperature=0, max_completion_tokens=2)
    assert (cut.choices[0].finish_reason, cut.usage and cut.usage.completion_tokens) == ("length", 2)


def test_a_stream_with_usage(sdk: openai.OpenAI) -> None:
    stream = sdk.chat.completions.create(
        model=NAME, messages=MESSAGES, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == ANSWER
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert (chunks[-1].choices, {chunk.id for chunk in chunks}) == ([], {chunks[0].id})
    assert chunks[-1].usage is not None
    assert all(chunk.usage is None for chunk in chunks[:-1])
    whole = sdk.chat.completions.create(model=NAME, messages=MESSAGES, temperature=0)
    assert chunks[-1].usage == whole.usage


def test_usage_in_every_chunk(sdk: openai.OpenAI) -> None:
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    stream = sdk.chat.completions.create(
        model=NAME, messages=MESSAGES, temperature=0, stream=True, stream_options=options
    )
    counts = [chunk.usage.completion_tokens for chunk in stream if chunk.usage is not None]
    assert len(counts) > 3
    assert counts == sorted(counts)
    assert counts[-1] > counts[0]


def test_several_choices(sdk: openai.OpenAI) -> None:
    chat = sdk.chat.completions.create(model=NAME, messages=MESSAGES, n=3, temperature=1, seed=3, max_tokens=5)
    assert [choice.index for choice in chat.choices] == [0, 1, 2]
    stream = sdk.chat.completions.create(
        model=NAME, messages=MESSAGES, n=2, temperature=1, seed=3, max_tokens=5, stream=True
    )
    assert {chunk.choices[0].index for chunk in stream} == {0, 1}


def test_stops(sdk: openai.OpenAI) -> None:
    for stop in ("】", ["类别", "】"]):
        chat = sdk.chat.completions.create(model=NAME, messages=MESSAGES, temperature=0, stop=stop)
        assert (chat.choices[0].message.content, chat.choices[0].finish_reason) == ("这条新闻属于【财经", "stop")


def test_logprobs(sdk: openai.OpenAI) -> None:
    chat = sdk.chat.completions.create(model=NAME, messages=MESSAGES, temperature=0, logprobs=True, top_logprobs=3)
    assert chat.choices[0].message.content == ANSWER
    logprobs = chat.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(token.token for token in logprobs.content).startswith(ANSWER)
    for token in logprobs.content:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert token.logprob == max(top.logprob for top in token.top_logprobs)
    completion = sdk.completions.create(model=NAME, prompt=PROMPT, temperature=0, logprobs=2, max_tokens=1)
    found = completion.choices[0].logprobs
    assert found is not None
    assert found.tokens == ["科技"]
    assert found.top_logprobs is not None
    assert len(found.top_logprobs[0]) == 2


def test_the_same_seed_gives_the_same_text(sdk: openai.OpenAI) -> None:
    def text(seed: int) -> str:
        completion = sdk.completions.create(
            model=NAME, prompt="请", temperature=1, seed=seed, max_tokens=24, extra_body=RANDOM | {"ignore_eos": True}
        )
        return completion.choices[0].text

    assert text(7) == text(7)
    assert len({text(seed) for seed in range(4)}) > 1


def test_a_bias_forces_a_token(sdk: openai.OpenAI, tokenizer: Tokenizer) -> None:
    (wanted,) = tokenizer.encode("体育").ids
    completion = sdk.completions.create(
        model=NAME, prompt=PROMPT, temperature=1, max_tokens=1, logit_bias={str(wanted): 100}, extra_body=RANDOM
    )
    assert completion.choices[0].text == "体育"
    chat = sdk.chat.completions.create(
        model=NAME, messages=MESSAGES, temperature=0, max_tokens=1, logit_bias={str(wanted): 100}
    )
    assert chat.choices[0].message.content == "体育"


def test_json(sdk: openai.OpenAI, no_blanks: dict[str, int]) -> None:
    chat = sdk.chat.completions.create(
        model=NAME, messages=MESSAGES, temperature=0, logit_bias=no_blanks, response_format={"type": "json_object"}
    )
    assert isinstance(json.loads(chat.choices[0].message.content or ""), dict)


@pytest.mark.parametrize("stream", [False, True])
def test_json_after_a_schema(sdk: openai.OpenAI, no_blanks: dict[str, int], stream: bool) -> None:
    schema = Category.model_json_schema() | {"additionalProperties": False}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "category", "strict": True, "schema": schema}}
    options: dict[str, Any] = {"temperature": 0, "logit_bias": no_blanks, "response_format": wanted}
    if stream:
        chunks = sdk.chat.completions.create(model=NAME, messages=MESSAGES, stream=True, **options)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    else:
        text = sdk.chat.completions.create(model=NAME, messages=MESSAGES, **options).choices[0].message.content
    assert Category.model_validate_json(text)


def test_parsing_into_a_model(sdk: openai.OpenAI, no_blanks: dict[str, int]) -> None:
    chat = sdk.chat.completions.parse(
        model=NAME, messages=MESSAGES, temperature=0, logit_bias=no_blanks, response_format=Category
    )
    assert isinstance(chat.choices[0].message.parsed, Category)


@pytest.mark.parametrize(
    ("constraint", "answers"),
    [
        ({"choice": ["体育", "游戏"]}, {"体育", "游戏"}),
        ({"regex": "[AB]{3}"}, {a + b + c for a in "AB" for b in "AB" for c in "AB"}),
        ({"grammar": 'root ::= "甲" tail\ntail ::= "乙" | "丙"'}, {"甲乙", "甲丙"}),
        ({"json": {"enum": ["甲", 5]}}, {'"甲"', "5"}),
    ],
)
def test_structured_outputs(sdk: openai.OpenAI, constraint: dict[str, Any], answers: set[str]) -> None:
    body = {"structured_outputs": constraint}
    chat = sdk.chat.completions.create(model=NAME, messages=MESSAGES, temperature=0.5, extra_body=body)
    assert chat.choices[0].message.content in answers
    completion = sdk.completions.create(model=NAME, prompt=PROMPT, temperature=0.5, extra_body=body)
    assert completion.choices[0].text in answers


def test_completions(sdk: openai.OpenAI, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(PROMPT).ids
    prompts: list[Any] = [PROMPT, [PROMPT, PROMPT], ids, [ids, ids]]
    for prompt in prompts:
        completion = sdk.completions.create(model=NAME, prompt=prompt, temperature=0)
        assert {choice.text for choice in completion.choices} == {"科技"}
        several = isinstance(prompt, list) and not isinstance(prompt[0], int)
        assert [choice.index for choice in completion.choices] == ([0, 1] if several else [0])
        assert completion.usage is not None
        assert completion.usage.prompt_tokens == len(ids) * len(completion.choices)
    stream = sdk.completions.create(model=NAME, prompt=PROMPT, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "科技"


def test_models(sdk: openai.OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == [NAME]
    model = sdk.models.retrieve(NAME)
    assert (model.id, model.object) == (NAME, "model")
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("other")


def test_headers(sdk: openai.OpenAI) -> None:
    raw = sdk.chat.completions.with_raw_response.create(
        model=NAME, messages=MESSAGES, temperature=0, extra_headers={"X-Request-Id": "mine-1"}
    )
    assert raw.headers["x-request-id"] == "mine-1"
    assert raw.headers["server-timing"].startswith("queue;dur=")
    chat = raw.parse()
    assert chat.choices[0].message.content == ANSWER
    own = sdk.chat.completions.create(model=NAME, messages=MESSAGES, max_tokens=1)
    assert own._request_id


def test_errors(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        sdk.chat.completions.create(model="other", messages=MESSAGES)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as bad:
        sdk.chat.completions.create(model=NAME, messages=MESSAGES, max_tokens=100_000)
    assert (bad.value.param, bad.value.type) == ("max_tokens", "invalid_request_error")
    assert "512" in bad.value.message
    with pytest.raises(openai.BadRequestError) as long:
        sdk.completions.create(model=NAME, prompt="新闻" * 5000)
    assert (long.value.param, long.value.code) == ("prompt", "context_length_exceeded")


async def test_the_asynchronous_form(server: ServerProcess, no_blanks: dict[str, int]) -> None:
    url = f"{server.url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
        chat = await client.chat.completions.create(model=NAME, messages=MESSAGES, temperature=0)
        assert chat.choices[0].message.content == ANSWER
        stream = await client.chat.completions.create(
            model=NAME, messages=MESSAGES, temperature=0, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == ANSWER
        assert chunks[-1].usage == chat.usage
        completion = await client.completions.create(model=NAME, prompt=[PROMPT, PROMPT], temperature=0)
        assert [choice.text for choice in completion.choices] == ["科技", "科技"]
        parsed = await client.chat.completions.parse(
            model=NAME, messages=MESSAGES, temperature=0, logit_bias=no_blanks, response_format=Category
        )
        assert isinstance(parsed.choices[0].message.parsed, Category)
        assert [model.id async for model in client.models.list()] == [NAME]
        async with client.chat.completions.stream(model=NAME, messages=MESSAGES, temperature=0) as events:
            kinds = [event.type async for event in events]
        assert {"chunk", "content.delta", "content.done"} <= set(kinds)
        with pytest.raises(openai.BadRequestError) as bad:
            await client.chat.completions.create(model=NAME, messages=MESSAGES, temperature=1.5)
        assert bad.value.param == "temperature"


def test_a_stream_that_is_closed_frees_the_slot(server: ServerProcess, sdk: openai.OpenAI, http: httpx.Client) -> None:
    stream = sdk.completions.create(
        model=NAME, prompt="请分类：", max_tokens=512, n=16, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    assert http.get("/api/v1/metrics").json()["requests"]["running"] == 1
    stream.close()
    server.until(lambda: server.metrics()["requests"]["running"] == 0, 5, "the slot is free")

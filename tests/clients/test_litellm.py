"""LiteLLM as a library, with the providers for OpenAI's APIs, vLLM and Anthropic's API."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any, Literal

import litellm
import pytest
from pydantic import BaseModel

from tests.clients.overload import refusal_of, spend, through_a_full_queue
from tests.clients.questions import ANSWER, CALL, CITY, LABEL, LONG, NAME, PROMPT, QUESTION, TOOL, forced
from tests.integration.server_process import ServerProcess

MESSAGES = [{"role": "user", "content": QUESTION}]
PROVIDERS = ["openai", "hosted_vllm", "anthropic"]


class Label(BaseModel):
    category: Literal["财经", "体育"]


def access(server: ServerProcess, key: str, provider: str = "hosted_vllm") -> dict[str, Any]:
    base = server.url if provider == "anthropic" else f"{server.url}/v1"
    return {"model": f"{provider}/{NAME}", "api_base": base, "api_key": key, "timeout": 90}


def ask(server: ServerProcess, key: str, provider: str = "hosted_vllm", **options: Any) -> Any:
    given = {"messages": MESSAGES, "temperature": 0, "max_tokens": 200, "max_retries": 0}
    return litellm.completion(**(given | access(server, key, provider) | options))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_answer_streamed_and_not(server: ServerProcess, key: str, provider: str) -> None:
    whole = ask(server, key, provider)
    assert whole.choices[0].message.content == ANSWER
    chunks = list(ask(server, key, provider, stream=True, stream_options={"include_usage": True}))
    streamed = litellm.stream_chunk_builder(chunks)
    assert streamed.choices[0].message.content == ANSWER
    assert streamed.choices[0].finish_reason == whole.choices[0].finish_reason == "stop"
    for count in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert getattr(streamed.usage, count) == getattr(whole.usage, count) > 0


def test_options_of_streams_do_no_harm_elsewhere(server: ServerProcess, key: str) -> None:
    """Tools on LiteLLM send them with every request."""
    whole = ask(server, key, extra_body={"stream_options": {"include_usage": True}})
    assert whole.choices[0].message.content == ANSWER


def test_a_completion(server: ServerProcess, key: str) -> None:
    given = access(server, key) | {"prompt": PROMPT, "temperature": 0, "max_tokens": 20}
    assert litellm.text_completion(**given).choices[0].text == LABEL


def test_a_response(server: ServerProcess, key: str) -> None:
    given = access(server, key, "openai") | {"input": QUESTION, "temperature": 0}
    response = litellm.responses(**given)
    assert response.output[0].content[0].text == ANSWER
    events = list(litellm.responses(**given, stream=True))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == ANSWER


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called(server: ServerProcess, key: str, stream: bool) -> None:
    given: dict[str, Any] = {"tools": [TOOL], "tool_choice": "auto", "extra_body": forced(CALL)}
    answer = ask(server, key, stream=stream, **given)
    answer = litellm.stream_chunk_builder(list(answer)) if stream else answer
    (call,) = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", CITY)
    talk = [
        *MESSAGES,
        answer.choices[0].message.model_dump(),
        {"role": "tool", "tool_call_id": call.id, "content": "晴"},
    ]
    after = ask(server, key, messages=talk, tools=[TOOL], extra_body=forced("北京今天晴。"))
    assert after.choices[0].message.content == "北京今天晴。"


def test_an_answer_after_a_schema(server: ServerProcess, key: str, no_blanks: dict[str, int]) -> None:
    answer = ask(server, key, response_format=Label, logit_bias=no_blanks)
    assert Label.model_validate_json(answer.choices[0].message.content)


def test_errors_are_its_own(server: ServerProcess, key: str) -> None:
    with pytest.raises(litellm.AuthenticationError):
        ask(server, "wrong")
    with pytest.raises(litellm.NotFoundError, match="other"):
        ask(server, key, model="hosted_vllm/other")
    with pytest.raises(litellm.BadRequestError, match="512"):
        ask(server, key, max_tokens=32_000)
    with pytest.raises(litellm.BadRequestError) as long:
        ask(server, key, messages=[{"role": "user", "content": "新闻" * 5000}])
    assert isinstance(long.value, litellm.ContextWindowExceededError)
    refusal_of(server, key, lambda: ask(server, key), litellm.RateLimitError)


def test_refusals_are_waited_out_by_its_router(server: ServerProcess, key: str) -> None:
    """Its proxy uses the router. The plain functions repeat at once."""
    deployment = {"model_name": "qwen", "litellm_params": access(server, key)}
    router = litellm.Router(model_list=[deployment], num_retries=5)

    def patient() -> str:
        return str(router.completion(model="qwen", messages=MESSAGES, temperature=0).choices[0].message.content)

    assert through_a_full_queue(server, key, patient).result == ANSWER
    spend(server, key)
    assert patient() == ANSWER


async def test_a_stream_that_is_left_frees_the_slot(server: ServerProcess, key: str) -> None:
    given = access(server, key) | {"messages": MESSAGES, "stream": True, "max_tokens": LONG["max_tokens"]}
    begun = asyncio.Event()

    async def read() -> None:
        async for _ in await litellm.acompletion(**given, extra_body={"ignore_eos": True}):
            begun.set()

    reading = asyncio.create_task(read())
    await begun.wait()
    assert server.metrics()["requests"]["running"] == 1
    reading.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reading
    server.until_requests(0, 0, 5)

"""The finish reason of a chat with tool calls comes in a chunk of its own."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from qwen_server.engine.vllm.finish_events import finished_apart

CALL = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TEXT = {"content": '"tool_calls":[{'}


def event(delta: dict[str, Any], reason: str | None, **further: Any) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": reason, **further}
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return f"data: {json.dumps(chunk, separators=(',', ':'), ensure_ascii=False)}\n\n"


async def streamed(*events: str) -> list[str]:
    async def source() -> AsyncGenerator[str, None]:
        for some in events:
            yield some

    return [some async for some in finished_apart(source())]


def choice_of(some: str) -> dict[str, Any]:
    chunk = json.loads(some.removeprefix("data: "))
    assert (chunk["id"], chunk["model"]) == ("1", "m")
    (choice,) = chunk["choices"]
    assert isinstance(choice, dict)
    return choice


@pytest.mark.parametrize(
    "unchanged",
    [
        event({"tool_calls": [CALL]}, None),
        event(TEXT, "stop"),
        event({}, "tool_calls"),
        "data: [DONE]\n\n",
    ],
)
async def test_other_events_stay_as_they_are(unchanged: str) -> None:
    assert await streamed(unchanged) == [unchanged]


async def test_a_call_and_its_end_are_two_events() -> None:
    both = event({"content": "值", "tool_calls": [CALL]}, "tool_calls", stop_reason=7, logprobs=None)
    call, end = map(choice_of, await streamed(both))
    assert call == {
        "index": 0,
        "delta": {"content": "值", "tool_calls": [CALL]},
        "finish_reason": None,
        "stop_reason": None,
        "logprobs": None,
    }
    assert end == {"index": 0, "delta": {}, "finish_reason": "tool_calls", "stop_reason": 7}


async def test_the_sdk_reports_the_call_as_done() -> None:
    role = event({"role": "assistant", "content": ""}, None)
    state = ChatCompletionStreamState(input_tools=[{"type": "function", "function": {"name": "f"}}])
    found: list[str] = []
    for some in await streamed(role, event({"tool_calls": [CALL]}, "tool_calls")):
        chunk = ChatCompletionChunk.model_validate_json(some.removeprefix("data: "))
        found += [made.type for made in state.handle_chunk(chunk)]
    assert found.count("tool_calls.function.arguments.done") == 1

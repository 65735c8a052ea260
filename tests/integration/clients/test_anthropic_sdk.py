"""The anthropic package on real vLLM: messages, streams, tools, thoughts and parsed answers."""

from __future__ import annotations

from typing import Any, Literal

import anthropic
import pytest

from tests.integration.builtin_model import ANSWER, NAME, QUESTION

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(420, func_only=True)]

TALK: list[anthropic.types.MessageParam] = [{"role": "user", "content": QUESTION}]
EXACT: dict[str, Any] = {"model": NAME, "max_tokens": 200, "messages": TALK, "extra_body": {"temperature": 0}}
# Whole values: this model would fill the places where JSON allows blanks with them, and the API has
# no bias against tokens.
INPUTS = [{"city": "北京"}, {"city": "上海"}]
LABEL: Any = Literal["财经", "体育"]
TOOL: anthropic.types.ToolParam = {
    "name": "get_weather",
    "description": "The weather in a city",
    "input_schema": {"type": "object", "enum": INPUTS},
    "strict": True,
}


def streamed(client: anthropic.Anthropic, **asked: Any) -> tuple[list[Any], anthropic.types.Message]:
    with client.messages.stream(**asked) as stream:
        events = list(stream)
        return events, stream.get_final_message()


def contents(message: anthropic.types.Message) -> list[dict[str, Any]]:
    """The blocks of a message without the ids of calls."""
    return [block.model_dump(exclude={"id"}, exclude_none=True) for block in message.content]


def test_a_stream_equals_the_whole_message(anthropic_sdk: anthropic.Anthropic) -> None:
    whole = anthropic_sdk.messages.create(**EXACT)
    events, final = streamed(anthropic_sdk, **EXACT)
    assert contents(final) == contents(whole) == [{"type": "text", "text": ANSWER}]
    assert "".join(event.text for event in events if event.type == "text") == ANSWER
    assert (final.stop_reason, final.usage.input_tokens, final.usage.output_tokens) == (
        whole.stop_reason,
        whole.usage.input_tokens,
        whole.usage.output_tokens,
    )


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_a_tool_is_called_and_the_talk_goes_on(anthropic_sdk: anthropic.Anthropic, choice: Any) -> None:
    """A grammar makes the model call: it cannot do so by itself."""
    asked = EXACT | {"tools": [TOOL], "tool_choice": choice | {"disable_parallel_tool_use": True}}
    whole = anthropic_sdk.messages.create(**asked)
    events, final = streamed(anthropic_sdk, **asked)
    assert contents(final) == contents(whole)
    (call,) = final.content
    assert call.type == "tool_use"
    assert (call.name, final.stop_reason) == ("get_weather", "tool_use")
    assert call.input in INPUTS
    (done,) = (event.content_block for event in events if event.type == "content_block_stop")
    assert done.input == call.input
    result: anthropic.types.ToolResultBlockParam = {"type": "tool_result", "tool_use_id": call.id, "content": "晴"}
    history: list[anthropic.types.MessageParam] = [
        *TALK,
        {"role": "assistant", "content": final.content},
        {"role": "user", "content": [result]},
    ]
    after = anthropic_sdk.messages.create(**(EXACT | {"messages": history, "tools": [TOOL]}))
    assert after.usage.input_tokens > final.usage.input_tokens
    assert after.content


def test_a_thought_has_a_block_of_its_own(anthropic_sdk: anthropic.Anthropic) -> None:
    asked = EXACT | {"extra_body": {"temperature": 0, "chat_template_kwargs": {"enable_thinking": True}}}
    whole = anthropic_sdk.messages.create(**asked)
    _, final = streamed(anthropic_sdk, **asked)
    assert whole.content[0].type == final.content[0].type == "thinking"
    assert final.content[0].thinking == whole.content[0].thinking != ""


def test_an_answer_is_parsed(anthropic_sdk: anthropic.Anthropic) -> None:
    asked = EXACT | {"output_format": LABEL}
    whole = anthropic_sdk.messages.parse(**asked)
    assert whole.parsed_output in {"财经", "体育"}
    _, final = streamed(anthropic_sdk, **asked)
    assert contents(final) == contents(whole)


def test_the_count_of_tokens_is_what_is_used(anthropic_sdk: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {"model": NAME, "messages": TALK, "tools": [TOOL], "system": "你是新闻分类助手。"}
    used = anthropic_sdk.messages.create(max_tokens=1, **asked).usage.input_tokens
    assert anthropic_sdk.messages.count_tokens(**asked).input_tokens == used

"""The openai package's own helpers, which parse streams and answers and fail on what is inexact."""

from __future__ import annotations

import json
from typing import Any, Literal

import openai
import pytest
from openai.lib.streaming.responses import ResponseStreamEvent
from openai.types.chat import ChatCompletionMessageParam
from openai.types.responses import ParsedResponse, ResponseFunctionToolCall
from pydantic import BaseModel
from tokenizers import Tokenizer

from tests.integration.builtin_model import ANSWER, NAME, QUESTION

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(420, func_only=True)]

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": QUESTION}]
CITY = {"city": "北京"}


class Weather(BaseModel):
    """The weather in a city."""

    city: Literal["北京", "上海"]


class Label(BaseModel):
    category: Literal["财经", "体育"]


def written(*cities: str) -> str:
    """What a model of the family writes to call the tool for each city."""
    return "\n".join(
        f'<tool_call>\n{{"name": "Weather", "arguments": {{"city": "{city}"}}}}\n</tool_call>' for city in cities
    )


def forced(text: str, **fields: Any) -> dict[str, Any]:
    return {"extra_body": {"structured_outputs": {"choice": [text]}} | fields}


def test_a_streamed_chat_is_parsed_like_a_whole_one(sdk: openai.OpenAI, no_blanks: dict[str, int]) -> None:
    asked: dict[str, Any] = {"messages": MESSAGES, "temperature": 0, "logit_bias": no_blanks, "response_format": Label}
    whole = sdk.chat.completions.parse(model=NAME, **asked).choices[0].message
    with sdk.chat.completions.stream(model=NAME, **asked) as stream:
        events = list(stream)
        last = stream.get_final_completion().choices[0]
    assert isinstance(last.message.parsed, Label)
    assert (last.message.parsed, last.message.content) == (whole.parsed, whole.content)
    assert "".join(event.delta for event in events if event.type == "content.delta") == whole.content
    (done,) = (event for event in events if event.type == "content.done")
    assert done.parsed == whole.parsed


def test_a_streamed_call_has_parsed_arguments(sdk: openai.OpenAI, no_blanks: dict[str, int]) -> None:
    """The tool is strict: vLLM's grammar of its arguments takes the place of any other."""
    asked: dict[str, Any] = {
        "messages": MESSAGES,
        "tools": [openai.pydantic_function_tool(Weather)],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "temperature": 0,
        "max_tokens": 200,
        "logit_bias": no_blanks,
    }
    (whole,) = sdk.chat.completions.parse(model=NAME, **asked).choices[0].message.tool_calls or []
    with sdk.chat.completions.stream(model=NAME, **asked) as stream:
        events = list(stream)
        choice = stream.get_final_completion().choices[0]
    (call,) = choice.message.tool_calls or []
    assert choice.finish_reason == "tool_calls"
    assert isinstance(call.function.parsed_arguments, Weather)
    assert call.function.parsed_arguments == whole.function.parsed_arguments
    deltas = [event for event in events if event.type == "tool_calls.function.arguments.delta"]
    assert "".join(event.arguments_delta for event in deltas) == call.function.arguments
    (done,) = (event for event in events if event.type == "tool_calls.function.arguments.done")
    assert (done.name, done.parsed_arguments) == ("Weather", whole.function.parsed_arguments)


def test_an_answer_that_is_cut_cannot_be_parsed(sdk: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"messages": MESSAGES, "max_tokens": 2, "response_format": Label}
    with pytest.raises(openai.LengthFinishReasonError):
        sdk.chat.completions.parse(model=NAME, **asked)
    with (
        pytest.raises(openai.LengthFinishReasonError),
        sdk.chat.completions.stream(model=NAME, **asked) as stream,
    ):
        list(stream)


def streamed(sdk: openai.OpenAI, **fields: Any) -> tuple[list[ResponseStreamEvent[Any]], ParsedResponse[Any]]:
    """The events of a streamed response, whose order is checked, and the final response."""
    with sdk.responses.stream(model=NAME, input=QUESTION, **fields) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    opened: dict[int, str | None] = {}
    for event in events:
        if event.type == "response.output_item.added":
            assert event.output_index not in opened
            opened[event.output_index] = event.item.id
        elif event.type == "response.output_item.done":
            assert opened.pop(event.output_index) == event.item.id
        elif (index := getattr(event, "output_index", None)) is not None:
            assert opened[index] == getattr(event, "item_id", opened[index])
    assert opened == {}
    return events, final


def contents(response: Any) -> list[Any]:
    """The output of a response without its ids."""

    def without_ids(item: Any) -> Any:
        if isinstance(item, dict):
            return {
                name: without_ids(value)
                for name, value in item.items()
                if name not in {"id", "call_id", "parsed", "parsed_arguments"} and value not in (None, [])
            }
        return [without_ids(each) for each in item] if isinstance(item, list) else item

    return [without_ids(item.model_dump()) for item in response.output]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (ANSWER, ["message"]),
        (written("北京"), ["function_call"]),
        (written("北京", "上海"), ["function_call", "function_call"]),
        ("好的。" + written("北京"), ["message", "function_call"]),
    ],
    ids=["text", "call", "two calls", "text and call"],
)
def test_a_streamed_response_is_the_whole_one(sdk: openai.OpenAI, text: str, names: list[str]) -> None:
    tool = {"type": "function", "name": "Weather", "parameters": Weather.model_json_schema()}
    asked: dict[str, Any] = {"tools": [tool], "temperature": 0, "max_output_tokens": 200, **forced(text)}
    whole = sdk.responses.create(model=NAME, input=QUESTION, **asked)
    events, final = streamed(sdk, **asked)
    assert [item.type for item in final.output] == names
    assert contents(final) == contents(whole)
    assert (final.status, final.usage and final.usage.output_tokens) == (
        "completed",
        whole.usage and whole.usage.output_tokens,
    )
    assert "<tool_call>" not in final.output_text
    called = [item for item in final.output if isinstance(item, ResponseFunctionToolCall)]
    for item in called:
        deltas = [
            event.delta
            for event in events
            if event.type == "response.function_call_arguments.delta" and event.item_id == item.id
        ]
        assert json.loads("".join(deltas)) == json.loads(item.arguments)
    assert [json.loads(item.arguments) for item in called] == [CITY, {"city": "上海"}][: len(called)]


def test_a_streamed_response_keeps_the_thought_apart(sdk: openai.OpenAI, tokenizer: Tokenizer) -> None:
    # The thought ends with its first token: left alone, this model thinks without end.
    ends = {str(tokenizer.token_to_id("</think>")): 100}
    asked: dict[str, Any] = {
        "reasoning": {"effort": "low"},
        "temperature": 0,
        **forced("财经新闻", logit_bias=ends),
    }
    whole = sdk.responses.create(model=NAME, input=QUESTION, **asked)
    _, final = streamed(sdk, **asked)
    assert [item.type for item in final.output] == [item.type for item in whole.output]
    assert final.output_text == whole.output_text == "财经新闻"
    assert contents(final) == contents(whole)


def test_a_streamed_response_that_is_cut_is_incomplete(sdk: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"temperature": 0, "max_output_tokens": 3}
    whole = sdk.responses.create(model=NAME, input=QUESTION, **asked)
    events = list(sdk.responses.create(model=NAME, input=QUESTION, stream=True, **asked))
    last = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.status == whole.status == "incomplete"
    assert last.response.incomplete_details is not None
    assert last.response.incomplete_details.reason == "max_output_tokens"
    assert last.response.output_text == whole.output_text


def test_a_response_is_parsed(sdk: openai.OpenAI, no_blanks: dict[str, int]) -> None:
    asked: dict[str, Any] = {"temperature": 0, "text_format": Label, "extra_body": {"logit_bias": no_blanks}}
    whole = sdk.responses.parse(model=NAME, input=QUESTION, **asked)
    assert isinstance(whole.output_parsed, Label)
    _, final = streamed(sdk, **asked)
    assert final.output_parsed == whole.output_parsed

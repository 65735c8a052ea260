"""Tools on the reference path, with the tool parser of the model's family.

The model cannot call tools by itself: a grammar makes it write what a capable model would.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam, ChatCompletionToolUnionParam

from tests.integration.builtin_model import NAME, QUESTION

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(420, func_only=True)]

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": QUESTION}]
CITIES = ["北京", "上海"]
PARAMETERS: dict[str, object] = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": CITIES}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS: list[ChatCompletionToolUnionParam] = [
    {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}
]
# vLLM enforces the schema of the arguments only for strict tools.
STRICT: list[ChatCompletionToolUnionParam] = [
    {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS, "strict": True}}
]
NAMED: Any = {"type": "function", "function": {"name": "get_weather"}}


def written(*cities: str) -> str:
    """What a model of the family writes to call the tool for each city."""
    return "\n".join(
        f'<tool_call>\n{{"name": "get_weather", "arguments": {{"city": "{city}"}}}}\n</tool_call>' for city in cities
    )


def forced(text: str) -> dict[str, Any]:
    return {"structured_outputs": {"choice": [text]}}


def calls_of(chunks: Iterable[ChatCompletionChunk]) -> tuple[list[tuple[str, str]], str, str | None]:
    """Joins a stream: names and arguments of the calls, the content, and the finish reason."""
    calls: dict[int, list[str]] = {}
    text, reason = "", None
    for chunk in chunks:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
            for call in choice.delta.tool_calls or []:
                if call.index not in calls:
                    assert call.id
                    calls[call.index] = ["", ""]
                if call.function is not None:
                    calls[call.index][0] += call.function.name or ""
                    calls[call.index][1] += call.function.arguments or ""
    return [(name, arguments) for _, (name, arguments) in sorted(calls.items())], text, reason


@pytest.mark.parametrize("cities", [["北京"], ["北京", "上海"]])
def test_calls_are_read_from_the_answer(sdk: openai.OpenAI, cities: list[str]) -> None:
    options: dict[str, Any] = {"tools": TOOLS, "tool_choice": "auto", "max_tokens": 300}
    chat = sdk.chat.completions.create(model=NAME, messages=MESSAGES, **options, extra_body=forced(written(*cities)))
    (choice,) = chat.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert choice.message.tool_calls is not None
    assert len({call.id for call in choice.message.tool_calls}) == len(cities)
    for call, city in zip(choice.message.tool_calls, cities, strict=True):
        assert call.type == "function"
        assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": city})
    stream = sdk.chat.completions.create(
        model=NAME, messages=MESSAGES, **options, stream=True, extra_body=forced(written(*cities))
    )
    calls, text, reason = calls_of(stream)
    assert [(name, json.loads(arguments)) for name, arguments in calls] == [
        ("get_weather", {"city": city}) for city in cities
    ]
    assert (text, reason) == ("", "tool_calls")


def test_text_before_a_call_stays_text(sdk: openai.OpenAI) -> None:
    body = forced("好的。" + written("上海"))
    options: dict[str, Any] = {"tools": TOOLS, "max_tokens": 300, "extra_body": body}
    message = sdk.chat.completions.create(model=NAME, messages=MESSAGES, **options).choices[0].message
    assert (message.content, len(message.tool_calls or [])) == ("好的。", 1)
    calls, text, reason = calls_of(sdk.chat.completions.create(model=NAME, messages=MESSAGES, stream=True, **options))
    assert (len(calls), text, reason) == (1, "好的。", "tool_calls")


def test_an_answer_without_a_call_is_an_answer(sdk: openai.OpenAI) -> None:
    for choice in ("auto", "none"):
        chat = sdk.chat.completions.create(
            model=NAME, messages=MESSAGES, tools=TOOLS, tool_choice=choice, extra_body=forced("体育")
        )
        assert (chat.choices[0].message.content, chat.choices[0].finish_reason) == ("体育", "stop")
        assert not chat.choices[0].message.tool_calls


def test_calls_one_at_a_time(sdk: openai.OpenAI) -> None:
    body = forced(written("北京", "上海"))
    chat = sdk.chat.completions.create(
        model=NAME, messages=MESSAGES, tools=TOOLS, parallel_tool_calls=False, max_tokens=300, extra_body=body
    )
    assert len(chat.choices[0].message.tool_calls or []) == 1


@pytest.mark.parametrize(("choice", "reason"), [("required", "tool_calls"), (NAMED, "stop")])
def test_a_forced_call_follows_its_schema(
    sdk: openai.OpenAI, no_blanks: dict[str, int], choice: Any, reason: str
) -> None:
    """vLLM makes the grammar. OpenAI's finish reason for a named function is `stop`."""
    options: dict[str, Any] = {
        "tools": STRICT,
        "tool_choice": choice,
        "parallel_tool_calls": False,
        "temperature": 0,
        "max_tokens": 200,
        "logit_bias": no_blanks,
    }
    chat = sdk.chat.completions.create(model=NAME, messages=MESSAGES, **options)
    (call,) = chat.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] in CITIES
    assert chat.choices[0].finish_reason == reason
    stream = sdk.chat.completions.create(model=NAME, messages=MESSAGES, stream=True, **options)
    ((name, arguments),), _, _ = calls_of(stream)
    assert (name, json.loads(arguments)) == (call.function.name, json.loads(call.function.arguments))


@pytest.mark.parametrize(
    ("cut", "text", "reason"),
    [
        ({"stop": ["city"]}, '<tool_call>\n{"name": "get_weather", "arguments": {"', "stop"),
        ({"stop": ["</tool"]}, None, "tool_calls"),
        ({"max_tokens": 6}, None, "length"),
        ({"stop": ["city"], "n": 2, "temperature": 1}, '<tool_call>\n{"name": "get_weather", "arguments": {"', "stop"),
    ],
)
def test_a_cut_call_is_the_same_streamed_as_not(
    http: httpx.Client, cut: dict[str, Any], text: str | None, reason: str
) -> None:
    body = {"messages": MESSAGES, "tools": TOOLS, "max_tokens": 300} | forced(written("北京")) | cut
    whole = http.post("/v1/chat/completions", json=body).json()["choices"]
    events = http.post("/v1/chat/completions", json=body | {"stream": True}).text.splitlines()
    chunks = [
        ChatCompletionChunk.model_validate_json(line.removeprefix("data: "))
        for line in events
        if line.startswith("data: {")
    ]
    for index, choice in enumerate(whole):
        of_choice = [chunk for chunk in chunks if chunk.choices[0].index == index]
        calls, streamed, finish = calls_of(of_choice)
        message = choice["message"]
        found = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", [])]
        assert (calls, streamed, finish) == (found, message["content"] or "", choice["finish_reason"])
        assert finish == reason
        assert streamed or calls
        if text is not None:
            assert streamed == text


def test_a_conversation_goes_on_after_a_call(sdk: openai.OpenAI) -> None:
    first = sdk.chat.completions.create(
        model=NAME, messages=MESSAGES, tools=TOOLS, max_tokens=200, extra_body=forced(written("北京"))
    )
    (call,) = first.choices[0].message.tool_calls or []
    history: list[Any] = [
        *MESSAGES,
        first.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "晴，25 度"},
    ]
    answer = sdk.chat.completions.create(model=NAME, messages=history, tools=TOOLS, extra_body=forced("北京今天晴。"))
    assert answer.choices[0].message.content == "北京今天晴。"
    assert answer.usage is not None
    assert first.usage is not None
    assert answer.usage.prompt_tokens > first.usage.prompt_tokens + 30


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": {}}, "tools"),
        ({"tools": [1]}, "tools[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function"}], "tool_choice": NAMED}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": 5}}]}, "tools[0].function.parameters"),
        ({"tools": [{"type": "other", "function": {"name": "f"}}]}, "tools[0].type"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "strict": True, "parameters": {"type": 5}}}]},
            "tools",
        ),
        ({"tools": TOOLS, "tool_choice": "perhaps"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [], "tool_choice": NAMED}, "tool_choice"),
        ({"messages": [{"role": "assistant", "tool_calls": 5}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "messages[0].tool_calls[0].function"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_wrong_with_tools_is_named(
    http: httpx.Client, fields: dict[str, Any], param: str, stream: bool
) -> None:
    response = http.post("/v1/chat/completions", json={"messages": MESSAGES, "stream": stream} | fields)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param

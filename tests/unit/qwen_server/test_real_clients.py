"""What editors, agents and web interfaces send with every request, and what they get."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from qwen_server.api.bodies.body import Body
from qwen_server.api.bodies.checking import Bodies
from qwen_server.api.bodies.limits import Limits
from qwen_server.api.openapi.schemas import schemas
from qwen_server.engine.base import Kind
from qwen_server.http.error_bodies import HttpError
from tests.unit.qwen_server.serving import events_of, make_settings, serve

TALK = [{"role": "user", "content": "x"}]
CLAMPING = Bodies(make_settings(on_exceed="clamp"))
REFUSING = Bodies(make_settings())
LEAST: dict[Kind, dict[str, Any]] = {
    "chat": {"messages": TALK},
    "completion": {"prompt": "x"},
    "responses": {"input": "x"},
    "messages": {"messages": TALK, "max_tokens": 5},
    "count_tokens": {"messages": TALK},
    "tokenize": {"messages": TALK},
}


def parse(kind: Kind, bodies: Bodies = REFUSING, /, **fields: Any) -> Body:
    return bodies.check(kind, LEAST[kind] | fields)


def refused_param(kind: Kind, bodies: Bodies = REFUSING, /, **fields: Any) -> Any:
    with pytest.raises(HttpError) as caught:
        parse(kind, bodies, **fields)
    assert caught.value.status == 400
    return caught.value.body["error"]["param"]


# Tools


@pytest.mark.parametrize(
    ("kind", "choices"),
    [
        ("chat", ["auto", "none", None]),
        ("responses", ["auto", "none", None]),
        ("messages", [{"type": "auto"}, {"type": "none"}, None]),
        ("count_tokens", [{"type": "auto"}]),
        ("tokenize", [None]),
    ],
)
def test_an_empty_list_of_tools_means_none(kind: Kind, choices: list[Any]) -> None:
    for choice in choices:
        fields = parse(kind, tools=[], tool_choice=choice).fields
        assert not {"tools", "tool_choice"} & fields.keys()
        assert fields == parse(kind).fields


def test_a_choice_among_no_tools_is_left_to_the_engine_to_refuse() -> None:
    for choice in ("required", {"type": "function", "function": {"name": "f"}}):
        assert parse("chat", tools=[], tool_choice=choice).fields["tool_choice"] == choice


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "f"}])
def test_a_message_cannot_force_a_tool_that_it_lacks(choice: dict[str, str]) -> None:
    """vLLM would not notice."""
    nothing: list[dict[str, Any]] = [{}, {"tools": []}, {"tools": None}]
    for fields in nothing:
        assert refused_param("messages", tool_choice=choice, **fields) == "tool_choice"
    tools = [{"name": "f", "input_schema": {}}]
    assert parse("messages", tool_choice=choice, tools=tools).fields["tool_choice"] == choice
    added = {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": {"name": "f"}}}
    assert parse("messages", tool_choice=choice, messages=[*TALK, {"role": "system", "content": [added]}])


def test_tools_keep_their_choice() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    fields = parse("chat", tools=tools, tool_choice="auto", parallel_tool_calls=False).fields
    assert (fields["tools"], fields["tool_choice"], fields["parallel_tool_calls"]) == (tools, "auto", False)


# Stops


@pytest.mark.parametrize(("kind", "name"), [("chat", "stop"), ("completion", "stop"), ("messages", "stop_sequences")])
def test_as_many_stops_as_the_setting_allows(kind: Kind, name: str) -> None:
    stops = [f"<{index}>" for index in range(32)]
    assert parse(kind, **{name: stops}).fields[name] == stops
    assert refused_param(kind, **{name: [*stops, "x"]}) == name
    few = Bodies(make_settings(max_stops=2))
    assert parse(kind, few, **{name: stops[:2]}).fields[name] == stops[:2]
    with pytest.raises(HttpError, match="invalid_request") as caught:
        parse(kind, few, **{name: stops[:3]})
    assert caught.value.text == f"{name} has 3 entries; the limit is 2 (set by --max-stops)"


# Options of a stream that is none


@pytest.mark.parametrize("fields", [{}, {"stream": False}, {"stream": None}])
def test_stream_options_without_a_stream_are_ignored(fields: dict[str, Any]) -> None:
    for kind in ("chat", "completion"):
        assert "stream_options" not in parse(kind, stream_options={"include_usage": True}, **fields).fields


async def test_only_a_stream_that_asks_for_it_ends_with_token_counts() -> None:
    async with serve() as served:
        assert (await served.chat(stream_options={"include_usage": True})).json()["usage"]["total_tokens"] > 0
        for options, asked in (({}, False), ({"include_usage": False}, False), ({"include_usage": True}, True)):
            events = events_of((await served.chat(stream=True, stream_options=options)).text)
            assert events.pop() == "[DONE]"
            assert any("usage" in event for event in events) == asked


# Token counts above the limit


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("chat", "max_tokens"),
        ("chat", "max_completion_tokens"),
        ("completion", "max_tokens"),
        ("responses", "max_output_tokens"),
        ("messages", "max_tokens"),
    ],
)
def test_too_many_tokens_are_refused_or_cut(kind: Kind, name: str, caplog: pytest.LogCaptureFixture) -> None:
    for asked in (513, 32_000, 10**30):
        assert refused_param(kind, **{name: asked}) == name
        caplog.clear()
        with caplog.at_level(logging.INFO):
            assert parse(kind, CLAMPING, **{name: asked}).fields[name] == 512
        assert [record.getMessage() for record in caplog.records] == [
            f"cut {name} of a request to 512 (--on-exceed=clamp)"
        ]
    caplog.clear()
    assert parse(kind, CLAMPING, **{name: 512}).fields[name] == 512
    assert caplog.records == []
    for wrong in (0, -1, "32000", 32000.0, True):
        assert refused_param(kind, CLAMPING, **{name: wrong}) == name


def test_the_shortest_answer_is_cut_as_well() -> None:
    fields = parse("chat", CLAMPING, max_tokens=32_000, min_tokens=1_000, max_completion_tokens=600).fields
    assert (fields["max_tokens"], fields["min_tokens"], fields["max_completion_tokens"]) == (512, 512, 512)
    assert refused_param("chat", CLAMPING, temperature=2) == "temperature"
    assert refused_param("chat", CLAMPING, n=99) == "n"


def test_the_description_has_no_limit_that_is_not_enforced() -> None:
    for settings, most in ((make_settings(), 512), (make_settings(on_exceed="clamp"), None)):
        described = schemas(Limits(settings))
        for name, field in (("ChatRequest", "max_tokens"), ("ResponsesRequest", "max_output_tokens")):
            assert described[name]["properties"][field]["anyOf"][0].get("maximum") == most
        assert described["MessagesRequest"]["properties"]["max_tokens"].get("maximum") == most
        assert described["ChatRequest"]["properties"]["temperature"]["anyOf"][0]["maximum"] == 1


def test_the_clients_body_stays_as_it_is() -> None:
    given = {"messages": TALK, "max_tokens": 32_000}
    CLAMPING.check("chat", given)
    assert given == {"messages": TALK, "max_tokens": 32_000}


def test_a_thinking_budget_that_no_longer_fits_is_left_out() -> None:
    enabled = {"type": "enabled", "budget_tokens": 31_999}
    fields = parse("messages", CLAMPING, max_tokens=32_000, thinking=enabled).fields
    assert fields["thinking"] == {"type": "adaptive"}
    assert fields["chat_template_kwargs"] == {"enable_thinking": True}
    wide = Bodies(make_settings(on_exceed="clamp", max_tokens_limit=4096))
    fits = {"type": "enabled", "budget_tokens": 2048}
    assert parse("messages", wide, max_tokens=32_000, thinking=fits).fields["thinking"] == fits
    # The client's own mistake stays one.
    wrong = {"type": "enabled", "budget_tokens": 40_000}
    assert parse("messages", CLAMPING, max_tokens=32_000, thinking=wrong).fields["thinking"] == wrong


async def test_a_cut_answer_says_that_it_was_cut_by_its_length() -> None:
    async with serve(on_exceed="clamp", max_tokens_limit=3, default_max_tokens=3) as served:
        answer = (await served.chat('@{"tokens": 20}', max_tokens=32_000)).json()
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 3


# A prompt that is only echoed, as lm-eval asks for its log probabilities


def test_a_prompt_may_be_echoed_without_a_new_token() -> None:
    body = parse("completion", prompt=[[100, 101]], echo=True, logprobs=1, max_tokens=0, temperature=0, seed=1234)
    assert body.fields["max_tokens"] == 0
    assert not body.fast
    for fields in ({}, {"echo": False}, {"echo": None}):
        assert refused_param("completion", max_tokens=0, **fields) == "max_tokens"
    assert refused_param("chat", max_tokens=0, echo=True) == "max_tokens"
    assert parse("completion", CLAMPING, echo=True, max_tokens=0).fields["max_tokens"] == 0


# A history as SDKs send it back


@pytest.mark.parametrize("content", ["x", None])
@pytest.mark.parametrize("thought", [{"reasoning": "t"}, {"reasoning_content": "t"}, {"reasoning": None}])
def test_an_answer_may_be_sent_back_as_it_came(content: str | None, thought: dict[str, Any]) -> None:
    nothing: dict[str, Any] = dict.fromkeys(("refusal", "audio", "function_call", "name"))
    answer = {"role": "assistant", "content": content, "annotations": [], "tool_calls": [], **nothing, **thought}
    assert parse("chat", messages=[*TALK, answer, *TALK]).fields["messages"][1] == answer
    assert parse("tokenize", messages=[*TALK, answer, *TALK]).fields["messages"][1] == answer

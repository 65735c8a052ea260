"""What the further APIs may be asked for: the bodies of Responses, Messages and tokenization."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwen_server.api.bodies.body import Body
from qwen_server.api.bodies.checking import Bodies
from qwen_server.engine.base import Kind
from qwen_server.http.error_bodies import HttpError
from tests.unit.qwen_server.serving import make_settings

BODIES = Bodies(make_settings())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10) | st.just("type"), inner, max_size=4)
    ),
    max_leaves=20,
)
NAMES = st.sampled_from(
    [
        "input",
        "messages",
        "prompt",
        "tokens",
        "max_tokens",
        "max_output_tokens",
        "system",
        "tools",
        "tool_choice",
        "metadata",
        "background",
        "stop",
        "stop_sequences",
        "structured_outputs",
        "thinking",
        "include",
        "model",
        "?",
    ]
)
TALK = [{"role": "user", "content": "x"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "name": "get_weather", "parameters": CITY}
CLIENTS = {"name": "get_weather", "input_schema": CITY}
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}


def many_tools(count: int) -> list[dict[str, Any]]:
    return [WEATHER | {"name": f"f{index}"} for index in range(count)]


def parse(kind: Kind, **body: Any) -> Body:
    return BODIES.check(kind, body)


def refusal(kind: Kind, **body: Any) -> HttpError:
    with pytest.raises(HttpError) as caught:
        parse(kind, **body)
    return caught.value


def param_of(error: HttpError) -> Any:
    return error.body["error"]["param"]


def test_the_servers_defaults_are_applied() -> None:
    request = parse("responses", input="x", store=True, metadata={"a": "b"}, max_output_tokens=None)
    assert request.fields == {
        "input": "x",
        "metadata": {"a": "b"},
        "model": "qwen-news-classifier",
        "temperature": 0.7,
        "max_output_tokens": 100,
    }
    assert (request.prompts * request.n, request.fast, request.stream, request.generates) == (1, False, False, True)
    message = parse("messages", messages=TALK, max_tokens=7, stream=True, metadata={"user_id": "u"})
    assert message.fields["temperature"] == 0.7
    assert "metadata" not in message.fields
    assert message.stream


@pytest.mark.parametrize("kind", ["count_tokens", "tokenize", "detokenize"])
def test_what_generates_nothing_says_so(kind: Kind) -> None:
    body = {"tokens": [1]} if kind == "detokenize" else {"messages": TALK}
    assert not parse(kind, **body).generates


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": ["x"]}, "input[0]"),
        ({"input": [{"content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": []}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}, {}]}]},
            "input[0].content[1].type",
        ),
        ({"input": [{"role": "user", "content": ["x"]}]}, "input[0].content[0]"),
        ({"input": [{"type": 5}]}, "input[0].type"),
        ({"input": [{"type": "reasoning", "summary": [0] * 2000}]}, "input[0]"),
        ({"input": TALK * 4097}, "input"),
        ({"input": "x", "max_output_tokens": 513}, "max_output_tokens"),
        ({"input": "x", "max_output_tokens": 0}, "max_output_tokens"),
        ({"input": "x", "temperature": 1.1}, "temperature"),
        ({"input": "x", "top_logprobs": 21}, "top_logprobs"),
        ({"input": "x", "background": True}, "background"),
        ({"input": "x", "background": 0}, "background"),
        ({"input": "x", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": "x", "conversation": "conv_1"}, "conversation"),
        ({"input": "x", "prompt": {"id": "p"}}, "prompt"),
        ({"input": "x", "store": "yes"}, "store"),
        ({"input": "x", "metadata": {str(key): "v" for key in range(17)}}, "metadata"),
        ({"input": "x", "tools": [5]}, "tools[0]"),
        ({"input": "x", "tools": [{"type": "function"}]}, "tools[0].name"),
        ({"input": "x", "tools": [{"type": "web_search"}, {"name": "f"}]}, "tools[1].type"),
        ({"input": "x", "tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        ({"input": "x", "tools": [WEATHER], "tool_choice": {"type": "mcp", "server_label": "a"}}, "tool_choice.type"),
        (
            {
                "input": "x",
                "tools": [WEATHER, {"type": "web_search"}],
                "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [WEATHER, {"type": "web_search"}]},
            },
            "tool_choice.tools[1].type",
        ),
        ({"input": "x", "tools": [{"type": "web_search"}], "tool_choice": "required"}, "tool_choice"),
        ({"input": "x", "tool_choice": "required"}, "tool_choice"),
        ({"input": [{"type": "additional_tools"}]}, "input[0].tools"),
        ({"input": [{"type": "additional_tools", "tools": [WEATHER, 5]}]}, "input[0].tools[1]"),
        ({"input": [{"type": "additional_tools", "tools": [{"type": "custom"}]}]}, "input[0].tools[0].name"),
        ({"input": [{"type": "additional_tools", "tools": [WEATHER]}]}, "input"),
        ({"input": [{"type": "additional_tools", "tools": many_tools(1025)}, *TALK]}, "input[0].tools"),
        ({"input": [{"type": "additional_tools", "tools": many_tools(1024)}, *TALK], "tools": [WEATHER]}, "input"),
        ({"input": "x", "tools": [{"type": "namespace", "tools": [0] * 1025}]}, "tools[0].tools"),
        ({"input": "x", "structured_outputs": {"choice": ["a"] * 4097}}, "structured_outputs.choice"),
        ({"input": "x", "guided_json": {}}, "guided_json"),
    ],
)
def test_a_wrong_response_request_names_its_parameter(body: dict[str, Any], param: str) -> None:
    error = refusal("responses", **body)
    assert error.status == 400
    assert param_of(error) == param
    assert param.partition("[")[0] in error.text


@pytest.mark.parametrize("name", ["background", "previous_response_id", "conversation", "prompt", "store"])
def test_what_needs_no_store_is_let_through(name: str) -> None:
    value = {"background": False, "store": True}.get(name)
    assert name not in parse("responses", input="x", **{name: value}).fields


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"max_tokens": 5}, "messages"),
        ({"messages": TALK}, "max_tokens"),
        ({"messages": TALK, "max_tokens": 513}, "max_tokens"),
        ({"messages": [], "max_tokens": 5}, "messages"),
        ({"messages": [{"role": "user", "content": [[0] * 1025]}], "max_tokens": 5}, "messages[0].content[0]"),
        (
            {"messages": [*TALK, {"role": "user", "content": [{"type": "text"}]}], "max_tokens": 5},
            "messages[1].content[0].text",
        ),
        ({"messages": [{"role": "user", "content": "x", "y": [0] * 1025}], "max_tokens": 5}, "messages[0]"),
        ({"messages": TALK, "max_tokens": 5, "temperature": -1}, "temperature"),
        ({"messages": TALK, "max_tokens": 5, "stop_sequences": "x"}, "stop_sequences"),
        ({"messages": TALK, "max_tokens": 5, "stop_sequences": ["a"] * 33}, "stop_sequences"),
        ({"messages": TALK, "max_tokens": 5, "system": 5}, "system"),
        ({"messages": TALK, "max_tokens": 5, "system": [{"type": "text", "text": "x"}, 5]}, "system[1]"),
        ({"messages": TALK, "max_tokens": 5, "system": [{"type": "text", "text": 5}]}, "system[0].text"),
        ({"messages": TALK, "max_tokens": 5, "tools": [CLIENTS, {"name": "f"}]}, "tools[1].input_schema"),
        ({"messages": TALK, "max_tokens": 5, "tools": [{"input_schema": {}}]}, "tools[0].name"),
        (
            {
                "messages": TALK,
                "max_tokens": 5,
                "tools": [CLIENTS, SEARCH],
                "tool_choice": {"type": "tool", "name": "web_search"},
            },
            "tool_choice.name",
        ),
        ({"messages": TALK, "max_tokens": 5, "tools": [SEARCH], "tool_choice": {"type": "any"}}, "tool_choice"),
        ({"messages": TALK, "max_tokens": 5, "tools": [], "tool_choice": {"type": "any"}}, "tool_choice"),
        ({"messages": TALK, "max_tokens": 5, "thinking": True}, "thinking"),
        ({"messages": TALK, "max_tokens": 5, "tools": [0] * 1025}, "tools"),
        ({"messages": TALK, "max_tokens": 5, "top_p": 0}, "top_p"),
    ],
)
def test_a_wrong_message_request_names_its_parameter(body: dict[str, Any], param: str) -> None:
    error = refusal("messages", **body)
    assert error.status == 400
    assert param_of(error) == param


@pytest.mark.parametrize("kind", ["messages", "count_tokens"])
@pytest.mark.parametrize(
    "source",
    [None, {}, "https://a.example/x.png", {"type": "url"}, {"type": "base64", "data": ""}, {"type": "file", "id": "x"}],
)
def test_an_image_without_a_source_is_not_left_out(kind: Kind, source: Any) -> None:
    body = {} if kind == "count_tokens" else {"max_tokens": 5}
    image = {"type": "image", "source": source}
    result = {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "x"}, image]}
    for block, inside in ((image, ""), (result, ".content[1]"), ({"type": "image"}, "")):
        messages = [*TALK, {"role": "user", "content": [{"type": "text", "text": "x"}, block]}]
        error = refusal(kind, messages=messages, **body)
        assert (error.status, param_of(error)) == (400, f"messages[{len(TALK)}].content[1]{inside}.source")
        assert "must be an object with the data of an image" in error.text


@pytest.mark.parametrize("source", [{"data": "AAAA"}, {"type": "base64", "data": "AAAA"}, {"type": "url", "url": "x"}])
def test_an_image_with_a_source_is_left_to_the_engine(source: Any) -> None:
    talk = [{"role": "user", "content": [{"type": "image", "source": source}]}]
    assert parse("messages", messages=talk, max_tokens=5).fields["messages"] == talk


def test_tools_among_the_items_count_as_tools() -> None:
    added = {"type": "additional_tools", "role": "developer", "tools": many_tools(40)}
    request = parse("responses", input=[added, *TALK], tools=[WEATHER], tool_choice="auto")
    assert request.fields["input"] == TALK
    assert request.fields["tools"] == [WEATHER, *many_tools(40)]
    assert request.fields["tool_choice"] == "auto"
    # A conversation repeats them in each of its turns, and the latest definition counts.
    newer = WEATHER | {"description": "newer"}
    turns = [added, *TALK, added | {"tools": [*many_tools(40), newer]}, *TALK]
    request = parse("responses", input=turns, tools=[WEATHER])
    assert request.fields["tools"] == [newer, *many_tools(40)]
    assert request.fields["input"] == [*TALK, *TALK]


@pytest.mark.parametrize(
    "hosted",
    [
        *("web_search", "web_search_preview", "image_generation", "local_shell", "shell", "computer_use_preview"),
        *("mcp", "code_interpreter", "file_search", "tool_search", "apply_patch", "something_newer"),
    ],
)
def test_tools_of_the_providers_servers_are_left_out(hosted: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    tools = [WEATHER, {"type": hosted, "container": {"type": "auto"}}]
    request = parse("responses", input="x", tools=tools, tool_choice="auto")
    assert request.fields["tools"] == [WEATHER]
    among_items = {"type": "additional_tools", "tools": tools}
    assert parse("responses", input=[among_items, *TALK]).fields["tools"] == [WEATHER]
    alone = parse("responses", input="x", tools=tools[1:], tool_choice="auto")
    assert not {"tools", "tool_choice"} & alone.fields.keys()
    assert [record.getMessage() for record in caplog.records] == [
        f"left out tools that only their provider runs: '{hosted}'"
    ] * 3


@pytest.mark.parametrize("kind", ["messages", "count_tokens"])
def test_anthropics_own_tools_are_left_out(kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    body: dict[str, Any] = {"messages": TALK} | ({"max_tokens": 5} if kind == "messages" else {})
    custom = {"type": "custom", "name": "f", "input_schema": {}}
    request = parse(kind, **body, tools=[SEARCH, CLIENTS, custom], tool_choice={"type": "auto"})
    assert request.fields["tools"] == [CLIENTS, custom]
    assert request.fields["tool_choice"] == {"type": "auto"}
    assert [record.getMessage() for record in caplog.records] == [
        "left out tools that only their provider runs: 'web_search_20250305'"
    ]


@pytest.mark.parametrize("tools", [[], [SEARCH], None])
@pytest.mark.parametrize("choice", [None, {"type": "auto"}, {"type": "none"}])
def test_no_tools_are_no_tools(tools: Any, choice: Any) -> None:
    request = parse("messages", messages=TALK, max_tokens=5, tools=tools, tool_choice=choice)
    assert not {"tools", "tool_choice"} & request.fields.keys()


@pytest.mark.parametrize(
    ("kind", "body", "param"),
    [
        ("tokenize", {}, "prompt"),
        ("tokenize", {"prompt": "x", "messages": TALK}, "prompt"),
        ("tokenize", {"prompt": ["x"]}, "prompt"),
        ("tokenize", {"messages": "x"}, "messages"),
        ("detokenize", {}, "tokens"),
        ("detokenize", {"tokens": []}, "tokens"),
        ("detokenize", {"tokens": [True]}, "tokens[0]"),
        ("detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("detokenize", {"tokens": [0] * ((1 << 18) + 1)}, "tokens"),
        ("count_tokens", {}, "messages"),
    ],
)
def test_a_wrong_tokenization_names_its_parameter(kind: Kind, body: dict[str, Any], param: str) -> None:
    error = refusal(kind, **body)
    assert error.status == 400
    assert param_of(error) == param


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("responses", {"input": "x"}),
        ("messages", {"messages": TALK, "max_tokens": 5}),
        ("count_tokens", {"messages": TALK}),
        ("tokenize", {"prompt": "x"}),
        ("detokenize", {"tokens": [1]}),
    ],
)
def test_the_model_may_be_left_out_but_not_be_another(kind: Kind, body: dict[str, Any]) -> None:
    assert parse(kind, **body).model == "qwen-news-classifier"
    error = refusal(kind, **body, model="gpt-4o")
    assert (error.status, param_of(error)) == (404, "model")
    assert "unheard_of" not in parse(kind, **body, unheard_of=1).fields


def test_aliases_name_the_same_model() -> None:
    bodies = Bodies(make_settings(model_aliases="gpt-5-codex, claude-haiku-*"))
    for name in ("gpt-5-codex", "claude-haiku-4-5-20251001", "claude-haiku-", "qwen-news-classifier"):
        assert bodies.check("responses", {"input": "x", "model": name}).model == "qwen-news-classifier"
    for name in ("gpt-5", "gpt-5-codex-max", "claude-haiku", "claude-sonnet-4-5", "*"):
        with pytest.raises(HttpError) as caught:
            bodies.check("messages", {"messages": TALK, "max_tokens": 5, "model": name})
        assert (caught.value.status, name in caught.value.text) == (404, True)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.sampled_from(get_args(Kind)), st.dictionaries(NAMES, JSON, max_size=6))
def test_any_json_is_checked_without_an_accident(kind: Kind, body: dict[str, Any]) -> None:
    try:
        assert BODIES.check(kind, body).kind == kind
    except HttpError as error:
        assert error.status in (400, 404)  # noqa: PT017 (there need not be one)

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwen_server.api.bodies.body import Body
from qwen_server.api.bodies.checking import Bodies
from qwen_server.http.body import MAX_DEPTH, parse_object
from qwen_server.http.error_bodies import HttpError
from qwen_server.http.structure import MAX_VALUES
from tests.unit.qwen_server.serving import make_settings

BODIES = Bodies(make_settings())


def chat(**fields: Any) -> Any:
    return BODIES.check("chat", {"messages": [{"role": "user", "content": "x"}]} | fields)


def completion(**fields: Any) -> Any:
    return BODIES.check("completion", {"prompt": "x"} | fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"stop": ["a"]},
        {"seed": 1},
        {"logit_bias": {"1": 5}},
        {"response_format": {"type": "json_object"}},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"logprobs": False},
        {"repetition_penalty": 0.01},
        {"tool_choice": "none"},
        {"tool_choice": "auto"},
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True},
        {"stream_options": {"continuous_usage_stats": True}},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ],
)
def test_ordinary_requests_go_the_fast_way(fields: dict[str, Any]) -> None:
    assert chat(**fields).fast


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tool_choice": "required"},
        {"return_prompt_text": True},
        {"logprobs": True},
        {"prompt_logprobs": 0},
        {"return_token_ids": True},
        {"reasoning_effort": "low"},
        {"chat_template_kwargs": {"enable_thinking": True}},
        {"stream": True, "stream_options": {"continuous_usage_stats": True}},
    ],
)
def test_what_the_engines_own_code_does_goes_the_reference_way(fields: dict[str, Any]) -> None:
    assert not chat(**fields).fast


@pytest.mark.parametrize("fields", [{"logprobs": 0}, {"logprobs": 1}, {"echo": True}, {"suffix": "y"}])
def test_logprobs_echo_and_suffix_of_completions_go_the_reference_way(fields: dict[str, Any]) -> None:
    assert not completion(**fields).fast


@pytest.mark.parametrize(
    ("prompt", "n", "sequences"),
    [("x", 1, 1), (["a", "b"], 3, 6), ([1, 2, 3], 2, 2), ([[1], [2], [3]], 1, 3)],
)
def test_a_request_has_prompts_times_choices_sequences(prompt: Any, n: int, sequences: int) -> None:
    body = completion(prompt=prompt, n=n)
    assert body.prompts * body.n == sequences


@pytest.mark.parametrize("ask", [chat, completion])
def test_several_greedy_answers_are_refused_at_once(ask: Callable[..., Any]) -> None:
    """As vLLM does, which raises a temperature between 0 and 0.01 to that."""
    for zero in (0, 0.0, -0.0):
        with pytest.raises(HttpError) as caught:
            ask(n=2, temperature=zero)
        assert (caught.value.status, caught.value.param) == (400, "n")
        assert "when temperature is 0" in caught.value.text
        assert ask(n=1, temperature=zero).n == 1
    assert ask(n=2, temperature=1e-300).n == ask(n=2).n == 2
    greedy = Bodies(make_settings(default_temperature=0))
    with pytest.raises(HttpError, match="invalid_request"):
        greedy.check("completion", {"prompt": "x", "n": 2})


def test_configured_limits_and_defaults_hold() -> None:
    bodies = Bodies(make_settings(default_max_tokens=7, max_tokens_limit=4096, max_temperature=2.0))
    body = bodies.check("chat", {"messages": [{"role": "user", "content": "x"}], "temperature": 2})
    assert body.fields["max_tokens"] == 7
    assert bodies.check("completion", {"prompt": "x", "max_tokens": 4096}).fields["max_tokens"] == 4096


def test_what_has_no_meaning_here_is_accepted_and_dropped() -> None:
    body = chat(user="u", metadata={"a": "b"}, store=True, service_tier="auto").fields
    assert set(body) == {"messages", "max_tokens", "temperature", "model"}


def test_the_callers_body_is_not_changed() -> None:
    body = {"messages": [{"role": "user", "content": "x"}]}
    BODIES.check("chat", body)
    assert body == {"messages": [{"role": "user", "content": "x"}]}


@pytest.mark.parametrize(
    "message",
    [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "42", "tool_call_id": "1"},
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
        {"role": "developer", "content": "x", "name": "n"},
    ],
)
def test_every_kind_of_message_passes(message: dict[str, Any]) -> None:
    assert chat(messages=[{"role": "user", "content": "x"}, message]).fields["messages"][1] == message


@pytest.mark.parametrize(
    ("param", "body", "told"),
    [
        ("response_format", {"response_format": {}}, "response_format"),
        ("response_format", {"structured_outputs": {}}, "structured_outputs"),
        ("response_format", {"tools": [1]}, "tools"),
        ("response_format", {}, "response_format"),
        ("stop", {"chat_template_kwargs": {"a": 1}}, "stop"),
        (None, {"chat_template_kwargs": {"a": 1}}, "chat_template_kwargs"),
        (None, {"stop": "a"}, None),
    ],
)
def test_a_refusal_names_what_the_client_wrote(param: str | None, body: dict[str, Any], told: str | None) -> None:
    assert Body("chat", body).blamed(param) == told


def outcome_of(call: Callable[[], object]) -> int | None:
    """The status of the HttpError that `call` raises; None when it raises none."""
    try:
        call()
    except HttpError as error:
        return error.status
    return None


CHAT_NAMES = {
    "messages",
    "model",
    "max_tokens",
    "temperature",
    "top_p",
    "n",
    "seed",
    "stop",
    "stream",
    "logit_bias",
} | {"stream_options", "logprobs", "top_logprobs", "tools", "response_format"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)
NAMES = st.sampled_from(sorted(CHAT_NAMES | {"prompt", "echo", "?"}))


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(NAMES, JSON, max_size=6))
def test_any_json_is_checked_without_an_accident(body: dict[str, Any]) -> None:
    for kind in ("chat", "completion"):
        assert outcome_of(partial(BODIES.check, kind, dict(body))) in (None, 400, 404)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps({"x": value}).encode()))
def test_any_bytes_are_parsed_without_an_accident(raw: bytes) -> None:
    status = outcome_of(lambda: json.dumps(parse_object(raw), allow_nan=False, ensure_ascii=False).encode())
    assert status in (None, 400)


def test_only_an_enormous_number_of_values_is_refused_unread() -> None:
    prompt = b'{"prompt": [' + b"7," * (MAX_VALUES - 2) + b"7]}"
    assert len(parse_object(prompt)["prompt"]) == MAX_VALUES - 1
    with pytest.raises(HttpError):
        parse_object(prompt.replace(b"[7", b"[7,7"))


@pytest.mark.parametrize("depth", [MAX_DEPTH - 1, MAX_DEPTH, MAX_DEPTH + 1])
def test_nesting_is_allowed_up_to_its_limit(depth: int) -> None:
    raw = (b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}") if depth > 1 else b"{}"
    if depth <= MAX_DEPTH:
        parse_object(raw)
    else:
        with pytest.raises(HttpError):
            parse_object(raw)

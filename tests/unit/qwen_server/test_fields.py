"""Every field that the three APIs document is supported, refused by name, or ignored."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from anthropic.types.beta import message_count_tokens_params as beta_count_tokens_params
from anthropic.types.beta import message_create_params as beta_create_params
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

from qwen_server.api.bodies.body import Body
from qwen_server.api.bodies.chat import ChatRequest
from qwen_server.api.bodies.checking import Bodies
from qwen_server.api.bodies.completion import CompletionRequest
from qwen_server.api.bodies.messages import CountTokensRequest, MessagesRequest
from qwen_server.api.bodies.responses import ResponsesRequest
from qwen_server.api.bodies.unsupported import IGNORED, REFUSED
from qwen_server.engine.base import Kind
from qwen_server.http.error_bodies import HttpError
from tests.unit.qwen_server.serving import make_settings

BODIES = Bodies(make_settings())
TALK = [{"role": "user", "content": "x"}]
LEAST: dict[Kind, dict[str, Any]] = {
    "chat": {"messages": TALK},
    "completion": {"prompt": "x"},
    "responses": {"input": "x"},
    "messages": {"messages": TALK, "max_tokens": 5},
    "count_tokens": {"messages": TALK},
    "tokenize": {"messages": TALK},
}
GENERATING: tuple[Kind, ...] = ("chat", "completion", "responses", "messages")


def parse(kind: Kind, **fields: Any) -> Body:
    return BODIES.check(kind, LEAST[kind] | fields)


def refusal(kind: Kind, **fields: Any) -> tuple[str, str]:
    with pytest.raises(HttpError) as caught:
        parse(kind, **fields)
    assert caught.value.status == 400
    return caught.value.body["error"]["param"], caught.value.text


@pytest.mark.parametrize(
    ("documented", "declared"),
    [
        (chat_create_params.CompletionCreateParamsBase, ChatRequest),
        (completion_create_params.CompletionCreateParamsBase, CompletionRequest),
        (response_create_params.ResponseCreateParamsBase, ResponsesRequest),
        (message_create_params.MessageCreateParamsBase, MessagesRequest),
        (beta_create_params.MessageCreateParamsBase, MessagesRequest),
        (message_count_tokens_params.MessageCountTokensParams, CountTokensRequest),
        (beta_count_tokens_params.MessageCountTokensParams, CountTokensRequest),
    ],
)
def test_every_field_of_the_sdks_is_decided(documented: Any, declared: Any) -> None:
    """tests/contract does the same for vLLM's models."""
    assert documented.__annotations__.keys() - declared.__annotations__.keys() - IGNORED - REFUSED.keys() == set()


def test_a_field_is_either_refused_or_ignored() -> None:
    assert not REFUSED.keys() & IGNORED


@pytest.mark.parametrize("page", ["api.md", "api.zh-CN.md"])
def test_every_decision_is_documented(page: str) -> None:
    text = (Path(__file__).parents[3] / "docs" / page).read_text(encoding="utf-8")
    names = {name for name in REFUSED.keys() | IGNORED if not name.startswith("guided_")}
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_would_be_lost_is_refused_by_name(name: str) -> None:
    for kind in LEAST:
        if name in (ChatRequest if kind == "chat" else CompletionRequest).__annotations__ and kind in GENERATING[:2]:
            continue  # this API has it
        if (kind, name) == ("count_tokens", "compaction"):
            continue
        param, text = refusal(kind, **{name: {"a": 1}})
        assert param == name
        assert text.startswith(f"{name} {REFUSED[name].text}")


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_asks_for_nothing_passes(name: str) -> None:
    for value in (None, *REFUSED[name].harmless):
        assert name not in parse("tokenize", **{name: value}).fields


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("use_beam_search", True),
        ("use_beam_search", 0),
        ("length_penalty", 0.8),
        ("length_penalty", True),
        ("best_of", 2),
        ("vllm_xargs", {"a": 1}),
        ("chat_template", ""),
        ("logprob_token_ids", [1]),
        ("modalities", ["text", "audio"]),
        ("function_call", {"name": "f"}),
        ("watermarking", False),
    ],
)
def test_a_value_that_asks_for_something_is_refused(name: str, value: Any) -> None:
    assert refusal("chat", **{name: value})[0] == name


@pytest.mark.parametrize(
    ("given", "place", "text"),
    [
        ({"fps": 2}, "", "must not hold fps; a request can set min_pixels and max_pixels"),
        ({"size": {}, "max_pixels": 5}, "", "must not hold size"),
        ({"min_pixels": 9, "max_pixels": 8}, "", "must have a min_pixels of at most its max_pixels"),
        ({"min_pixels": 0}, ".min_pixels", "must be at least 1"),
        ({"max_pixels": "9"}, ".max_pixels", "must be an integer"),
        ([], "", "must be an object"),
    ],
)
def test_a_chat_sets_nothing_of_the_processor_but_the_size_of_images(given: Any, place: str, text: str) -> None:
    param, message = refusal("chat", mm_processor_kwargs=given)
    assert (param, text in message) == (f"mm_processor_kwargs{place}", True), message
    assert not parse("chat", mm_processor_kwargs={"min_pixels": 8, "max_pixels": 8}).fast


@pytest.mark.parametrize(
    ("kind", "fields", "hint"),
    [
        ("chat", {"max_output_tokens": 5}, "max_completion_tokens"),
        ("chat", {"system": "x"}, "messages"),
        ("chat", {"stop_sequences": ["x"]}, "stop"),
        ("completion", {"messages": TALK}, "prompt"),
        ("completion", {"max_completion_tokens": 5}, "max_tokens"),
        ("completion", {"tools": [{}]}, "another path"),
        ("completion", {"thinking_token_budget": 5}, "only chats"),
        ("responses", {"max_tokens": 5}, "max_output_tokens"),
        ("responses", {"response_format": {"type": "json_object"}}, "text"),
        ("responses", {"n": 2}, "another path"),
        ("responses", {"add_generation_prompt": False}, "another path"),
        ("messages", {"stop": "x"}, "stop_sequences"),
        ("messages", {"response_format": {"type": "json_object"}}, "output_config"),
        ("messages", {"seed": 0}, "another path"),
        ("messages", {"logit_bias": {"1": 5}}, "another path"),
        ("messages", {"include_reasoning": False}, "another path"),
    ],
)
def test_a_field_of_another_api_is_refused_by_name(kind: Kind, fields: dict[str, Any], hint: str) -> None:
    param, text = refusal(kind, **fields)
    assert param == next(iter(fields))
    assert hint in text


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("responses", {"n": 1, "min_tokens": 0, "echo": False, "add_generation_prompt": True, "repetition_penalty": 1}),
        ("messages", {"n": 1, "presence_penalty": 0, "stop": [], "tool_choice": None, "repetition_penalty": 1.0}),
        ("completion", {"tools": [], "tool_choice": "auto", "top_logprobs": 0, "reasoning_effort": "none"}),
        ("chat", {"reasoning": {"effort": "low"}, "thinking": {"type": "disabled"}, "truncation": "disabled"}),
    ],
)
def test_a_field_of_another_api_that_asks_for_nothing_passes(kind: Kind, fields: dict[str, Any]) -> None:
    assert parse(kind, **fields).kind == kind


def test_only_what_nobody_knows_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for kind in LEAST:
            parse(kind, **dict.fromkeys(IGNORED), use_beam_search=None)
            parse(kind, request_id="1", verbosity="low", cache_control={}, prediction={})
    assert caplog.records == []
    with caplog.at_level(logging.INFO):
        parse("chat", unheard_of=1)
    assert "unheard_of" in caplog.text

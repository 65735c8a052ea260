"""Thinking: off by default, separate from the answer, and exempt from the answer's grammar."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from tokenizers import Tokenizer

from tests.integration.builtin_model import ANSWER, QUESTION

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(420, func_only=True)]

TALK = [{"role": "user", "content": QUESTION}]
ON = {"chat_template_kwargs": {"enable_thinking": True}}


def message_of(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0} | fields
    response = http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    message: dict[str, Any] = response.json()["choices"][0]["message"]
    return message


@pytest.fixture
def endless(tokenizer: Tokenizer) -> dict[str, int]:
    """A bias against ending: otherwise this model thinks as briefly as it answers."""
    return {str(tokenizer.token_to_id(token)): -100 for token in ("<|im_end|>", "<|endoftext|>")}


@pytest.fixture
def thought(endless: dict[str, int]) -> dict[str, Any]:
    """A request whose thought ends after three tokens."""
    return ON | {"thinking_token_budget": 3, "logit_bias": endless}


def test_nothing_is_thought_unless_asked_for(http: httpx.Client) -> None:
    ways: list[dict[str, Any]] = [{}, {"chat_template_kwargs": {}}, {"reasoning_effort": "none"}, {"logprobs": True}]
    for fields in ways:
        message = message_of(http, **fields)
        assert message["content"] == ANSWER
        assert message.get("reasoning") is None


def test_a_thought_is_distinguished_from_the_answer(http: httpx.Client, thought: dict[str, Any]) -> None:
    message = message_of(http, **thought, structured_outputs={"choice": ["财经"]})
    assert message["reasoning"] == message["reasoning_content"] != ""
    assert message["content"] == "财经"
    asked_by_effort = {name: value for name, value in thought.items() if name != "chat_template_kwargs"}
    message = message_of(http, **asked_by_effort, reasoning_effort="low", structured_outputs={"choice": ["体育"]})
    assert message["reasoning"]
    assert message["content"] == "体育"


def test_a_streamed_thought_comes_before_the_answer(http: httpx.Client, thought: dict[str, Any]) -> None:
    whole = message_of(http, **thought, structured_outputs={"choice": ["财经新闻"]})
    body = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "stream": True} | thought
    response = http.post("/v1/chat/completions", json=body | {"structured_outputs": {"choice": ["财经新闻"]}})
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    deltas = [json.loads(line)["choices"][0]["delta"] for line in lines[:-1]]
    kinds = [name for delta in deltas for name in ("reasoning", "content") if delta.get(name)]
    assert kinds == sorted(kinds, reverse=True)
    assert "".join(delta.get("reasoning") or "" for delta in deltas) == whole["reasoning"]
    assert all(delta.get("reasoning") == delta.get("reasoning_content") for delta in deltas)
    assert "".join(delta.get("content") or "" for delta in deltas) == whole["content"] == "财经新闻"


def test_a_thought_is_read_back_under_either_name(http: httpx.Client, thought: dict[str, Any]) -> None:
    """Also beside calls of tools, without a text and with all that SDKs add."""
    answer = message_of(http, **thought, structured_outputs={"choice": ["财经"]})
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    nothing: dict[str, Any] = dict.fromkeys(("refusal", "audio", "function_call", "name")) | {"annotations": []}
    ways: list[dict[str, Any]] = [
        {},
        {"reasoning": None},
        {"reasoning": ""},
        {"reasoning_content": None},
        {"content": None, "tool_calls": [call]},
        {"content": None, "tool_calls": [call], "reasoning": None} | nothing,
        nothing,
    ]
    for way in ways:
        history = [
            *TALK,
            answer | way,
            *([{"role": "tool", "content": "ok", "tool_call_id": "1"}] * len(way.get("tool_calls", ()))),
        ]
        chat = http.post("/v1/chat/completions", json={"messages": history, "return_prompt_text": True}).json()
        assert f"<think>{answer['reasoning']}</think>" in chat["prompt_text"], way
        count = http.post("/tokenize", json={"messages": history}).json()["count"]
        assert count == chat["usage"]["prompt_tokens"], way


def test_a_thought_that_is_cut_off_leaves_no_answer(http: httpx.Client, endless: dict[str, int]) -> None:
    """This is why thinking is off by default."""
    message = message_of(http, **ON, max_tokens=4, logit_bias=endless)
    assert message["reasoning"]
    assert message["content"] is None


def test_a_thought_can_be_left_out(http: httpx.Client, thought: dict[str, Any]) -> None:
    message = message_of(http, **thought, include_reasoning=False, max_tokens=20)
    assert message["reasoning"] is None
    assert message["content"]


@pytest.mark.parametrize("logprobs", [None, 1])
def test_a_completion_knows_no_thoughts(http: httpx.Client, logprobs: int | None) -> None:
    """The grammar applies from the first token, on both paths."""
    body = {"prompt": "类别：", "structured_outputs": {"choice": ["财经", "体育"]}, "logprobs": logprobs}
    assert http.post("/v1/completions", json=body).json()["choices"][0]["text"] in {"财经", "体育"}


def test_whether_to_think_is_true_or_false(http: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "chat_template_kwargs": {"enable_thinking": "no"}}
    error = http.post("/v1/chat/completions", json=body).json()["error"]
    assert error["param"] == "chat_template_kwargs.enable_thinking"

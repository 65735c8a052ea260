"""Requests as editors, agents and evaluation tools send them, on a real vLLM."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.integration.builtin_model import ANSWER, QUESTION

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(420, func_only=True)]

TALK = [{"role": "user", "content": QUESTION}]
CHAT, COMPLETION, MESSAGE = "/v1/chat/completions", "/v1/completions", "/v1/messages"
SCORED: dict[str, Any] = {"prompt": [[100, 101, 102]], "echo": True, "logprobs": 1, "temperature": 0, "seed": 1234}
LOWEST = -9999.0


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def post(http: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    response = http.post(path, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = strict(response.text)
    return answer


def streamed(http: httpx.Client, path: str, **body: Any) -> list[dict[str, Any]]:
    response = http.post(path, json=body | {"stream": True})
    assert response.status_code == 200, response.text
    data = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    assert data.pop() == "[DONE]"
    return [strict(event) for event in data]


@pytest.mark.parametrize("choice", ["auto", "none", None])
def test_an_empty_list_of_tools_means_none(http: httpx.Client, choice: str | None) -> None:
    fields: dict[str, Any] = {"tools": [], "tool_choice": choice, "temperature": 0}
    chat = post(http, CHAT, messages=TALK, parallel_tool_calls=True, **fields)
    assert chat["choices"][0]["message"]["content"] == ANSWER
    response = post(http, "/v1/responses", input=QUESTION, parallel_tool_calls=True, **fields)
    assert response["output"][0]["content"][0]["text"] == ANSWER
    message = post(http, MESSAGE, messages=TALK, max_tokens=30, **fields | {"tool_choice": choice and {"type": choice}})
    assert message["content"][0]["text"] == ANSWER
    counted = post(http, "/v1/messages/count_tokens", messages=TALK, tools=[])
    assert counted["input_tokens"] == message["usage"]["input_tokens"] == chat["usage"]["prompt_tokens"]


def test_as_many_stops_as_an_editor_sends(http: httpx.Client) -> None:
    stops = [*(f"<|{index}|>" for index in range(31)), ANSWER[2]]
    completed = post(http, CHAT, messages=TALK, temperature=0, stop=stops)
    assert completed["choices"][0]["message"]["content"] == ANSWER[:2]
    assert post(http, COMPLETION, prompt="def f(", max_tokens=5, stop=stops, logprobs=0)
    message = post(http, MESSAGE, messages=TALK, max_tokens=30, temperature=0, stop_sequences=stops)
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", ANSWER[2])
    response = post(http, "/v1/responses", input=QUESTION, temperature=0, stop=stops)
    assert response["output"][0]["content"][0]["text"] == ANSWER[:2]
    for path, body, name in (
        (CHAT, {"messages": TALK}, "stop"),
        (MESSAGE, {"messages": TALK, "max_tokens": 5}, "stop_sequences"),
    ):
        refused = http.post(path, json=body | {name: [*stops, "x"]})
        assert refused.status_code == 400
        assert "the limit is 32" in refused.json()["error"]["message"]


def test_stream_options_have_an_effect_only_in_a_stream(http: httpx.Client) -> None:
    for more in ({}, {"logprobs": True}):
        usage = post(http, CHAT, messages=TALK, temperature=0, stream_options={"include_usage": True}, **more)["usage"]
        plain = streamed(http, CHAT, messages=TALK, temperature=0, stream_options={}, **more)
        assert all(event["choices"] and not event.get("usage") for event in plain)
        counted = streamed(http, CHAT, messages=TALK, temperature=0, stream_options={"include_usage": True}, **more)
        assert counted[-1]["usage"]["total_tokens"] == usage["total_tokens"]


@pytest.mark.parametrize("n", [1, 2])
def test_a_prompt_is_scored_without_a_new_token(http: httpx.Client, n: int) -> None:
    scored = SCORED | {"n": n, "temperature": n - 1}
    answer = post(http, COMPLETION, **scored, max_tokens=0)
    longer = post(http, COMPLETION, **scored, max_tokens=1)
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 0, "total_tokens": 3} | {
        name: value for name, value in answer["usage"].items() if name.endswith("details")
    }
    assert len(answer["choices"]) == n
    for choice, other in zip(answer["choices"], longer["choices"], strict=True):
        assert choice["finish_reason"] == "length"
        assert choice["stop_reason"] is None
        assert [len(choice["logprobs"][name]) for name in ("tokens", "token_logprobs", "top_logprobs")] == [3, 3, 3]
        assert choice["text"] == post(http, "/detokenize", tokens=SCORED["prompt"][0])["prompt"]
        assert choice["logprobs"]["token_logprobs"] == other["logprobs"]["token_logprobs"][:3]
        assert choice["logprobs"]["token_logprobs"][0] is None
        assert other["text"].startswith(choice["text"])
    events = streamed(http, COMPLETION, **scored, max_tokens=0, stream_options={"include_usage": True})
    assert events[-1]["usage"]["completion_tokens"] == 0
    for index, choice in enumerate(answer["choices"]):
        parts = [part for event in events for part in event["choices"] if part["index"] == index]
        assert "".join(part["text"] for part in parts) == choice["text"]
        assert parts[-1]["finish_reason"] == "length"
        assert [score for part in parts for score in part["logprobs"]["token_logprobs"]] == choice["logprobs"][
            "token_logprobs"
        ]


def test_a_prompt_is_echoed_alone_also_without_scores(http: httpx.Client) -> None:
    prompts = ["你好", "再见"]
    answer = post(http, COMPLETION, prompt=prompts, echo=True, max_tokens=0, return_token_ids=False)
    assert [choice["text"] for choice in answer["choices"]] == prompts
    events = streamed(http, COMPLETION, prompt=prompts, echo=True, max_tokens=0)
    for index, prompt in enumerate(prompts):
        parts = [part for event in events for part in event["choices"] if part["index"] == index]
        assert "".join(part["text"] for part in parts) == prompt
    for fields in ({}, {"echo": False}):
        error = http.post(COMPLETION, json={"prompt": "x", "max_tokens": 0} | fields).json()["error"]
        assert error["param"] == "max_tokens"


@pytest.mark.parametrize("stream", [False, True])
def test_an_impossible_token_has_a_finite_log_probability(http: httpx.Client, stream: bool) -> None:
    """`post` and `streamed` refuse what is not JSON."""
    only = {"messages": TALK, "logprobs": True, "top_logprobs": 20, "allowed_token_ids": [100, 101], "max_tokens": 3}
    bodies: list[tuple[str, dict[str, Any]]] = [
        (CHAT, only),
        (CHAT, only | {"n": 2, "temperature": 1}),
        (COMPLETION, {"prompt": "央行宣布降息", "echo": True, "logprobs": 5, "max_tokens": 1, "top_k": 1}),
        (COMPLETION, {"prompt": ["你好", "再见"], "echo": True, "n": 2, "max_tokens": 5, "temperature": 1}),
    ]
    if not stream:
        bodies.append((CHAT, only | {"prompt_logprobs": 5}))
    for path, body in bodies:
        assert streamed(http, path, **body) if stream else post(http, path, **body)


def test_a_prompt_is_cut_on_the_side_that_is_asked_for(http: httpx.Client) -> None:
    tokens = post(http, "/tokenize", prompt=QUESTION)["tokens"]
    for side, left in (
        ({}, tokens[-2:]),
        ({"truncation_side": "left"}, tokens[-2:]),
        ({"truncation_side": "right"}, tokens[:2]),
    ):
        body = {"prompt": QUESTION, "max_tokens": 1, "truncate_prompt_tokens": 2, "return_token_ids": True} | side
        assert post(http, COMPLETION, **body)["choices"][0]["prompt_token_ids"] == left


@pytest.mark.parametrize("arguments", ['{"value": ', "", "[]", "{}"])
def test_a_cut_tool_call_does_not_spoil_the_conversation(http: httpx.Client, arguments: str) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    nothing: dict[str, Any] = dict.fromkeys(("content", "refusal", "audio", "function_call"))
    history = [
        *TALK,
        {"role": "assistant", "annotations": [], **nothing, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "ok"}]},
        {"role": "assistant", **nothing, "content": "ok", "tool_calls": []},
        {"role": "user", "content": "go on", "name": None},
    ]
    for more in ({}, {"logprobs": True}):
        assert post(http, CHAT, messages=history, max_tokens=3, **more)["usage"]["completion_tokens"] > 0


def test_a_conversation_may_hold_an_answer_without_anything(http: httpx.Client) -> None:
    empties: list[dict[str, Any]] = [{"content": None}, {"content": ""}, {"tool_calls": []}, {"tool_calls": None}]
    for empty in empties:
        history = [*TALK, {"role": "assistant", **empty}, *TALK]
        assert post(http, CHAT, messages=history, max_tokens=3)["choices"]

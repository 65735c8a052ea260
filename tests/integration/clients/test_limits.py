"""Limits, defaults and refusals that depend on the model; unit tests cover the others."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.integration.builtin_model import ANSWER, QUESTION
from tests.integration.server_process import ServerProcess

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(420, func_only=True)]

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
PROMPT: dict[str, Any] = {"prompt": "请分类：苹果发布新款iPhone\n类别："}
IMAGE = {"type": "image_url", "image_url": {"url": "x"}}
UNKNOWN_TOKEN = 16000  # the first after the vocabulary


def post(http: httpx.Client, body: dict[str, Any], status: int = 200) -> dict[str, Any]:
    path = "/v1/completions" if "prompt" in body else "/v1/chat/completions"
    response = http.post(path, json=body)
    assert response.status_code == status, response.text
    answer: dict[str, Any] = response.json()
    return answer


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logit_bias": {str(UNKNOWN_TOKEN): 1}}, "logit_bias"),
        ({"allowed_token_ids": [UNKNOWN_TOKEN]}, "allowed_token_ids"),
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"allowed_token_ids": ["x"]}, "allowed_token_ids[0]"),
        ({"allowed_token_ids": [10**30]}, "allowed_token_ids[0]"),
        ({"stop_token_ids": [UNKNOWN_TOKEN]}, "stop_token_ids"),
        ({"bad_words": [""]}, "bad_words[0]"),
        ({"bad_words": [5]}, "bad_words[0]"),
        ({"bad_words": [f"w{number}" for number in range(5000)]}, "bad_words"),
        ({"min_tokens": 5, "max_tokens": 3}, "min_tokens"),
        ({"n": 2, "temperature": 0}, "n"),
        ({"truncate_prompt_tokens": 100_000}, "truncate_prompt_tokens"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"cache_salt": ""}, "cache_salt"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs"),
        ({"structured_outputs": {"grammar": "root ::= "}}, "structured_outputs"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "x"}}}},
            "response_format",
        ),
    ],
)
@pytest.mark.parametrize("kind", ["chat", "completion", "stream", "reference"])
def test_what_the_model_judges_is_refused_by_name(
    http: httpx.Client, fields: dict[str, Any], param: str, kind: str
) -> None:
    base = PROMPT if kind == "completion" else CHAT
    way = {"stream": True} if kind == "stream" else {"logprobs": True} if kind == "reference" else {}
    error = post(http, base | way | fields, 400)["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        *(({"chat_template_kwargs": {name: 5}}, "chat_template_kwargs") for name in ("messages", "tokenizer", "tools")),
        ({"chat_template_kwargs": {"chat_template": "{{ 1 }}"}}, "chat_template_kwargs"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"documents": [5]}, "documents[0]"),
        ({"reasoning_effort": "extreme"}, "reasoning_effort"),
        ({"messages": [{"role": "user", "content": [{"type": "other"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [IMAGE]}], "logprobs": True}, "messages[0].content[0]"),
        ({"truncate_prompt_tokens": 0}, "messages"),
        ({"stream": True, "prompt_logprobs": 1}, "prompt_logprobs"),
    ],
)
def test_what_is_wrong_with_a_chat_is_named(http: httpx.Client, fields: dict[str, Any], param: str) -> None:
    assert post(http, CHAT | fields, 400)["error"]["param"] == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"prompt": [UNKNOWN_TOKEN]}, "prompt"), ({"prompt": ""}, "prompt"), ({"suffix": "."}, "suffix")],
)
def test_what_is_wrong_with_a_completion_is_named(http: httpx.Client, fields: dict[str, Any], param: str) -> None:
    assert post(http, PROMPT | fields, 400)["error"]["param"] == param


@pytest.mark.parametrize("stream", [False, True])
def test_the_refusal_of_a_long_prompt_names_limit_and_count(http: httpx.Client, stream: bool) -> None:
    chat = CHAT | {"messages": [{"role": "user", "content": "新闻" * 5000}], "stream": stream}
    for body, param in ((chat, "messages"), ({"prompt": [9] * 4100, "stream": stream}, "prompt")):
        error = post(http, body, 400)["error"]
        assert (error["param"], error["code"]) == (param, "context_length_exceeded")
        assert "4096" in error["message"]
        assert "4100" in error["message"] or "at least 4097" in error["message"]


def test_mistakes_of_clients_are_no_failures_and_keep_no_slot(server: ServerProcess, http: httpx.Client) -> None:
    before = server.metrics()
    for fields in ({"structured_outputs": {"grammar": "root ::= "}}, {"bad_words": [""]}, {"n": 2}):
        for way in ({}, {"stream": True}, {"logprobs": True}):
            post(http, CHAT | way | fields, 400)
    after = server.metrics()
    assert after["errors"]["total"] == before["errors"]["total"]
    assert (after["requests"]["failed"], after["requests"]["running"]) == (before["requests"]["failed"], 0)
    assert after["alerts"] == []


def test_null_means_the_default(http: httpx.Client) -> None:
    """vLLM itself reads null as 16 tokens for a completion and as temperature 1."""
    names = ("temperature", "max_tokens", "n", "stop", "top_p", "top_k", "seed", "stream", "logprobs", "logit_bias")
    nulls: dict[str, Any] = dict.fromkeys(names)
    answer = post(http, CHAT | nulls | {"ignore_eos": True, "min_tokens": None, "tools": None, "response_format": None})
    assert answer["usage"]["completion_tokens"] == 100
    answer = post(http, PROMPT | nulls | {"ignore_eos": True, "echo": None, "suffix": None, "best_of": None})
    assert answer["usage"]["completion_tokens"] == 100


def test_unset_values_come_from_the_models_generation_config(http: httpx.Client) -> None:
    """The configured top_k of 1 makes answers certain; a request's own value takes precedence."""
    sampled = {"prompt": "请", "temperature": 1, "n": 8, "max_tokens": 8, "ignore_eos": True}
    for logprobs in (None, 0):
        choices = post(http, sampled | {"logprobs": logprobs})["choices"]
        assert len({choice["text"] for choice in choices}) == 1
        choices = post(http, sampled | {"logprobs": logprobs, "top_k": -1})["choices"]
        assert len({choice["text"] for choice in choices}) > 1


def test_an_answer_has_at_least_the_tokens_asked_for(http: httpx.Client) -> None:
    answer = post(http, CHAT | {"min_tokens": 20, "max_tokens": 30})
    assert 20 <= answer["usage"]["completion_tokens"] <= 30
    assert post(http, CHAT | {"max_tokens": 512, "ignore_eos": True})["usage"]["completion_tokens"] == 512


def test_unknown_fields_are_ignored_with_a_line(server: ServerProcess, http: httpx.Client) -> None:
    answer = post(http, CHAT | {"frobnicate": 1, "verbosity": "low"})
    assert answer["choices"][0]["message"]["content"] == ANSWER
    said = "ignored 1 unknown field(s) of a request: 'frobnicate'"
    server.until(lambda: any(json.loads(line)["message"] == said for line in server.lines if line[0] == "{"), 5, said)


def test_words_and_tokens_can_be_forbidden(http: httpx.Client) -> None:
    answer = post(http, CHAT | {"bad_words": ["财经"]})
    assert "财经" not in answer["choices"][0]["message"]["content"]
    answer = post(http, PROMPT | {"allowed_token_ids": [50], "max_tokens": 3})
    assert answer["choices"][0]["text"] == "PPP"


def test_a_completion_can_repeat_its_prompt(http: httpx.Client) -> None:
    answer = post(http, PROMPT | {"echo": True, "temperature": 0})
    assert answer["choices"][0]["text"] == PROMPT["prompt"] + "科技"
    scored = post(http, PROMPT | {"echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0})
    logprobs = scored["choices"][0]["logprobs"]
    assert logprobs["token_logprobs"][0] is None
    assert all(value <= 0 for value in logprobs["token_logprobs"][1:])
    assert "".join(logprobs["tokens"]) == PROMPT["prompt"] + "科技"

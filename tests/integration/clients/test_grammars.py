"""Grammars that cost much: refused in time, and nobody else notices."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.fuzz.silence import Silence
from tests.integration.builtin_model import ANSWER, QUESTION
from tests.integration.server_process import ServerProcess

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(420)]

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": QUESTION}]
# Within every bound, but it takes longer than the server allows.
SLOW = "^" + "|".join(f"([a-z]{{1,400}}{letter})" for letter in "abcdefghijklmnop") + "$"
LARGE = {
    "type": "object",
    "properties": {
        f"property_number_{number}": {"type": "object", "properties": {"x": {"type": "string"}, "y": {"type": "integer"}}}
        for number in range(1000)
    },
}  # fmt: skip
# The loop shares two cores with the engine and the tests.
SILENT_SECONDS = 0.3


def form(schema: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


def refused(response: httpx.Response, param: str) -> str:
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    return str(error["message"])


def test_what_is_out_of_bounds_is_refused_at_once(http: httpx.Client) -> None:
    pattern = {"type": "string", "pattern": "^[a-z]{1,14000}x?$"}
    huge = {"enum": ["x" * 1000] * 1000}
    begun = time.monotonic()
    assert "--max-grammar-repeats" in refused(http.post(CHAT, json={"messages": MESSAGES} | form(pattern)), "response_format")
    assert "--max-grammar-size" in refused(http.post(CHAT, json={"messages": MESSAGES} | form(huge)), "response_format")
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"messages": MESSAGES} | form({"type": "string", "pattern": SLOW}), "response_format"),
        (CHAT, {"messages": MESSAGES, "structured_outputs": {"regex": SLOW}}, "structured_outputs"),
        ("/v1/completions", {"prompt": "x", "logprobs": 1, "structured_outputs": {"regex": SLOW + "?"}}, "structured_outputs"),
        (
            "/v1/responses",
            {"input": "x", "text": {"format": {"type": "json_schema", "name": "x", "schema": {"pattern": SLOW, "type": "string"}}}},
            "text",
        ),
        (
            "/v1/messages",
            {
                "messages": MESSAGES,
                "max_tokens": 4,
                "tools": [{"name": "f", "input_schema": {"type": "object", "properties": {"a": {"type": "string", "pattern": SLOW}}}}],
                "tool_choice": {"type": "any"},
            },
            "tools",
        ),
    ],
)  # fmt: skip
def test_a_slow_grammar_is_refused_and_nobody_notices(
    server: ServerProcess, http: httpx.Client, path: str, body: dict[str, Any], param: str
) -> None:
    plain = {"messages": MESSAGES, "temperature": 0}
    with Silence(server.url).measured() as silence, ThreadPoolExecutor(4) as pool:
        http.post(path, json=body | {"structured_outputs": {"choice": ["a"]}} if param == "structured_outputs" else plain)
        sent = [pool.submit(http.post, path, json=body, timeout=60) for _ in range(4)]
        while not all(each.done() for each in sent):
            begun = time.monotonic()
            chat = http.post(CHAT, json=plain)
            assert (chat.status_code, chat.json()["choices"][0]["message"]["content"]) == (200, ANSWER)
            assert time.monotonic() - begun < 3
        for each in sent:
            assert "longer than" in refused(each.result(), param)
    assert silence.failed is None
    assert silence.longest < SILENT_SECONDS
    assert server.active_alerts() == []


def test_many_prompts_with_a_large_schema_cost_the_loop_little(server: ServerProcess, http: httpx.Client) -> None:
    body = {"prompt": ["x"] * 16, "max_tokens": 1} | form(LARGE)
    with Silence(server.url).measured() as silence:
        for _ in range(2):
            response = http.post("/v1/completions", json=body, timeout=60)
            assert response.status_code == 200, response.text
    assert silence.longest < SILENT_SECONDS


def test_a_client_that_leaves_ends_its_check(server: ServerProcess, http: httpx.Client) -> None:
    before = len(server.children())
    with pytest.raises(httpx.TimeoutException):
        http.post(CHAT, json={"messages": MESSAGES, "structured_outputs": {"regex": SLOW + "*"}}, timeout=1)
    server.until(lambda: len(server.children()) <= before, 2, "the check ends")


def test_mistakes_in_grammars_write_no_traceback(server: ServerProcess, http: httpx.Client) -> None:
    seen = len(server.lines)
    for constraint in ({"regex": "("}, {"grammar": "root ::= "}, {"json": {"type": "x"}}, {"structural_tag": "{}"}):
        for way in ({}, {"stream": True}, {"logprobs": True}):
            body = {"messages": MESSAGES, "structured_outputs": constraint} | way
            refused(http.post(CHAT, json=body), "structured_outputs")
    assert not [line for line in server.lines[seen:] if "Traceback" in line]


def test_a_thought_of_a_response_is_free_and_its_answer_is_not(
    http: httpx.Client, thinking: dict[str, Any], end_of_thought: dict[str, int]
) -> None:
    """vLLM's own server would constrain the thought and never answer."""
    answer = http.post("/v1/responses", json=thinking | {"structured_outputs": {"choice": ["财经"]}}).json()
    texts = [part["text"] for item in answer["output"] if item["type"] == "message" for part in item["content"]]
    assert texts == ["财经"]
    schema = {"type": "object", "properties": {"a": {"enum": ["财经"]}}, "required": ["a"], "additionalProperties": False}
    formatted = {"text": {"format": {"type": "json_schema", "name": "x", "schema": schema}}}
    answer = http.post("/v1/responses", json=thinking | formatted).json()
    (text,) = [part["text"] for item in answer["output"] if item["type"] == "message" for part in item["content"]]
    assert json.loads(text) == {"a": "财经"}


@pytest.fixture
def thinking(end_of_thought: dict[str, int]) -> dict[str, Any]:
    """A response that thinks, but only until its first token."""
    return {"input": QUESTION, "reasoning": {"effort": "low"}, "temperature": 0, "logit_bias": end_of_thought}

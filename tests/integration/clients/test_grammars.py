"""Grammars that cost much: refused in time, and nobody else notices."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from tokenizers import Tokenizer

from qwen_server.control.alerts import ZERO_WORK
from tests.fuzz.silence import Silence
from tests.integration.builtin_model import ANSWER, QUESTION
from tests.integration.server_process import ServerProcess

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(420, func_only=True)]

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": QUESTION}]
# Within every bound, but it takes longer than the server allows.
SLOW = "^(" + "|".join(f"(.|{letter}.){{0,500}}{letter}" for letter in "abcdefgh") + ")"
LARGE = {"enum": [f"value {number} {'x' * (number % 97)}" for number in range(1500)]}
PROPERTY = {"type": "string", "pattern": SLOW}
OBJECT = {"type": "object", "properties": {"a": PROPERTY}}
STRICT_TOOL = {"type": "function", "function": {"name": "f", "strict": True, "parameters": OBJECT}}
# The loop shares two cores with the engine and the tests.
SILENT_SECONDS = 1.0
PLAIN_SECONDS = 10
TRIES_WHILE_BUSY = 10


def form(schema: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


def answered(http: httpx.Client, path: str, body: dict[str, Any], timeout: float) -> httpx.Response:
    """The answer once the machine has had time to check the grammar. Until then it is 503."""
    for _ in range(TRIES_WHILE_BUSY):
        response = http.post(path, json=body, timeout=timeout)
        if response.status_code != 503:
            break
        assert int(response.headers["retry-after"]) >= 1
        time.sleep(1)
    assert response.status_code == 200, response.text
    return response


def usual_silence(server: ServerProcess) -> float:
    """The longest silence of half a second without requests: what else the machine does."""
    with Silence(server.url).measured() as silence:
        time.sleep(0.5)
    return silence.longest


def refused(response: httpx.Response, param: str | None) -> str:
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error.get("param") == param
    return str(error["message"])


def test_what_is_out_of_bounds_is_refused_at_once(http: httpx.Client) -> None:
    pattern = {"type": "string", "pattern": "^[a-z]{1,14000}x?$"}
    huge = {"enum": ["x" * 1000] * 1000}
    begun = time.monotonic()
    assert "--max-grammar-repeats" in refused(
        http.post(CHAT, json={"messages": MESSAGES} | form(pattern)), "response_format"
    )
    assert "--max-grammar-size" in refused(http.post(CHAT, json={"messages": MESSAGES} | form(huge)), "response_format")
    assert time.monotonic() - begun < 1


def test_slow_grammars_are_refused_and_nobody_notices(server: ServerProcess, http: httpx.Client) -> None:
    slow = [
        (CHAT, {"messages": MESSAGES} | form(PROPERTY), "response_format"),
        (
            "/v1/completions",
            {"prompt": "x", "logprobs": 1, "structured_outputs": {"regex": SLOW}},
            "structured_outputs",
        ),
        (
            "/v1/responses",
            {"input": "x", "text": {"format": {"type": "json_schema", "name": "x", "schema": OBJECT}}},
            "text",
        ),
        (
            "/v1/messages",
            {
                "messages": MESSAGES,
                "max_tokens": 4,
                "output_config": {"format": {"type": "json_schema", "schema": OBJECT | {"required": ["a"]}}},
            },
            None,  # Anthropic's errors name no parameter
        ),
        (CHAT, {"messages": MESSAGES, "tools": [STRICT_TOOL], "tool_choice": "required"}, "tools"),
    ]
    plain = {"messages": MESSAGES, "temperature": 0}
    usual = usual_silence(server)
    with Silence(server.url).measured() as silence, ThreadPoolExecutor(len(slow)) as pool:
        sent = [pool.submit(http.post, path, json=body, timeout=60) for path, body, _ in slow]
        while not all(each.done() for each in sent):
            begun = time.monotonic()
            chat = http.post(CHAT, json=plain)
            assert (chat.status_code, chat.json()["choices"][0]["message"]["content"]) == (200, ANSWER)
            assert time.monotonic() - begun < PLAIN_SECONDS
            fast = answered(http, CHAT, plain | {"structured_outputs": {"choice": [f"{begun}"]}}, 30)
            assert fast.json()["choices"][0]["message"]["content"] == f"{begun}"
    for each, (_, _, param) in zip(sent, slow, strict=True):
        # Where the machine is too busy to tell, it is 503.
        if each.result().status_code != 503:
            assert refused(each.result(), param)
    assert silence.failed is None
    assert silence.longest < max(SILENT_SECONDS, 5 * usual)
    assert not [name for name in server.active_alerts() if name in ZERO_WORK]


def test_many_prompts_with_a_large_schema_cost_the_loop_little(server: ServerProcess, http: httpx.Client) -> None:
    body = {"prompt": ["x"] * 128, "max_tokens": 1} | form(LARGE)
    usual = usual_silence(server)
    with Silence(server.url).measured() as silence:
        for _ in range(2):
            answered(http, "/v1/completions", body, 60)
    assert silence.longest < max(SILENT_SECONDS, 5 * usual)


def test_a_client_that_leaves_ends_its_check(server: ServerProcess, http: httpx.Client) -> None:
    before = len(server.children())
    with pytest.raises(httpx.TimeoutException):
        http.post(CHAT, json={"messages": MESSAGES, "structured_outputs": {"regex": SLOW + "*"}}, timeout=1.5)
    server.until(lambda: len(server.children()) <= before, 2, "the check ends")


def test_mistakes_in_grammars_write_no_traceback(server: ServerProcess, http: httpx.Client) -> None:
    seen = len(server.lines)
    endless = {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}
    constraints: list[dict[str, Any]] = [
        {"regex": "("},
        {"grammar": "root ::= "},
        {"json": {"type": "x"}},
        {"json": endless},
        {"structural_tag": "{}"},
    ]
    for constraint in constraints:
        for way in ({}, {"stream": True}, {"logprobs": True}):
            body = {"messages": MESSAGES, "structured_outputs": constraint} | way
            refused(http.post(CHAT, json=body), "structured_outputs")
    assert not [line for line in server.lines[seen:] if "Traceback" in line]


def texts_of(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    messages = [item for item in response.json()["output"] if item["type"] == "message"]
    return [part["text"] for message in messages for part in message["content"]]


@pytest.mark.parametrize("thinks", [True, False])
def test_the_thought_of_a_response_is_free_and_its_answer_is_not(
    http: httpx.Client, tokenizer: Tokenizer, no_blanks: dict[str, int], thinks: bool
) -> None:
    """vLLM's own server would constrain the thought, and there would be no answer."""
    body: dict[str, Any] = {"input": QUESTION, "temperature": 0, "logit_bias": no_blanks}
    if thinks:
        # The thought ends with its first token: left alone, this model thinks without end.
        bias = no_blanks | {str(tokenizer.token_to_id("</think>")): 100}
        body |= {"reasoning": {"effort": "low"}, "logit_bias": bias}
    assert texts_of(http.post("/v1/responses", json=body | {"structured_outputs": {"choice": ["财经"]}})) == ["财经"]
    schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": False}
    wanted = {"type": "json_schema", "name": "x", "schema": schema}
    (text,) = texts_of(http.post("/v1/responses", json=body | {"text": {"format": wanted}}))
    assert json.loads(text) == {"a": 1}
    tool = {"type": "function", "name": "f", "strict": True, "parameters": schema}
    answer = http.post("/v1/responses", json=body | {"tools": [tool], "tool_choice": "required"}).json()
    (call,) = [item for item in answer["output"] if item["type"] == "function_call"]
    assert json.loads(call["arguments"]) == {"a": 1}


def test_the_thought_of_a_message_is_free(http: httpx.Client) -> None:
    schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": False}
    body: dict[str, Any] = {"messages": MESSAGES, "max_tokens": 8, "temperature": 0}
    body |= {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
    (answer,) = http.post("/v1/messages", json=body).json()["content"]
    assert answer["text"].startswith("{")
    thinking = http.post("/v1/messages", json=body | {"chat_template_kwargs": {"enable_thinking": True}}).json()
    assert thinking["content"][0]["type"] == "thinking", thinking
    assert not thinking["content"][0]["thinking"].startswith("{")

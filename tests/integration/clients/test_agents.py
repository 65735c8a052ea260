"""Requests as Codex and Claude Code send them, on a model with tools."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.integration.builtin_model import NAME, QUESTION
from tests.integration.clients.test_tools import CITIES, PARAMETERS, forced, written
from tests.integration.server_process import ServerProcess

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(420, func_only=True)]

CALL = written("北京")
# --- Codex ---
WEATHER: Any = {"type": "function", "name": "get_weather", "parameters": PARAMETERS, "strict": False}
SAID = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": QUESTION}]}
CODEX: dict[str, Any] = {
    "instructions": "You are a coding agent",
    "store": False,
    "include": ["reasoning.encrypted_content"],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "reasoning": None,
    "prompt_cache_key": "k",
}
# --- Claude Code ---
CACHED = {"cache_control": {"type": "ephemeral"}}
CLAUDE: dict[str, Any] = {
    "model": NAME,
    "metadata": {"user_id": "u"},
    "thinking": {"type": "adaptive"},
    "output_config": {"effort": "high"},
    "context_management": {"edits": []},
    "system": [{"type": "text", "text": "You are Claude Code"} | CACHED],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "请分类：央行降息"}]},
        {
            "role": "assistant",
            "content": [{"type": "thinking", "thinking": "x", "signature": ""}, {"type": "text", "text": "财经"}],
        },
        {"role": "system", "content": "<system-reminder>x</system-reminder>"},
        {"role": "user", "content": [{"type": "text", "text": ""} | CACHED, {"type": "text", "text": "再来"}]},
    ],
}
TOOL: Any = {"name": "get_weather", "description": "x", "input_schema": PARAMETERS} | CACHED
SEARCH: Any = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}
BETA = {"anthropic-version": "2023-06-01", "anthropic-beta": "x"}


def post(http: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = http.post(path, json=body, headers=BETA)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def input_tokens(http: httpx.Client, **fields: Any) -> int:
    answer = post(http, "/v1/responses", CODEX | {"input": [SAID], "max_output_tokens": 1} | fields)
    return int(answer["usage"]["input_tokens"])


def test_codexs_tools_count_wherever_they_are(http: httpx.Client) -> None:
    none, top = input_tokens(http), input_tokens(http, tools=[WEATHER])
    added = {"type": "additional_tools", "role": "developer", "tools": [WEATHER]}
    assert none < top == input_tokens(http, input=[added, SAID])
    assert top == input_tokens(http, input=[added, SAID], tools=[WEATHER])
    hosted = [{"type": "web_search"}, {"type": "local_shell"}, {"type": "image_generation", "output_format": "png"}]
    assert top == input_tokens(http, input=[added | {"tools": [*hosted, WEATHER]}, SAID], tools=hosted)
    many = [WEATHER | {"name": f"f{index}"} for index in range(20)]
    assert input_tokens(http, tools=many) == input_tokens(http, input=[added | {"tools": many}, SAID]) > top
    large = {"type": "web_search", "filters": {"allowed_domains": ["example.org"] * 2000}}
    assert top == input_tokens(http, input=[added | {"tools": [large, WEATHER]}, SAID])


def test_codex_gets_its_calls(sdk: openai.OpenAI) -> None:
    added: Any = {"type": "additional_tools", "role": "developer", "tools": [WEATHER, {"type": "web_search"}]}
    asked: dict[str, Any] = {"model": NAME, "input": [added, SAID], "max_output_tokens": 300}
    for text, content in ((CALL, ""), (f"好的。{CALL}", "好的。"), (f"{CALL}\n{written('上海')}", "")):
        body = CODEX | forced(text)
        whole: Any = sdk.responses.create(**asked, extra_body=body)
        with sdk.responses.stream(**asked, extra_body=body) as stream:
            events: list[Any] = list(stream)
            final: Any = stream.get_final_response()
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == content
        expected = [("get_weather", {"city": city}) for city in CITIES[: text.count("<tool_call>")]]
        for answer in (whole, final):
            calls = [item for item in answer.output if item.type == "function_call"]
            assert [(call.name, json.loads(call.arguments)) for call in calls] == expected
            assert (answer.output_text, answer.status) == (content, "completed")
        done = {event.item.id: event.output_index for event in events if event.type == "response.output_item.done"}
        opened = {event.item.id: event.output_index for event in events if event.type == "response.output_item.added"}
        assert opened == done
        assert list(done) == [item.id for item in final.output]


@pytest.mark.parametrize("cut", [{"stop": ["city"]}, {"max_output_tokens": 6}])
def test_a_cut_call_of_codex_is_text(sdk: openai.OpenAI, cut: dict[str, Any]) -> None:
    body = CODEX | {"input": [SAID], "tools": [WEATHER], "max_output_tokens": 300} | forced(CALL) | cut
    whole = sdk.responses.create(model=NAME, input="x", extra_body=body)
    last: Any = list(sdk.responses.create(model=NAME, input="x", stream=True, extra_body=body))[-1]
    assert last.type == ("response.incomplete" if "max_output_tokens" in cut else "response.completed")
    assert last.response.status == whole.status
    for response in (whole, last.response):
        assert [item.type for item in response.output] == ["message"]
        assert response.output_text
        assert CALL.startswith(response.output_text)
    assert last.response.output_text == whole.output_text


def test_claude_codes_request_is_served(http: httpx.Client) -> None:
    variants: list[dict[str, Any]] = [
        {},
        {"tools": []},
        {"tools": [TOOL, SEARCH]},
        {"tools": [SEARCH], "tool_choice": {"type": "auto"}},
    ]
    for fields in variants:
        body = CLAUDE | {"max_tokens": 100, "temperature": 1} | fields
        answer = post(http, "/v1/messages?beta=true", body)
        counted = post(http, "/v1/messages/count_tokens?beta=true", CLAUDE | fields)
        assert counted["input_tokens"] == answer["usage"]["input_tokens"]
        stream = http.post("/v1/messages?beta=true", json=body | {"stream": True}, headers=BETA)
        assert stream.status_code == 200
        assert "event: message_stop" in stream.text


@pytest.mark.parametrize(
    "fields",
    [{"thinking": {"type": "adaptive", "display": "omitted"}}, {"output_config": {"effort": "high"}}, CLAUDE],
    ids=["adaptive", "effort", "both"],
)
def test_claude_code_gets_an_answer_and_not_a_thought(http: httpx.Client, fields: dict[str, Any]) -> None:
    """It sends both with every request. Only the type `enabled` turns thinking on."""
    body: dict[str, Any] = {"max_tokens": 20, "temperature": 0, "messages": [{"role": "user", "content": QUESTION}]}
    plain = post(http, "/v1/messages", body)
    asked = {name: fields[name] for name in ("thinking", "output_config") if name in fields}
    answer = post(http, "/v1/messages", body | asked)
    assert [block["type"] for block in answer["content"]] == ["text"]
    assert (answer["content"], answer["usage"]) == (plain["content"], plain["usage"])
    counted = post(http, "/v1/messages/count_tokens", {"messages": body["messages"]} | asked)
    assert counted["input_tokens"] == plain["usage"]["input_tokens"]


def test_tools_that_run_elsewhere_leave_one_line_in_the_log(server: ServerProcess, http: httpx.Client) -> None:
    body = CLAUDE | {"max_tokens": 5, "tools": [TOOL, SEARCH]}
    plain = post(http, "/v1/messages", body | {"tools": [TOOL]})["usage"]["input_tokens"]
    before = len(server.lines)
    assert post(http, "/v1/messages", body)["usage"]["input_tokens"] == plain
    server.until(lambda: any("web_search_20250305" in line for line in server.lines[before:]), 10, "the line")
    refused = http.post("/v1/messages", json=body | {"tool_choice": {"type": "tool", "name": "web_search"}})
    assert refused.status_code == 400
    assert "tool_choice.name" in refused.json()["error"]["message"]


@pytest.mark.parametrize("fields", [{"max_tokens": 6}, {"stop_sequences": ["weather"]}])
def test_a_cut_call_of_claude_code_is_the_same_streamed_as_not(
    anthropic_sdk: anthropic.Anthropic, fields: dict[str, Any]
) -> None:
    body: dict[str, Any] = {
        "model": NAME,
        "max_tokens": 60,
        "messages": [{"role": "user", "content": QUESTION}],
        "tools": [TOOL | {"strict": True}],
        "tool_choice": {"type": "any"},
        "extra_body": {"temperature": 0},
    } | fields
    whole: Any = anthropic_sdk.messages.create(**body)
    with anthropic_sdk.messages.stream(**body) as stream:
        final: Any = stream.get_final_message()
    assert (final.stop_reason, final.stop_sequence) == (whole.stop_reason, whole.stop_sequence)
    assert whole.stop_reason == ("max_tokens" if "max_tokens" in fields else "stop_sequence")
    texts = [[block.text for block in message.content if block.type == "text"] for message in (whole, final)]
    assert texts[0] == texts[1] != []
    assert texts[0][0].startswith("<tool_call>")
    assert not [block for block in final.content if block.type == "tool_use"]


def test_a_name_that_nobody_configured_is_not_found(http: httpx.Client) -> None:
    response = http.post("/v1/messages", json=CLAUDE | {"max_tokens": 5, "model": "claude-haiku-4-5-20251001"})
    assert response.status_code == 404
    error = response.json()["error"]
    assert error["type"] == "not_found_error"
    assert "claude-haiku-4-5-20251001" in error["message"]

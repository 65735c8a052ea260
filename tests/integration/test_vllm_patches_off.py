"""One real server without its patches of vLLM and uvicorn: the same answers, figures and alerts.

`make test-integration PATCHES=off` runs all tests on vLLM this way.
"""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.integration.builtin_model import ANSWER, NAME, QUESTION
from tests.integration.clients import tool_model
from tests.integration.load import Plan, Request, measured
from tests.integration.metrics_sampler import MetricsSampler, figures, read
from tests.integration.server_process import PATCHES_OFF, ServerProcess, real_server, stopped

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(420, func_only=True)]

server = real_server(PATCHES_OFF, f"--served-model-name={NAME}", model="model_folder", EngineUnresponsive=3.0)

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
COMPLETION = {"prompt": "请分类：苹果发布新款iPhone\n类别：", "temperature": 0}
LONG = {"prompt": "请分类：", "max_tokens": 512, "ignore_eos": True}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": CITY}}]
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "北京"}}\n</tool_call>'


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tool_model.build(tmp_path_factory.mktemp("model") / "news")


def post(http: httpx.Client, path: str, body: dict[str, Any], status: int = 200) -> dict[str, Any]:
    response = http.post(f"/v1/{path}", json=body)
    assert response.status_code == status, response.text
    found: dict[str, Any] = response.json()
    return found


def test_figures_are_what_the_clients_measured(server: ServerProcess) -> None:
    """The first requests of this server, and more at a time than run."""
    body = COMPLETION | {"max_tokens": 48, "ignore_eos": True, "stream": True}
    request = Request("/v1/completions", body | {"stream_options": {"include_usage": True}})
    made = server.engine_metric("vllm:generation_tokens_total")
    with MetricsSampler(server) as sampler:
        answers = measured(Plan(server.port, [request], connections=6, count=60))
        sampler.check()
    after = server.metrics()
    assert {(answer.status, answer.complete) for answer in answers} == {(200, True)}
    requests, output = after["requests"], after["tokens"]["total_output"]
    assert (requests["total"], requests["successful"], requests["failed"]) == (60, 60, 0)
    assert output == sum(answer.completion_tokens for answer in answers) == 60 * 48
    # The probe of an idle minute may add a token.
    assert 0 <= server.engine_metric("vllm:generation_tokens_total") - made - output <= 2
    seen = figures(answers)
    for path in ("slo.ttft.p50", "latency.p50", "slo.throughput.decoding_p50"):
        late = None if "throughput" in path else 0.1
        assert read(after, path) == pytest.approx(seen[path], rel=0.1, abs=late), path


def test_a_chat_is_answered_and_streamed_alike(http: httpx.Client, sdk: openai.OpenAI) -> None:
    body = post(http, "chat/completions", CHAT)
    assert (body["choices"][0]["message"]["content"], body["choices"][0]["finish_reason"]) == (ANSWER, "stop")
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    options: dict[str, Any] = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(sdk.chat.completions.create(model=NAME, **options))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == ANSWER
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == usage["completion_tokens"]


def test_a_completion_has_several_choices(http: httpx.Client) -> None:
    assert post(http, "completions", COMPLETION)["choices"][0]["text"] == "科技"
    both = post(http, "completions", LONG | {"n": 2, "max_tokens": 8, "temperature": 1, "top_k": -1, "seed": 7})
    assert [choice["index"] for choice in both["choices"]] == [0, 1]
    assert both["choices"][0]["text"] != both["choices"][1]["text"]
    assert both["usage"]["completion_tokens"] == 16


def test_a_stop_string_ends_an_answer(http: httpx.Client, sdk: openai.OpenAI) -> None:
    (choice,) = post(http, "chat/completions", CHAT | {"stop": ["【"]})["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("这条新闻属于", "stop")
    options: dict[str, Any] = CHAT | {"stop": ["【"], "stream": True}
    choices = [chunk.choices[0] for chunk in sdk.chat.completions.create(model=NAME, **options)]
    assert "".join(choice.delta.content or "" for choice in choices) == "这条新闻属于"
    assert choices[-1].finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called(sdk: openai.OpenAI, stream: bool) -> None:
    body: dict[str, Any] = CHAT | {"tools": TOOLS, "max_tokens": 100}
    body["extra_body"] = {"structured_outputs": {"choice": [CALL]}}
    if not stream:
        choice = sdk.chat.completions.create(model=NAME, **body).choices[0]
        (call,) = choice.message.tool_calls or []
        assert call.type == "function"
        assert (choice.finish_reason, json.loads(call.function.arguments)) == ("tool_calls", {"city": "北京"})
        return
    chunks = list(sdk.chat.completions.create(model=NAME, stream=True, **body))
    calls = [call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or []]
    assert json.loads("".join((call.function and call.function.arguments) or "" for call in calls)) == {"city": "北京"}
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "tool_calls"


@pytest.mark.parametrize("way", [{}, {"stream": True}, {"logprobs": True}])
def test_a_bad_grammar_is_refused_by_name(http: httpx.Client, way: dict[str, Any]) -> None:
    error = post(http, "chat/completions", CHAT | way | {"structured_outputs": {"grammar": "root ::= "}}, 400)["error"]
    assert (error["param"], error["type"]) == ("structured_outputs", "invalid_request_error")


def test_a_client_that_disconnects_frees_its_slot_and_the_engine(server: ServerProcess, http: httpx.Client) -> None:
    before = server.engine_metric("vllm:generation_tokens_total")
    with http.stream("POST", "/v1/completions", json=LONG | {"n": 16, "stream": True}) as response:
        next(response.iter_lines())
    server.until_requests(0, 0, 5)
    server.until(lambda: server.engine_metric("vllm:num_requests_running") == 0, 5, "the engine is free")
    assert server.engine_metric("vllm:generation_tokens_total") - before < 16 * 512


def test_a_stopped_engine_raises_the_alert_until_it_runs_again(server: ServerProcess, http: httpx.Client) -> None:
    assert "EngineUnresponsive" not in server.active_alerts()
    with stopped(server.engine_core()):
        server.until(lambda: "EngineUnresponsive" in server.active_alerts(), 20, "the alert")
        assert server.status("/health") == 503
    server.until(lambda: "EngineUnresponsive" not in server.active_alerts(), 15, "the end of the alert")
    assert post(http, "chat/completions", CHAT)["choices"][0]["message"]["content"] == ANSWER


def test_a_killed_engine_is_restarted_but_what_was_streamed_ends(server: ServerProcess, http: httpx.Client) -> None:
    """The last test of this server. The tokens of an answer are lost without the patch `replay`."""
    with ThreadPoolExecutor(2) as pool:
        streamed = server.begin_stream(pool, LONG)
        whole = pool.submit(post, http, "completions", LONG)
        server.until_requests(2, 0)
        os.kill(server.engine_core(), signal.SIGKILL)
        assert json.loads(streamed.result()[-1])["error"]["code"] == "engine_restarted"
        assert whole.result()["usage"]["completion_tokens"] == LONG["max_tokens"]
    assert server.metrics()["engine"]["restarts"]["by_cause"] == {"died": 1}

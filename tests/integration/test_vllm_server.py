"""One real server from start to drain: answers, numbers, engine hangs, and a lossless shutdown."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionUserMessageParam

from qwen_server.engine.vllm.warmup import FURTHER
from tests.fuzz.rounds import fuzz
from tests.integration.builtin_model import ANSWER, NAME, QUESTION
from tests.integration.server_process import ServerProcess, command_line, real_server, wait_until_gone
from tests.loopback import NO_TLS

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(420, func_only=True)]

CHAT = {
    "messages": [{"role": "user", "content": QUESTION}],
    "max_tokens": 100,
    "temperature": 0.3,
}
COMPLETION = {"prompt": "请分类：苹果发布新款iPhone\n类别：", "max_tokens": 50, "temperature": 0.3}
LONG = {"prompt": "请分类：", "max_tokens": 512, "ignore_eos": True, "temperature": 0.7}
EXACT = {"temperature": 0, "max_tokens": 24}


server = real_server(
    *("--max-concurrent-requests=3", "--max-queue-size=4", "--queue-timeout=120"),
    engine=["--max-num-seqs=32"],
    EngineUnresponsive=3.0,
)


def chat(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = http.post("/v1/chat/completions", json=CHAT | fields)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def events(http: httpx.Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    with http.stream("POST", path, json=body | {"stream": True}) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_the_engine_core_is_named_as_vllm_names_it(server: ServerProcess) -> None:
    assert command_line(server.engine_core()).startswith(b"VLLM::EngineCore")


def test_the_warm_up_is_not_counted(server: ServerProcess) -> None:
    metrics = server.metrics()
    assert metrics["requests"]["total"] == 0
    assert (metrics["tokens"]["total_input"], metrics["tokens"]["total_output"]) == (0, 0)
    assert metrics["slo"]["sample_size"] == 0


@pytest.mark.parametrize("fields", FURTHER, ids=lambda fields: next(iter(fields)))
def test_vllm_takes_what_the_warm_up_sends_on_a_gpu(http: httpx.Client, fields: dict[str, Any]) -> None:
    """There, a body that it refused would only be a line of the log."""
    response = http.post("/v1/completions", json={"prompt": "你好", "max_tokens": 4, **fields})
    assert response.status_code == 200, response.text


def test_the_chat_of_the_specification_is_answered(http: httpx.Client) -> None:
    body = chat(http)
    assert body["object"] == "chat.completion"
    assert body["model"] == NAME
    assert body["id"].startswith("chatcmpl-")
    (choice,) = body["choices"]
    assert choice["message"]["role"] == "assistant"
    assert re.fullmatch(
        r"这条新闻属于【(财经|房产|股票|教育|科技|社会|时政|体育|游戏|娱乐)】类别。", choice["message"]["content"]
    )
    assert choice["finish_reason"] == "stop"
    assert chat(http, temperature=0)["choices"][0]["message"]["content"] == ANSWER
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_the_completion_of_the_specification_is_answered(http: httpx.Client) -> None:
    body = http.post("/v1/completions", json=COMPLETION | {"temperature": 0}).json()
    assert body["object"] == "text_completion"
    assert body["id"].startswith("cmpl-")
    assert (body["choices"][0]["text"], body["choices"][0]["finish_reason"]) == ("科技", "stop")


def test_a_streamed_chat_says_the_same(http: httpx.Client) -> None:
    whole = chat(http, **EXACT)
    chunks = events(http, "/v1/chat/completions", CHAT | EXACT | {"stream_options": {"include_usage": True}})
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])
    assert text == whole["choices"][0]["message"]["content"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == whole["usage"]


def test_a_streamed_completion_says_the_same(http: httpx.Client) -> None:
    whole = http.post("/v1/completions", json=COMPLETION | EXACT).json()
    chunks = events(http, "/v1/completions", COMPLETION | EXACT)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["choices"][0]["text"]
    assert chunks[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]


@pytest.mark.parametrize("stream", [False, True])
def test_the_fast_path_answers_as_vllms_own_code_does(http: httpx.Client, stream: bool) -> None:
    """Requests with logprobs take the reference path; everything else must be the same."""
    fast, reference = CHAT | EXACT, CHAT | EXACT | {"logprobs": True}
    if not stream:
        answers = [http.post("/v1/chat/completions", json=body).json() for body in (fast, reference)]
        assert answers[1]["choices"][0]["logprobs"]["content"]
        for part in ("usage", "object", "model"):
            assert answers[0][part] == answers[1][part] or part == "usage"
        assert answers[0]["usage"].items() <= answers[1]["usage"].items()
        for key in ("index", "finish_reason"):
            assert answers[0]["choices"][0][key] == answers[1]["choices"][0][key]
        assert [answer["choices"][0]["message"]["content"] for answer in answers] == 2 * [
            answers[0]["choices"][0]["message"]["content"]
        ]
        return
    streams = [events(http, "/v1/chat/completions", body) for body in (fast, reference)]
    texts = ["".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) for chunks in streams]
    assert texts[0] == texts[1]
    assert streams[0][-1]["choices"][0]["finish_reason"] == streams[1][-1]["choices"][0]["finish_reason"]


def test_several_prompts_and_choices_are_numbered_through(http: httpx.Client) -> None:
    body = COMPLETION | {"prompt": [COMPLETION["prompt"], "你好"], "n": 2, "max_tokens": 3}
    answer = http.post("/v1/completions", json=body).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    chunks = events(http, "/v1/completions", body)
    assert {chunk["choices"][0]["index"] for chunk in chunks} == {0, 1, 2, 3}


def test_an_answer_can_be_constrained(http: httpx.Client) -> None:
    choice = {"structured_outputs": {"choice": ["体育", "游戏"]}}
    assert chat(http, **choice)["choices"][0]["message"]["content"] in {"体育", "游戏"}
    schema = {"type": "boolean"}
    wanted = {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}
    content = chat(http, **wanted, temperature=0)["choices"][0]["message"]["content"]
    assert json.loads(content) in {True, False}


def test_no_text_of_a_prompt_is_logged_by_us_or_by_vllm(server: ServerProcess, http: httpx.Client) -> None:
    marker = "a-very-private-headline"
    message = {"role": "user", "content": marker}
    tool = {"type": "function", "function": {"name": "f", "description": marker, "parameters": {"type": marker}}}
    asked: list[dict[str, Any]] = [
        {},
        {"stream": True},
        {"logprobs": True, "top_logprobs": 2},
        {"tools": [tool], "tool_choice": "auto"},
        {"tools": [{"type": "function", "function": marker}], "tool_choice": "required"},
        {"response_format": {"type": marker}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": marker}}}},
        {"structured_outputs": {"regex": marker + "(["}},
        {"structured_outputs": {"grammar": marker}},
        {"messages": [message, {"role": "user", "content": [{"type": marker, marker: 1}]}]},
        {"messages": [{"role": "tool", "content": [{"type": "image_url", "image_url": {"url": marker}}]}]},
        {"messages": [{"role": "user", "content": marker * 2000}]},
        {"chat_template_kwargs": {marker: marker}, "logprobs": True},
        {"bad_words": [marker], "stop": [marker], "cache_salt": marker},
        {"logit_bias": {"99999999": 1}},
    ]
    codes = [
        http.post("/v1/chat/completions", json={"messages": [message], "max_tokens": 4} | fields).status_code
        for fields in asked
    ]
    codes += [http.post("/v1/completions", json={"prompt": [marker, marker * 2000]}).status_code]
    assert {200, 400} <= set(codes) <= {200, 400, 404, 500}
    last = http.post("/v1/completions", json={"prompt": "x"}).headers["x-request-id"]
    server.until(lambda: any(last in line for line in server.lines), 10, "the last request is logged")
    assert not [line for line in server.lines if marker in line]


def test_the_same_seed_gives_the_same_answer(http: httpx.Client) -> None:
    texts = {
        http.post("/v1/completions", json=LONG | {"max_tokens": 20, "temperature": 1.0, "seed": 7}).json()["choices"][
            0
        ]["text"]
        for _ in range(2)
    }
    assert len(texts) == 1


@pytest.mark.parametrize(
    ("path", "fields", "param", "named"),
    [
        ("chat/completions", {"messages": [{"role": "user", "content": "长文 " * 20000}]}, "messages", "4096"),
        ("completions", {"prompt": [9] * 4096}, "prompt", "4096"),
        ("completions", {"prompt": [10**8]}, "prompt", "vocabulary"),
        ("completions", {"prompt": "x", "logit_bias": {"99999999": 1}}, "logit_bias", "vocab"),
        ("completions", {"prompt": "x", "n": 2, "temperature": 0}, "n", "greedy"),
        ("chat/completions", {"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "tool"),
        ("chat/completions", {"structured_outputs": {"regex": "("}}, "structured_outputs", ""),
    ],
)
def test_what_only_the_engine_can_judge_is_refused_by_name(
    http: httpx.Client, path: str, fields: dict[str, Any], param: str, named: str
) -> None:
    body = (CHAT if path.startswith("chat") else {}) | fields
    for stream in (False, True):
        response = http.post(f"/v1/{path}", json=body | {"stream": stream})
        assert response.status_code == 400, response.text
        error = response.json()["error"]
        assert error["param"] == param
        assert error["type"] == "invalid_request_error"
        assert named in error["message"]
        assert "Traceback" not in response.text


def test_the_openai_sdk_works_unchanged(sdk: openai.OpenAI) -> None:
    message: ChatCompletionUserMessageParam = {"role": "user", "content": QUESTION}
    answer = sdk.chat.completions.create(model=NAME, messages=[message], temperature=0)
    assert answer.choices[0].message.content == ANSWER
    completion = sdk.completions.create(model=NAME, prompt=str(COMPLETION["prompt"]), temperature=0)
    assert completion.choices[0].text == "科技"
    stream = sdk.chat.completions.create(model=NAME, messages=[message], temperature=0, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == ANSWER
    assert [model.id for model in sdk.models.list()] == [NAME]
    assert sdk.models.retrieve(NAME).id == NAME
    with pytest.raises(openai.NotFoundError):
        sdk.chat.completions.create(model="other", messages=[message])


def test_the_numbers_are_those_that_the_client_sees(server: ServerProcess, http: httpx.Client) -> None:
    before, engine_before = server.metrics(), server.engine_metric("vllm:generation_tokens_total")
    usages, latencies = [], []
    for index in range(6):
        begun = time.monotonic()
        usages.append(chat(http, max_tokens=20, ignore_eos=True, stream=False, seed=index)["usage"])
        latencies.append(time.monotonic() - begun)
    begun = time.monotonic()
    with http.stream("POST", "/v1/completions", json=LONG | {"max_tokens": 60, "stream": True}) as response:
        lines = response.iter_lines()
        next(line for line in lines if line.startswith("data: "))
        first = time.monotonic() - begun
        assert "data: [DONE]" in list(lines)
    after = server.metrics()
    assert after["requests"]["total"] - before["requests"]["total"] == 7
    assert after["requests"]["successful"] - before["requests"]["successful"] == 7
    produced = sum(usage["completion_tokens"] for usage in usages) + 60
    assert after["tokens"]["total_output"] - before["tokens"]["total_output"] == produced
    # The probe of an idle minute may add a token.
    assert 0 <= server.engine_metric("vllm:generation_tokens_total") - engine_before - produced <= 2
    assert after["latency"]["min"] <= min(latencies)
    assert 0 < after["slo"]["ttft"]["p50"] < max(*latencies, first)
    # Those of the last five minutes.
    assert 7 <= after["slo"]["sample_size"] <= after["requests"]["successful"]


@pytest.mark.timeout(1200)
def test_every_answer_is_as_the_api_describes_it(server: ServerProcess, tmp_path: Path) -> None:
    rounds = fuzz(server.url, cases=1000, seed=1, folder=tmp_path)
    assert all(each.clean for each in rounds), rounds[-1].output
    assert not [line for line in server.lines if "Traceback" in line]


def test_a_client_that_goes_away_frees_slot_and_engine(server: ServerProcess, http: httpx.Client) -> None:
    with contextlib.ExitStack() as open_streams:
        streams = []
        for _ in range(3):
            response = open_streams.enter_context(http.stream("POST", "/v1/completions", json=LONG | {"stream": True}))
            streams.append(response.iter_lines())
            next(streams[-1])
        assert server.metrics()["requests"]["running"] == 3
    server.until(lambda: server.metrics()["requests"]["running"] == 0, 3, "slots are free")
    server.until(lambda: server.engine_metric("vllm:num_requests_running") == 0, 5, "the engine is free")
    assert chat(http)["choices"]


def test_a_full_queue_is_refused_before_any_header_of_a_stream(server: ServerProcess) -> None:
    def send(index: int) -> tuple[int, str | None]:
        response = httpx.post(f"{server.url}/v1/completions", json=LONG | {"stream": bool(index % 2)}, timeout=300)
        return response.status_code, response.headers.get("retry-after")

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(send, range(12)))
    codes = [code for code, _ in answers]
    assert set(codes) == {200, 503}
    assert codes.count(200) >= 7
    assert all(retry is not None and int(retry) >= 1 for code, retry in answers if code == 503)


def test_a_stopped_engine_is_reported_and_recovers(server: ServerProcess, http: httpx.Client) -> None:
    core = server.engine_core()
    os.kill(core, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(httpx.post, f"{server.url}/v1/chat/completions", json=CHAT, timeout=60)
            server.until(lambda: "EngineUnresponsive" in server.active_alerts(), 20, "the alert")
            metrics = server.metrics()
            assert metrics["status"] == "unhealthy"
            refused = http.post("/v1/chat/completions", json=CHAT)
            assert refused.status_code == 503
            assert refused.headers["connection"] == "close"
            os.kill(core, signal.SIGCONT)
            assert waiting.result().status_code == 200
    finally:
        os.kill(core, signal.SIGCONT)
    # Others may rightly be active on a slow machine, such as HighTTFT after the pause.
    server.until(lambda: "EngineUnresponsive" not in server.active_alerts(), 15, "the end of the alert")
    assert chat(http)["choices"]


def test_an_idle_stopped_engine_is_reported_too(server: ServerProcess) -> None:
    core = server.engine_core()
    os.kill(core, signal.SIGSTOP)
    try:
        server.until(lambda: "EngineUnresponsive" in server.active_alerts(), 20, "the alert")
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"{server.url}/health/generate", timeout=0.5)
    finally:
        os.kill(core, signal.SIGCONT)
    # Others may rightly be active on a slow machine, such as HighTTFT after the pause.
    server.until(lambda: "EngineUnresponsive" not in server.active_alerts(), 15, "the end of the alert")
    assert server.status("/health/generate") == 200


def test_sigterm_under_load_loses_nothing_that_was_accepted(server: ServerProcess) -> None:
    """The last test of this server, because it ends."""
    children, seen = server.children(), len(server.lines)
    codes: list[int] = []
    answered: list[float] = []
    refused: list[float] = []
    incomplete: list[str] = []

    deadline = time.monotonic() + 120

    def load(stream: bool) -> None:
        while time.monotonic() < deadline:
            try:
                body = LONG | {"max_tokens": 150, "stream": stream}
                response = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60, verify=NO_TLS)
            except httpx.ConnectError:
                refused.append(time.time())
                return
            except httpx.TransportError:
                return  # the process is gone; the check below counts accepted requests in its log
            codes.append(response.status_code)
            if response.status_code == 200:
                answered.append(time.monotonic())
            if response.status_code == 200 and stream and "[DONE]" not in response.text:
                incomplete.append(response.text[-200:])
            if response.status_code == 503:
                time.sleep(0.05)

    with ThreadPoolExecutor(6) as pool:
        loads = [pool.submit(load, bool(index % 2)) for index in range(6)]
        server.until(lambda: len(codes) >= 6, 60, "load")
        accepted_before = codes.count(200)
        server.process.send_signal(signal.SIGTERM)
        signalled = time.monotonic()
        code = server.exit_code()
        for running in loads:
            running.result(30)
    assert code == 0
    assert max(answered) > signalled
    assert set(codes) == {200, 503}
    assert codes.count(200) > accepted_before
    assert incomplete == []
    logged = [json.loads(line) for line in server.lines[seen:] if line.startswith("{")]
    last = max(line["time"] for line in logged if line.get("outcome") == "successful")
    # Connections are accepted until the last accepted request is answered.
    assert not refused or min(refused) > datetime.fromisoformat(last).timestamp() - 0.2
    outcomes = [line.get("outcome") for line in logged]
    assert outcomes.count("successful") == codes.count(200)
    assert {"failed", "aborted"}.isdisjoint(outcomes)
    assert server.last_message() == "exit 0: received SIGTERM"
    wait_until_gone(children)

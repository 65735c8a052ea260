"""The log line of each request: its id and figures, and no text of prompts unless enabled."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from qwen_server.observe import logs
from tests.unit.qwen_server.serving import Served, serve, until

MARKER = "a-very-private-headline"
ID = {"x-request-id": "request-7"}


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Everything that is logged at any level, as JSON lines."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter())
    root, ours = logging.getLogger(), logging.getLogger("qwen_server")
    levels = root.level, ours.level
    root.addHandler(handler)
    ours.setLevel(logging.DEBUG)
    root.setLevel(logging.INFO)
    yield stream
    root.removeHandler(handler)
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def lines(log: io.StringIO, **wanted: Any) -> list[dict[str, Any]]:
    parsed = [json.loads(line) for line in log.getvalue().splitlines()]
    return [line for line in parsed if wanted.items() <= line.items()]


def access(log: io.StringIO) -> dict[str, Any]:
    (line,) = lines(log, logger="qwen_server.access", request_id="request-7")
    return line


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_is_one_line_with_its_figures(log: io.StringIO, stream: bool) -> None:
    body = {"prompt": '@{"tokens": 5, "first": 0.02, "delay": 0.01}', "stream": stream}
    async with serve() as served:
        response = await served.client.post("/v1/completions", json=body, headers=ID)
    assert response.headers["x-request-id"] == "request-7"
    line = access(log)
    assert (line["status"], line["outcome"], line["completion_tokens"]) == (200, "successful", 5)
    assert line["prompt_tokens"] == len(body["prompt"])  # type: ignore[arg-type]
    assert 0 <= line["queue_seconds"] < line["ttft_seconds"] < line["total_seconds"]
    assert (line["method"], line["path"]) == ("POST", "/v1/completions")


@pytest.mark.parametrize(
    ("fields", "status", "outcome"),
    [
        ({"max_tokens": 0}, 400, "rejected"),
        ({"prompt": "x" * 3000}, 400, "rejected"),
        ({"prompt": '@{"fail": "CUDA out of memory"}'}, 500, "failed"),
    ],
)
async def test_a_request_that_is_not_answered_is_one_line_too(
    log: io.StringIO, fields: dict[str, Any], status: int, outcome: str
) -> None:
    async with serve() as served:
        response = await served.client.post("/v1/completions", json={"prompt": "x"} | fields, headers=ID)
        assert response.status_code == status
    line = access(log)
    assert (line["status"], line["outcome"]) == (status, outcome)
    assert line["error"]


@pytest.mark.parametrize(
    ("fields", "param", "logged"),
    [
        ({"stop": ["a", ""]}, "stop[1]", "stop[1]"),
        ({"max_tokens": 9999}, "max_tokens", "max_tokens"),
        ({"prompt": "x" * 3000}, "prompt", "prompt"),
        ({"logit_bias": {"a b=c\n": 1}}, "logit_bias.a b=c\n", "logit_bias"),
    ],
)
async def test_the_line_of_a_bad_request_names_the_parameter(
    log: io.StringIO, fields: dict[str, Any], param: str, logged: str
) -> None:
    async with serve() as served:
        response = await served.client.post("/v1/completions", json={"prompt": "x"} | fields, headers=ID)
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    line = access(log)
    assert (line["error"], line["param"]) == ("invalid_request", logged)
    assert "Traceback" not in log.getvalue()


async def test_a_mistake_of_a_probe_or_scraper_is_logged_and_its_success_is_not(log: io.StringIO) -> None:
    async with serve(api_keys=SecretStr("key-1"), protect_metrics=True) as served:
        for path in ("/metrics", "/healthz", "/health"):
            await served.client.get(path)
    logged = lines(log, logger="qwen_server.access", level="info")
    assert [(line["path"], line["status"]) for line in logged] == [("/metrics", 401), ("/healthz", 404)]


async def test_mistakes_of_clients_have_names_of_their_own(log: io.StringIO) -> None:
    """Who watches for stolen keys or exceeded limits need not read every bad request."""
    key = {"authorization": "Bearer key-1"}
    asked: list[tuple[dict[str, str], object]] = [({}, "x"), (key, {}), (key, "x"), (key, "x")]
    async with serve(api_keys=SecretStr("key-1"), rate_limit="2/hour") as served:
        for number, (headers, prompt) in enumerate(asked):
            sent = headers | {"x-request-id": f"mistake-{number}"}
            await served.client.post("/v1/completions", json={"prompt": prompt}, headers=sent)
    found = [lines(log, request_id=f"mistake-{number}")[-1] for number in range(len(asked))]
    assert [(line["status"], line.get("error")) for line in found] == [
        (401, "unauthorized"),
        (400, "invalid_request"),
        (200, None),
        (429, "rate_limited"),
    ]


async def test_refused_and_aborted_requests_are_logged(log: io.StringIO) -> None:
    script = {"prompt": '@{"tokens": 200, "delay": 0.05}', "stream": True}
    async with serve(max_concurrent_requests=1, max_queue_size=0) as served:
        async with served.client.stream("POST", "/v1/completions", json=script, headers=ID) as response:
            await anext(response.aiter_bytes())
            refused = await served.client.post("/v1/completions", json={"prompt": "x"})
            assert refused.status_code == 503
        await served.until_idle()
        await until(lambda: lines(log, outcome="aborted"))
    assert access(log)["outcome"] == "aborted"
    (line,) = lines(log, request_id=refused.headers["x-request-id"])
    assert (line["status"], line["outcome"], line["error"]) == (503, "refused", "queue_full")


async def test_every_line_of_a_request_has_its_id_and_no_other_line_has(log: io.StringIO) -> None:
    async with serve() as served:
        logging.getLogger("qwen_server").info("before")
        body = {"prompt": '@{"fail": "out of luck"}', "unheard_of": 1}
        await served.client.post("/v1/completions", json=body, headers=ID)
        served.service.tick()
        logging.getLogger("qwen_server").info("after")
    of_request = [line["message"] for line in lines(log, request_id="request-7")]
    assert any("unknown field" in message for message in of_request)
    assert any("out of luck" in message for message in of_request)
    for message in ("before", "after"):
        (line,) = lines(log, message=message)
        assert "request_id" not in line


@pytest.mark.parametrize("given", ["x" * 129, "two words", "a\tb", ""])
async def test_an_id_that_is_not_safe_is_replaced(given: str) -> None:
    async with serve() as served:
        response = await served.client.get("/health", headers={"x-request-id": given})
        assert len(response.headers["x-request-id"]) == 32
        assert response.headers["x-request-id"] != given


def test_a_text_line_ends_with_the_requests_id() -> None:
    record = logging.makeLogRecord({"msg": "hello", "levelname": "INFO", "name": "n"})
    formatter = logs.TextFormatter("%(name)s: %(message)s")
    assert formatter.format(record) == "n: hello"
    token = logs.request_id.set("request-7")
    assert formatter.format(record) == "n: hello request_id=request-7"
    logs.request_id.reset(token)


async def ask_everything(served: Served) -> list[int]:
    """Good and bad requests with the marker wherever a client may put text."""
    good = {"role": "user", "content": MARKER}
    chats: list[dict[str, Any]] = [
        {"messages": [good]},
        {"messages": [good], "stream": True, "stop": [MARKER], "user": MARKER},
        {"messages": [good], "logprobs": True},
        {"messages": [good], "unheard_of": MARKER, "metadata": {"k": MARKER}},
        {"messages": [good, {"role": "user", "content": f'{MARKER}@{{"fail": "engine"}}'}]},
        {"messages": [good, {"role": 5, "content": MARKER}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": {MARKER: 1}}]}]},
        {"messages": MARKER},
        {"messages": [good], "temperature": MARKER},
        {"messages": [good], "stop": [MARKER] * 9},
        {"messages": [good], "logit_bias": {MARKER: 1}},
        {"messages": [good], "model": MARKER},
        {"messages": [{"role": "user", "content": MARKER * 500}]},
        {"messages": [good], "response_format": MARKER},
    ]
    codes = [(await served.client.post("/v1/chat/completions", json=body)).status_code for body in chats]
    for raw in (
        f'{{"prompt": "{MARKER}", ',
        f'{{"prompt": "{MARKER}\udcff"}}',
        f'["{MARKER}"]',
        f'{{"prompt": ["{MARKER}", 1]}}',
    ):
        content = raw.encode("utf-8", "surrogateescape")
        codes.append((await served.client.post("/v1/completions", content=content)).status_code)
    waiting = asyncio.create_task(served.chat(f'{MARKER}@{{"tokens": 200, "delay": 0.05}}'))
    await until(lambda: served.engine.unfinished)
    waiting.cancel()
    await served.until_idle()
    return codes


async def test_no_text_of_a_prompt_is_logged(log: io.StringIO) -> None:
    async with serve() as served:
        codes = await ask_everything(served)
        assert {200, 400, 404, 500} == set(codes)
        assert len(lines(log, logger="qwen_server.access")) >= len(codes)
    assert MARKER not in log.getvalue()


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"logprobs": 1}, {"logprobs": 1, "stream": True}])
async def test_prompts_and_answers_are_logged_on_demand(log: io.StringIO, fields: dict[str, Any]) -> None:
    async with serve(log_prompts=True) as served:
        body = {"prompt": f"{MARKER}\n科技？"} | fields
        assert (await served.client.post("/v1/completions", json=body, headers=ID)).status_code == 200
    (line,) = lines(log, logger="qwen_server.api.transcript")
    assert line["request_id"] == "request-7"
    assert MARKER in line["message"]
    assert "科技'" in line["message"]
    assert "\n" not in line["message"]


async def test_a_logged_prompt_is_cut(log: io.StringIO) -> None:
    async with serve(log_prompts=True) as served:
        served.engine.max_model_len = 100_000
        for body in ({"messages": [{"role": "user", "content": "长" * 50_000}]}, {"prompt": ["长" * 50_000] * 2}):
            path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
            assert (await served.client.post(path, json=body)).status_code in (200, 400)
    for line in lines(log, logger="qwen_server.api.transcript"):
        assert 4000 < len(line["message"]) < 4500

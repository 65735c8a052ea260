"""The other APIs over HTTP: the same queue, deadlines, counters and disconnects as for chats."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.unit.qwen_server.serving import Served, events_of, serve, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

ANSWER = "这条新闻属于【财经】类别。"
SLOW = '@{"first": 30}'
PATHS = ("/v1/responses", "/v1/messages", "/v1/messages/count_tokens", "/tokenize", "/detokenize")
GENERATING = PATHS[:2]


def body_of(path: str, text: str, **fields: Any) -> dict[str, Any]:
    if path == "/v1/responses":
        return {"input": text} | fields
    if path == "/tokenize":
        return {"prompt": text} | fields
    if path == "/detokenize":
        return {"tokens": list(map(ord, text))} | fields
    limit = {"max_tokens": 100} if path == "/v1/messages" else {}
    return {"messages": [{"role": "user", "content": text}]} | limit | fields


async def post(served: Served, path: str, text: str = "你好", **fields: Any) -> httpx.Response:
    return await served.client.post(path, json=body_of(path, text, **fields))


def names_of(text: str) -> list[str]:
    return [line.removeprefix("event: ") for line in text.split("\n") if line.startswith("event: ")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Served]:
    async with serve() as served:
        yield served


async def test_a_response(served: Served) -> None:
    body = (await post(served, "/v1/responses")).json()
    assert body["object"] == "response"
    assert body["id"].startswith("resp_")
    assert body["output"][0]["content"][0]["text"] == ANSWER
    assert served.engine.bodies[-1]["max_output_tokens"] == 100


async def test_a_streamed_response_ends_with_its_own_event(served: Served) -> None:
    response = await post(served, "/v1/responses", stream=True)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    names = names_of(response.text)
    assert (names[0], names[-1]) == ("response.created", "response.completed")
    assert "[DONE]" not in response.text
    events = events_of(response.text)
    assert "".join(event["delta"] for event in events if "delta" in event) == ANSWER
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


async def test_a_cut_response_is_complete_as_a_stream(served: Served) -> None:
    before = served.service.figures.counters.outcomes["successful"]
    response = await post(served, "/v1/responses", stream=True, max_output_tokens=2)
    assert names_of(response.text)[-1] == "response.incomplete"
    assert events_of(response.text)[-1]["response"]["status"] == "incomplete"
    assert served.service.figures.counters.outcomes["successful"] == before + 1


async def test_a_message(served: Served) -> None:
    body = (await post(served, "/v1/messages")).json()
    assert (body["type"], body["role"], body["content"]) == ("message", "assistant", [{"type": "text", "text": ANSWER}])
    assert body["id"].startswith("msg_")


async def test_a_streamed_message_ends_with_its_own_event(served: Served) -> None:
    response = await post(served, "/v1/messages", stream=True)
    names = names_of(response.text)
    assert (names[0], names[-1]) == ("message_start", "message_stop")
    assert "[DONE]" not in response.text


async def test_tokens_there_and_back(served: Served) -> None:
    tokens = (await post(served, "/tokenize", "央行")).json()
    assert tokens == {"count": 2, "max_model_len": 2048, "tokens": [22830, 34892], "token_strs": None}
    assert (await post(served, "/detokenize", "央行")).json() == {"prompt": "央行"}
    assert (await post(served, "/v1/messages/count_tokens", "央行")).json()["input_tokens"] == 2


async def test_nothing_is_stored(served: Served) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")):
        response = await served.client.request(method, f"/v1/responses/resp_1{path}")
        assert response.status_code == 404
        assert "stores none" in response.json()["error"]["message"]


async def test_the_clients_mistakes_are_worded_as_each_api_does(served: Served) -> None:
    for path in PATHS:
        response = await post(served, path, model="gpt-4o")
        assert response.status_code == 404
        error = response.json()
        assert (error.get("type") == "error") == path.startswith("/v1/messages")
        assert error["error"]["type"] == "not_found_error"
    too_long = await post(served, "/v1/messages", "x" * 3000)
    assert too_long.json() == {
        "type": "error",
        "error": {
            "type": "invalid_request_error",
            "message": "messages: the prompt has 3000 tokens; the limit is 2048",
        },
    }
    assert (await post(served, "/v1/responses", "x" * 3000, stream=True)).json()["error"]["param"] == "input"
    assert (await served.client.post("/v1/messages", content=b"{")).json()["type"] == "error"
    assert (await served.client.get("/v1/messages")).json()["error"]["type"] == "invalid_request_error"
    assert (await served.client.get("/v1/messages/batches")).json()["error"]["type"] == "not_found_error"


@pytest.mark.parametrize("path", GENERATING)
async def test_a_failure_before_the_first_event_is_a_real_status(served: Served, path: str) -> None:
    for stream in (False, True):
        response = await post(served, path, '@{"fail": "CUDA out of memory"}', stream=stream)
        assert (response.status_code, response.json()) == (500, {"error": "CUDA out of memory"})


async def test_a_failure_inside_a_stream_is_an_event_of_that_api(served: Served) -> None:
    broken = '@{"fail": "CUDA out of memory", "after": 2}'
    response = await post(served, "/v1/responses", broken, stream=True)
    events = events_of(response.text)
    assert (response.status_code, names_of(response.text)[-1]) == (200, "error")
    assert events[-1] == {
        "type": "error",
        "code": "out_of_memory",
        "message": "CUDA out of memory",
        "param": None,
        "sequence_number": len(events) - 1,
    }
    response = await post(served, "/v1/messages", broken, stream=True)
    assert names_of(response.text)[-1] == "error"
    assert events_of(response.text)[-1] == {
        "type": "error",
        "error": {"type": "api_error", "message": "CUDA out of memory"},
    }


async def test_generation_counts_and_tokenization_is_no_generation() -> None:
    async with serve() as served:
        await post(served, "/v1/responses")
        await post(served, "/v1/messages", stream=True)
        before = await served.metrics()
        assert (before["requests"]["successful"], before["slo"]["sample_size"]) == (2, 2)
        assert before["tokens"] == {"total_input": 14, "total_output": 2 * len(ANSWER), "avg_per_request": len(ANSWER)}
        assert before["slo"]["ttft"]["p50"] is not None
        for path in PATHS[2:]:
            assert (await post(served, path)).status_code == 200
        after = await served.metrics()
        assert (after["requests"]["total"], after["requests"]["successful"]) == (5, 5)
        assert after["slo"]["sample_size"] == 2
        assert after["latency"] == before["latency"]
        assert after["tokens"]["total_output"] == before["tokens"]["total_output"]


async def test_everything_stands_in_the_same_line() -> None:
    async with serve(max_concurrent_requests=1, max_queue_size=0) as served:
        admission = served.service.admission
        for holder in PATHS:
            task = asyncio.create_task(post(served, holder, SLOW))
            await until(lambda: admission.running == 1)
            for path in PATHS:
                response = await post(served, path)
                assert response.status_code == 503
                assert response.json() == {"error": "服务繁忙，请稍后重试", "queue_size": 0, "max_queue_size": 0}
                assert int(response.headers["retry-after"]) >= 1
            task.cancel()  # the client goes away
            await until(lambda: admission.running == 0, 1)
        assert served.service.figures.counters.outcomes["aborted"] == len(PATHS)


@pytest.mark.parametrize("path", GENERATING)
async def test_a_client_that_closes_its_stream_frees_slot_and_engine(served: Served, path: str) -> None:
    body = body_of(path, '@{"tokens": 90, "delay": 0.05}', stream=True)
    async with served.client.stream("POST", path, json=body) as response:
        await anext(response.aiter_lines())
        assert served.service.admission.running == 1
    await until(lambda: served.service.admission.running == 0 and served.engine.unfinished == 0, 1)


@pytest.mark.parametrize("path", PATHS)
async def test_no_request_outlives_its_deadline(path: str) -> None:
    async with serve(request_timeout=0.2) as served:
        response = await post(served, path, SLOW)
        assert response.status_code == 503
        assert response.json()["error"] == "请求超时，请稍后重试"


async def test_a_key_is_asked_for_in_either_header() -> None:
    async with serve(api_keys="secret") as served:
        for path in PATHS:
            response = await post(served, path)
            assert response.status_code == 401
            assert (response.json().get("type") == "error") == path.startswith("/v1/messages")
            for headers in ({"x-api-key": "secret"}, {"authorization": "Bearer secret"}):
                answer = await served.client.post(path, json=body_of(path, "你好"), headers=headers)
                assert answer.status_code == 200
        assert (await served.client.get("/v1/responses/resp_1")).status_code == 401


async def test_the_rate_limit_is_for_all_paths_together() -> None:
    async with serve(rate_limit="3/hour") as served:
        for path in PATHS[:3]:
            assert (await post(served, path)).status_code == 200
        for path in PATHS:
            response = await post(served, path)
            assert response.status_code == 429
            assert response.json()["error"]["type"] == "rate_limit_error"
            assert int(response.headers["retry-after"]) > 0

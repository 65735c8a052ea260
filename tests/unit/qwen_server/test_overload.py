"""More requests than fit, disconnects, deadlines: who is refused, and that slots are freed."""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, MutableMapping
from typing import Any

import httpx
import pytest

from qwen_server.api import streaming
from qwen_server.api.generation import Generation
from qwen_server.engine.base import Output, Prepared
from qwen_server.http.dialects import KEEP_ALIVE
from qwen_server.observe.request_figures import RequestRecord
from tests.unit.qwen_server.serving import Served, events_of, serve, until

SLOW = '@{"first": 30}'
FOREVER = '@{"tokens": 400, "delay": 0.02}'


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serve() as served:
        yield served


async def fill(served: Served, count: int, **fields: Any) -> list[asyncio.Task[httpx.Response]]:
    """Sends `count` requests that never end, and waits until the server has them all."""
    tasks = [asyncio.create_task(served.chat(SLOW, **fields)) for _ in range(count)]
    admission = served.service.admission
    await until(lambda: admission.running + admission.waiting == count)
    return tasks


async def stop(tasks: list[asyncio.Task[httpx.Response]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_fourteenth_request_is_refused_with_the_specifications_body(served: Served, stream: bool) -> None:
    tasks = await fill(served, 13, stream=stream)
    assert (served.service.admission.running, served.service.admission.waiting) == (3, 10)
    begin = time.monotonic()
    response = await served.chat(stream=stream)
    assert time.monotonic() - begin < 1
    assert response.status_code == 503
    assert response.json() == {"error": "服务繁忙，请稍后重试", "queue_size": 10, "max_queue_size": 10}
    assert 1 <= int(response.headers["retry-after"]) <= 30
    metrics = await served.metrics()
    assert (metrics["requests"]["running"], metrics["requests"]["waiting"]) == (3, 10)
    assert metrics["requests"]["total"] == 13
    assert metrics["requests"]["failed"] == 0
    await stop(tasks)


async def test_waiting_requests_are_answered_in_their_turn(served: Served) -> None:
    responses = await asyncio.gather(*(served.chat('@{"first": 0.02}') for _ in range(13)))
    assert [response.status_code for response in responses] == [200] * 13
    requests = (await served.metrics())["requests"]
    assert (requests["successful"], requests["peak_concurrent"]) == (13, 3)


async def test_a_heavy_request_takes_as_many_slots_as_it_has_choices(served: Served) -> None:
    tasks = await fill(served, 1, n=3)
    waiting = asyncio.create_task(served.chat())
    await until(lambda: served.service.admission.waiting == 1)
    await stop(tasks)
    assert (await waiting).status_code == 200


async def test_the_total_never_falls(served: Served) -> None:
    await served.chat()
    tasks = await fill(served, 2)
    before = (await served.metrics())["requests"]
    await stop(tasks)
    await served.until_idle()
    assert (await served.chat("x" * 5000)).status_code == 400
    after = (await served.metrics())["requests"]
    assert (before["total"], before["aborted"]) == (3, 0)
    assert (after["total"], after["aborted"], after["successful"], after["failed"]) == (4, 2, 1, 0)
    assert after["success_rate_percent"] == 100.0


async def test_who_waits_too_long_is_refused() -> None:
    async with serve(queue_timeout=0.2) as served:
        tasks = await fill(served, 3)
        response = await served.chat()
        assert response.status_code == 503
        assert response.json()["error"] == "服务繁忙，请稍后重试"
        assert "retry-after" in response.headers
        assert served.service.admission.waiting == 0
        assert served.service.figures.counters.refusals == {"queue_timeout": 1}
        await stop(tasks)


async def test_who_runs_too_long_is_stopped_and_frees_the_engine() -> None:
    async with serve(request_timeout=0.3) as served:
        response = await served.chat(SLOW)
        assert response.status_code == 503
        assert "retry-after" in response.headers
        assert (served.engine.unfinished, served.engine.aborted) == (0, 1)
        assert (await served.metrics())["errors"] == {"total": 1, "by_type": {"timeout": 1}}


async def test_a_stream_that_runs_too_long_ends_with_an_error_event() -> None:
    async with serve(request_timeout=0.3) as served:
        response = await served.chat(FOREVER, stream=True, max_tokens=500)
        assert response.status_code == 200
        *_, last = events_of(response.text)
        assert last["error"]["type"] == "service_unavailable_error"


async def test_a_stream_whose_engine_takes_a_moment_to_end_counts_as_answered(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = served.engine.generate

    async def linger(prepared: Prepared, *rest: Any) -> AsyncGenerator[Output, None]:
        async for output in generate(prepared, *rest):
            yield output
        await asyncio.sleep(0.05)  # several prompts are merged, and the merger looks once more

    monkeypatch.setattr(served.engine, "generate", linger)
    assert events_of((await served.chat(stream=True)).text)[-1] == "[DONE]"
    await asyncio.wait_for(served.lifecycle.wait_idle(), 1)
    requests = (await served.metrics())["requests"]
    assert (requests["total"], requests["successful"]) == (1, 1)


async def test_a_client_that_reads_nothing_is_left_at_the_deadline(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwen_server.api.generation._ERROR_SECONDS", 0.05)
    service = served.service
    chat = {"messages": [{"role": "user", "content": "你好"}], "stream": True}
    body = served.app.state.handler.bodies.check("chat", chat)
    sent: list[str] = []

    async def receive() -> dict[str, Any]:
        await asyncio.get_running_loop().create_future()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message["type"])
        if message["type"] == "http.response.body":
            await asyncio.get_running_loop().create_future()

    overdue = service.clock() - service.settings.request_timeout + 0.1
    async with asyncio.timeout(5):
        generation = Generation(service, body, RequestRecord("r", overdue))
        await generation.serve(service.admission.enter(generation.weight), receive, send)
    assert sent[0] == "http.response.start"
    assert (served.lifecycle.in_flight, service.admission.running) == (0, 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_out_of_file_descriptors_is_a_reported_failure(
    served: Served, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    async def prepare(*_: object) -> Prepared:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(served.engine, "prepare_chat", prepare)
    response = await served.chat(stream=stream)
    assert (response.status_code, response.json()) == (500, {"error": "internal server error"})
    assert (await served.metrics())["requests"]["failed"] == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_while_running_frees_slot_and_engine(served: Served, stream: bool) -> None:
    tasks = await fill(served, 3, stream=stream)
    assert served.engine.unfinished == 3
    begin = time.monotonic()
    await stop(tasks)
    await until(lambda: served.service.admission.running == 0 and served.engine.unfinished == 0)
    assert time.monotonic() - begin < 1
    assert served.engine.aborted == 3
    requests = (await served.metrics())["requests"]
    assert (requests["total"], requests["failed"], requests["aborted"]) == (3, 0, 3)
    assert served.service.figures.counters.outcomes == {"aborted": 3}


async def test_a_client_that_leaves_in_the_middle_of_a_stream_frees_slot_and_engine(served: Served) -> None:
    body = {"messages": [{"role": "user", "content": FOREVER}], "stream": True, "max_tokens": 500}
    async with served.client.stream("POST", "/v1/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            if line:
                break
    await until(lambda: served.service.admission.running == 0 and served.engine.unfinished == 0, 1)
    assert served.lifecycle.in_flight == 0


async def test_a_client_that_leaves_the_line_lets_the_next_one_move_up(served: Served) -> None:
    running = await fill(served, 3)
    leaving = asyncio.create_task(served.chat(SLOW))
    await until(lambda: served.service.admission.waiting == 1)
    await stop([leaving])
    await until(lambda: served.service.admission.waiting == 0, 1)
    assert served.engine.aborted == 0
    await stop(running)


async def test_a_reference_request_whose_client_leaves_is_aborted_too(served: Served) -> None:
    tasks = await fill(served, 1, logprobs=True, stream=True)
    await stop(tasks)
    await until(lambda: served.service.admission.running == 0 and served.engine.unfinished == 0, 1)


async def test_a_slow_first_token_is_bridged_by_comments(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "KEEP_ALIVE_SECONDS", 0.05)
    body = {"messages": [{"role": "user", "content": '@{"tokens": 2}'}], "stream": True}
    served.engine.hang()
    async with served.client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200
        parts, text = response.aiter_text(), ""
        while len(text) < 2 * len(KEEP_ALIVE):
            text += await anext(parts)
        served.engine.resume()
        text += "".join([part async for part in parts])
    assert text.startswith(2 * KEEP_ALIVE.decode())
    assert events_of(text)[-1] == "[DONE]"


SILENT = '@{"tokens": 3, "delay": 0.3}'
STREAMS: tuple[tuple[str, dict[str, Any], bytes], ...] = (
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": SILENT}]}, KEEP_ALIVE),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": SILENT}], "logprobs": True},
        KEEP_ALIVE,
    ),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": SILENT}], "n": 2}, KEEP_ALIVE),
    ("/v1/completions", {"prompt": SILENT}, KEEP_ALIVE),
    ("/v1/responses", {"input": SILENT}, KEEP_ALIVE),
    (
        "/v1/messages",
        {"messages": [{"role": "user", "content": SILENT}], "max_tokens": 9},
        b'event: ping\ndata: {"type": "ping"}\n\n',
    ),
)


@pytest.mark.parametrize(("path", "body", "sign"), STREAMS)
async def test_silence_in_the_middle_of_a_stream_is_bridged_between_events(
    served: Served, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any], sign: bytes
) -> None:
    quiet = (await served.client.post(path, json=body | {"stream": True})).content
    monkeypatch.setattr(streaming, "KEEP_ALIVE_SECONDS", 0.1)
    bridged = (await served.client.post(path, json=body | {"stream": True})).content
    assert bridged.count(sign) >= 3
    events = [event for event in bridged.split(b"\n\n") if event + b"\n\n" != sign]
    assert [names_of(event) for event in events] == [names_of(event) for event in quiet.split(b"\n\n")]


def names_of(event: bytes) -> str:
    """An event without what differs from answer to answer."""
    return re.sub(r'"(id|created)":("[^"]*"|\d+)', "", event.decode())


async def test_a_failure_after_comments_is_an_event(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "KEEP_ALIVE_SECONDS", 0.05)
    response = await served.chat('@{"first": 0.2, "fail": "CUDA out of memory"}', stream=True)
    assert response.status_code == 200
    (event,) = events_of(response.text)
    assert event["error"]["message"] == "CUDA out of memory"


async def test_many_short_requests_leave_nothing_behind() -> None:
    async with serve(max_queue_size=500) as served:
        for _ in range(2):
            responses = await asyncio.gather(*(served.chat(stream=index % 2 == 0) for index in range(40)))
            assert {response.status_code for response in responses} == {200}
        assert (served.service.admission.running, served.service.admission.waiting) == (0, 0)
        assert (served.lifecycle.in_flight, served.engine.unfinished) == (0, 0)
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "disconnect-watch"]


async def test_auto_limits_follow_the_engine() -> None:
    async with serve(max_concurrent_requests="auto", max_queue_size="auto") as served:
        served.service.tick()
        assert served.service.admission.limit == 65536 // (256 + 512)
        limits = (await served.client.get("/health")).json()["limits"]
        assert limits["max_concurrent_requests"] == 85
        assert 10 <= limits["max_queue_size"] <= 4 * 85


async def test_a_rate_limit_refuses_with_the_time_to_wait() -> None:
    async with serve(rate_limit="2/hour") as served:
        assert [(await served.chat()).status_code for _ in range(2)] == [200, 200]
        response = await served.chat()
        assert response.status_code == 429
        assert response.json()["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(response.headers["retry-after"]) <= 3600
        assert (await served.client.get("/health")).json()["limits"]["rate_limit"] == "2/hour"


async def test_every_figure_agrees_with_what_the_client_measured(served: Served) -> None:
    latencies, outputs = [], 0
    for _ in range(8):
        begin = time.monotonic()
        response = await served.chat('@{"first": 0.05, "delay": 0.01, "tokens": 10}')
        latencies.append(time.monotonic() - begin)
        outputs += response.json()["usage"]["completion_tokens"]
    metrics = await served.metrics()
    latency, ttft = metrics["latency"], metrics["slo"]["ttft"]
    # The client's own overhead depends on the machine: the server's figure must lie between the
    # script and the client.
    assert 0.14 <= latency["min"] <= latency["max"] <= max(latencies)
    assert latency["mean"] <= sum(latencies) / 8
    assert 0.05 <= ttft["p50"] <= latency["p50"] - 0.09
    assert metrics["tokens"]["total_output"] == outputs == 80
    assert metrics["slo"]["throughput"]["total"] == pytest.approx(outputs / (8 * latency["mean"]), rel=0.01)
    assert sum(metrics["latency_histogram"].values()) == 8

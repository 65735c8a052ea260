"""A real server under overload: fast refusals, deadlines, disconnects, and a clean exit."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.integration.load import Answer, Load, Plan, Request, measured
from tests.integration.server_process import ServerProcess, real_server, stopped, wait_until_gone
from tests.loopback import NO_TLS

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(420, func_only=True)]

PATH = "/v1/completions"
SHORT: dict[str, Any] = {"prompt": "请分类：", "max_tokens": 8, "ignore_eos": True}
# Several seconds of work for the engine, in every slot.
HEAVY: dict[str, Any] = {"prompt": "请分类：", "max_tokens": 512, "n": 16, "ignore_eos": True}
RUNNING, WAITING = 3, 10
# Below the 10 s after which a silent stream gets a comment, and with it its status.
QUEUE_SECONDS, REQUEST_SECONDS = 6.0, 9.5
BUSY = {"error": "服务繁忙，请稍后重试", "queue_size": WAITING, "max_queue_size": WAITING}


# The specification's limits, which are the defaults, with short deadlines.
server = real_server(f"--queue-timeout={QUEUE_SECONDS}", f"--request-timeout={REQUEST_SECONDS}")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


def post(server: ServerProcess, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(server.url + PATH, json=body, timeout=60, verify=NO_TLS)


def fill(server: ServerProcess, pool: ThreadPoolExecutor, body: dict[str, Any]) -> list[Future[httpx.Response]]:
    """Sends as many requests as fit, half of them streamed, and waits until each has its place."""
    bodies = [body | {"stream": index % 2 == 1} for index in range(RUNNING + WAITING)]
    answers = [pool.submit(post, server, each) for each in bodies[:RUNNING]]
    server.until_requests(RUNNING, 0)
    answers += [pool.submit(post, server, each) for each in bodies[RUNNING:]]
    server.until_requests(RUNNING, WAITING)
    return answers


def rank(answers: list[Answer], percent: int) -> float:
    ordered = sorted(answer.latency for answer in answers)
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)]


def test_three_run_ten_wait_and_the_fourteenth_is_refused_at_once(
    server: ServerProcess, pool: ThreadPoolExecutor
) -> None:
    """The engine core is stopped, so that the slots stay occupied during the checks."""
    requests = [Request(PATH, SHORT), Request(PATH, SHORT | {"stream": True}), Request("/health")]
    plan = Plan(server.port, requests, count=330)
    # Those who wait must not reach their deadline meanwhile: the client starts before.
    with Load(plan, held=True) as load, stopped(server.engine_core()):
        accepted = fill(server, pool, SHORT)
        for stream in (False, True):
            response = post(server, SHORT | {"stream": stream})
            assert (response.status_code, response.json()) == (503, BUSY)
            assert response.headers["content-type"] == "application/json"
            assert 1 <= int(response.headers["retry-after"]) <= 30
        load.begin()
        answers = load.answers()
    assert [answer.result().status_code for answer in accepted] == [200] * (RUNNING + WAITING)
    refused = [answer for answer in answers if answer.path == PATH]
    assert {answer.status for answer in refused} == {503}
    assert len(refused) == 220
    compare(refused, [answer for answer in answers if answer.path == "/health"], "idle")


def test_a_saturated_server_refuses_fast_and_answers_all_others(server: ServerProcess) -> None:
    load = [Request(PATH, SHORT | {"max_tokens": 24}), Request(PATH, SHORT | {"max_tokens": 24, "stream": True})]
    with Load(Plan(server.port, load, connections=24, seconds=8, pause=0.05)) as clients:
        server.until(lambda: server.metrics()["requests"]["waiting"] == WAITING, 20, "saturation")
        answers = measured(Plan(server.port, [Request(PATH, SHORT), Request("/health")], 2, seconds=5, pause=0.01))
        others = clients.answers()
    assert {(answer.status, answer.error, answer.complete) for answer in others} == {(200, "", True), (503, "", True)}
    # A request that found a place in the queue may wait there until its deadline: that is no
    # refusal at arrival. It happens once a connection at most: the deadline is longer than this
    # plan.
    unserved = [answer for answer in answers if answer.status == 503]
    refused = [answer for answer in unserved if answer.latency < QUEUE_SECONDS]
    assert len(refused) > 20
    assert len(unserved) - len(refused) <= 2
    compare(refused, [answer for answer in answers if answer.path == "/health"], "saturated")


def compare(refused: list[Answer], healthy: list[Answer], when: str) -> None:
    """Compares the latency of refusals with that of /health, because the machine may be busy."""
    figures = {
        name: [1000 * rank(some, 50), 1000 * rank(some, 99)]
        for name, some in (("refusal", refused), ("health", healthy))
    }
    print(f"{when}: milliseconds p50, p99: {figures}")
    assert figures["refusal"][0] < 2 * figures["health"][0] + 5
    assert figures["refusal"][1] < 2 * figures["health"][1] + 100


def test_requests_that_wait_or_run_too_long_end_in_time(server: ServerProcess, pool: ThreadPoolExecutor) -> None:
    stream = server.begin_stream(pool, SHORT | {"max_tokens": 512})
    with stopped(server.engine_core()):
        bodies = [SHORT | {"stream": index % 2 == 1} for index in range(RUNNING - 1 + WAITING)]
        running = [pool.submit(post, server, body) for body in bodies[: RUNNING - 1]]
        server.until_requests(RUNNING, 0)
        waiting = [pool.submit(post, server, body) for body in bodies[RUNNING - 1 :]]
        for answers, seconds, text in (
            (waiting, QUEUE_SECONDS, "服务繁忙，请稍后重试"),
            (running, REQUEST_SECONDS, "请求超时，请稍后重试"),
        ):
            for response in (answer.result() for answer in answers):
                assert (response.status_code, response.json()["error"]) == (503, text)
                assert 1 <= int(response.headers["retry-after"]) <= 30
                assert seconds - 0.1 < response.elapsed.total_seconds() < seconds + 3
        *_, last = stream.result()
        assert json.loads(last)["error"]["type"] == "service_unavailable_error"
        server.until_requests(0, 0, 3)
    server.until(lambda: server.engine_metric("vllm:num_requests_running") == 0, 10, "the engine is free")
    assert post(server, SHORT).status_code == 200


def send(server: ServerProcess, body: dict[str, Any]) -> socket.socket:
    """Sends a request; the caller may read the answer or close the connection."""
    content = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", server.port), 10)
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    connection.sendall(head.encode() + content)
    return connection


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_slot_and_the_engine(server: ServerProcess, stream: bool) -> None:
    before = server.engine_metric("vllm:generation_tokens_total")
    with send(server, HEAVY | {"stream": stream}):
        server.until_requests(1, 0)
    left = time.monotonic()
    server.until(lambda: server.metrics()["requests"]["running"] == 0, 3, "the slot is free")
    slot = time.monotonic() - left
    server.until(lambda: server.engine_metric("vllm:num_requests_running") == 0, 5, "the engine is free")
    print(f"the slot was free {slot:.2f} s after its client had left")
    made = server.engine_metric("vllm:generation_tokens_total") - before
    assert made < HEAVY["max_tokens"] * HEAVY["n"], "the engine worked until the end"


def test_clients_that_leave_a_stopped_engine_or_the_line_free_their_places_too(server: ServerProcess) -> None:
    with stopped(server.engine_core()), contextlib.ExitStack() as held:
        for index in range(RUNNING):
            held.enter_context(send(server, SHORT | {"stream": index % 2 == 1}))
        server.until_requests(RUNNING, 0)
        with contextlib.ExitStack() as line:
            for index in range(WAITING):
                line.enter_context(send(server, SHORT | {"stream": index % 2 == 1}))
            server.until_requests(RUNNING, WAITING)
        server.until_requests(RUNNING, 0, 3)
        held.close()
        server.until_requests(0, 0, 3)
    server.until(lambda: server.engine_metric("vllm:num_requests_running") == 0, 10, "the engine is free")
    assert post(server, SHORT).status_code == 200


def test_heavy_requests_neither_block_the_others_nor_starve(server: ServerProcess, pool: ThreadPoolExecutor) -> None:
    mixed: list[dict[str, Any]] = [{}, {"n": 2}, {"n": 16}, {"prompt": ["一", "二"]}, {"prompt": ["一"] * 40, "n": 2}]
    bodies = [SHORT | mixed[index % len(mixed)] for index in range(RUNNING + WAITING)]
    # A batch may fill the queue before a light request has left it; refused requests are retried,
    # as an SDK does.
    codes = list(pool.map(lambda body: answered_in_the_end(server, body), bodies))
    assert codes == [200] * len(bodies)
    light = Plan(server.port, [Request(PATH, SHORT)], connections=10, seconds=6)
    with Load(light) as clients:
        server.until(lambda: server.metrics()["requests"]["waiting"] >= 5, 20, "a queue")
        waited = [post(server, SHORT | {"n": 3}) for _ in range(5)]
        answers = clients.answers()
    assert [response.status_code for response in waited] == [200] * 5
    assert {answer.status for answer in answers} == {200}
    assert server.metrics()["requests"]["peak_concurrent"] == RUNNING


def answered_in_the_end(server: ServerProcess, body: dict[str, Any]) -> int:
    deadline = time.monotonic() + 120
    while (response := post(server, body)).status_code == 503 and time.monotonic() < deadline:
        time.sleep(0.2)
    return response.status_code


def test_sigterm_ends_an_idle_server_at_once(server: ServerProcess) -> None:
    """The last test of this server, because it ends."""
    children = server.children()
    server.until_requests(0, 0, 3)
    requests = server.metrics()["requests"]
    unanswered = requests["total"] - requests["successful"] - requests["failed"]
    assert 0 <= unanswered <= requests["aborted"] + requests["refused"]
    server.process.send_signal(signal.SIGTERM)
    assert server.exit_code(30) == 0
    assert server.last_message() == "exit 0: received SIGTERM"
    wait_until_gone(children)

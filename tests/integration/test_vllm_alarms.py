"""Alerts of a real server with a worker process: under load, idle, stopped, and dying."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration import builtin_model, long_run
from tests.integration.load import Load, Plan, Request
from tests.integration.metrics_sampler import MetricsSampler, alarms, figures, histogram, read
from tests.integration.server_process import ServerProcess, real_server, stopped, wait_until_gone

SOAK_SECONDS = 60 * float(os.environ.get("SOAK_MINUTES", "0.3"))
IDLE_SECONDS = 60 * float(os.environ.get("IDLE_MINUTES", "1"))

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(420 + SOAK_SECONDS + IDLE_SECONDS)]

PATH = "/v1/completions"
STREAM = {
    "prompt": "请分类：",
    "max_tokens": 96,
    "ignore_eos": True,
    "stream": True,
    "stream_options": {"include_usage": True},
}
LONG = {"prompt": "请分类：", "max_tokens": 512, "ignore_eos": True}
SEQUENCES = 6
HANG_SECONDS = 6.0
CHUNKS_SECONDS = 2.0


# With `auto` limits, and a KV cache that holds fewer requests than the scheduler may run.
server = real_server(
    *("--max-concurrent-requests=auto", "--max-queue-size=auto"),
    # The data type decides how many tokens the cache holds.
    *("--max-model-len=2048", "--kv-cache-gib=0.01", "--dtype=float32"),
    engine=("--distributed-executor-backend=mp", f"--max-num-seqs={SEQUENCES}"),
    EngineUnresponsive=HANG_SECONDS,
    GenerationStalled=HANG_SECONDS,
)
# Reads a long prompt in small chunks.
long_context = real_server(
    model="long_context_model",
    engine=["--max-num-batched-tokens=512"],
    EngineUnresponsive=CHUNKS_SECONDS,
    GenerationStalled=CHUNKS_SECONDS,
)


@pytest.fixture(scope="module")
def long_context_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model with a context of 40 k tokens, more than it was trained for."""
    return builtin_model.copy(tmp_path_factory.mktemp("long") / "model", max_position_embeddings=40960)


def limits(server: ServerProcess) -> tuple[int, int]:
    found = httpx.get(f"{server.url}/health", timeout=10).json()["limits"]
    return found["max_concurrent_requests"], found["max_queue_size"]


def cache_tokens(server: ServerProcess) -> int:
    ready = next(line for line in server.lines if "ready: EngineInfo" in line)
    return int(ready.split("kv_cache_tokens=")[1].split(",")[0])


def test_auto_runs_as_many_as_the_cache_holds(server: ServerProcess) -> None:
    """Before any request, prompts count as 256 tokens and answers as the maximum."""
    fitting = cache_tokens(server) // (256 + 512)
    assert 2 <= fitting < SEQUENCES
    server.until(lambda: limits(server)[0] == fitting, 5, "the limit follows the engine")
    assert 10 <= limits(server)[1] <= max(10, 4 * fitting)


def test_every_figure_is_what_the_clients_measured(server: ServerProcess) -> None:
    """More clients than the server runs at a time, so that the figures include the queue.

    The first token is a word: a client would not see a token without text, such as the end token
    that these requests ignore.
    """
    request = Request(PATH, STREAM | {"prompt": "请分类：苹果发布新款iPhone\n类别：", "temperature": 0})
    before = server.metrics()
    assert before["slo"]["sample_size"] == 0
    begun = time.monotonic()
    with MetricsSampler(server) as sampler, Load(Plan(server.port, [request], connections=12, count=72)) as clients:
        answers = clients.answers()
        sampler.check()
    after = server.metrics()
    passed = time.monotonic() - begun
    assert {(answer.status, answer.complete) for answer in answers} == {(200, True)}
    for path, seen in figures(answers).items():
        print(f"{path}: the clients {seen:.4f}, the server {read(after, path):.4f}")
        assert read(after, path) == pytest.approx(seen, rel=0.05), path
    requests = after["requests"]
    assert (requests["total"], requests["successful"], requests["failed"]) == (72, 72, 0)
    assert (requests["success_rate_percent"], requests["error_rate_percent"]) == (100, 0)
    assert after["tokens"]["total_input"] == sum(answer.prompt_tokens for answer in answers)
    assert after["tokens"]["total_output"] == sum(answer.completion_tokens for answer in answers)
    assert after["tokens"]["avg_per_request"] == STREAM["max_tokens"]
    assert after["slo"]["sample_size"] == 72
    assert after["uptime"]["seconds"] - before["uptime"]["seconds"] == pytest.approx(passed, rel=0.05, abs=0.2)
    assert requests["requests_per_second"] == pytest.approx(72 / after["uptime"]["seconds"], rel=0.05)
    moved = zip(after["latency_histogram"].values(), histogram(answers), strict=True)
    assert sum(abs(own - seen) for own, seen in moved) <= 6  # some are close to an edge


def test_auto_runs_no_more_than_the_scheduler_takes(server: ServerProcess) -> None:
    """The prompts so far were short, so that the cache has room for more."""
    prompt = server.metrics()["tokens"]["total_input"] // 72
    assert cache_tokens(server) // (prompt + 512) >= SEQUENCES
    server.until(lambda: limits(server)[0] == SEQUENCES, 5, "the limit follows the prompts")
    assert 10 <= limits(server)[1] <= 4 * SEQUENCES


def test_full_load_raises_no_alarm(server: ServerProcess) -> None:
    """`make soak MINUTES=30` extends it, and checks that neither memory nor latency grows."""
    load = [Request(PATH, STREAM), Request(PATH, LONG | {"max_tokens": 200}), Request(PATH, STREAM | {"n": 2})]
    plan = Plan(server.port, load, connections=SEQUENCES + 8, seconds=SOAK_SECONDS, pause=0.01)
    with MetricsSampler(server) as sampler, long_run.MemorySampler(server) as memory, Load(plan) as clients:
        answers = clients.answers(SOAK_SECONDS + 60)
        sampler.check()
    # Requests with two choices may leave too few slots for all clients. A refusal is then no
    # failure.
    seen = {(answer.status, answer.error, answer.complete) for answer in answers}
    assert (200, "", True) in seen
    assert seen <= {(200, "", True), (503, "", True)}
    assert any(sample["requests"]["waiting"] >= 4 for sample in sampler.samples)
    print(f"{len(answers)} answers, {len(sampler.samples)} samples")
    if SOAK_SECONDS > long_run.LEAST_SECONDS:
        long_run.check(memory.samples, answers)


def test_steps_of_nearly_the_threshold_raise_no_alarm(server: ServerProcess) -> None:
    plan = Plan(server.port, [Request(PATH, LONG), Request(PATH, STREAM)], connections=4, seconds=3 * HANG_SECONDS)
    with MetricsSampler(server) as sampler, Load(plan) as clients:
        for pid in (server.worker(), server.engine_core(), server.worker()):
            server.until_requests(4, 0)
            with stopped(pid):
                time.sleep(0.8 * HANG_SECONDS)  # the duration of the step
        answers = clients.answers()
        sampler.check()
    assert {(answer.status, answer.complete) for answer in answers} == {(200, True)}


def test_a_quiet_time_raises_no_alarm_and_a_probe_each_minute(
    server: ServerProcess, long_context: ServerProcess
) -> None:
    """`make soak IDLE_MINUTES=60` extends it. The other server starts meanwhile."""
    servers = (server, long_context)
    begun = time.monotonic()
    lines = [len(one.lines) for one in servers]
    made = [one.engine_metric("vllm:generation_tokens_total") for one in servers]

    def probed(times: int) -> bool:
        now = [one.engine_metric("vllm:generation_tokens_total") for one in servers]
        return all(after - before >= times for before, after in zip(made, now, strict=True))

    server.until(lambda: probed(1), 90, "the probe of an idle minute")
    server.until(lambda: time.monotonic() > begun + IDLE_SECONDS, IDLE_SECONDS + 1, "the time is over")
    assert probed(int(0.9 * IDLE_SECONDS / 60))
    assert [alarms(one, line) for one, line in zip(servers, lines, strict=True)] == [[], []]
    assert server.metrics()["requests"]["total"] == server.metrics()["requests"]["successful"]


def test_a_long_prompt_in_chunks_raises_no_alarm(long_context: ServerProcess) -> None:
    prompt = [5 + index % 997 for index in range(32 * 1024)]
    request = Request(PATH, {"prompt": prompt, "max_tokens": 4, "stream": True})
    with MetricsSampler(long_context) as sampler, Load(Plan(long_context.port, [request], count=1)) as clients:
        (answer,) = clients.answers()
        sampler.check()
    assert (answer.status, answer.complete) == (200, True)
    assert answer.ttft is not None
    assert answer.ttft > CHUNKS_SECONDS, "too short to raise an alarm in any case"


@pytest.mark.parametrize("loaded", [True, False])
@pytest.mark.parametrize("process", ["engine_core", "worker"])
def test_a_stopped_process_is_reported_in_time_and_recovers(server: ServerProcess, process: str, loaded: bool) -> None:
    threshold = 3.0
    server.set_thresholds(EngineUnresponsive=threshold)
    with ThreadPoolExecutor(2) as pool:
        bodies = (LONG, LONG | {"stream": True}) if loaded else ()
        waiting = [pool.submit(httpx.post, server.url + PATH, json=body, timeout=60) for body in bodies]
        server.until_requests(len(bodies), 0)
        with stopped(getattr(server, process)()):
            begun = time.monotonic()
            server.until(lambda: "EngineUnresponsive" in server.active_alerts(), 30, "the alert")
            noticed = time.monotonic() - begun
            begun = time.monotonic()
            refused = httpx.post(server.url + PATH, json=LONG, timeout=10)
            refusal = time.monotonic() - begun
            assert server.metrics()["status"] == "unhealthy"
            assert server.status("/health") == 503
        assert [answer.result().status_code for answer in waiting] == [200] * len(bodies)
    print(f"{process}, loaded {loaded}: reported after {noticed:.1f} s of {threshold} s, refused in {refusal:.3f} s")
    assert (refused.status_code, refused.headers["connection"]) == (503, "close")
    assert threshold < noticed < threshold + 4
    assert refusal < 2
    # Others may rightly be active on a slow machine, such as HighTTFT after the pause.
    server.until(lambda: "EngineUnresponsive" not in server.active_alerts(), 15, "the end of the alert")
    assert server.status("/health") == 200


def test_a_killed_worker_ends_the_server_with_the_cause(server: ServerProcess) -> None:
    """The last test of this server, because it ends."""
    children = server.children()
    cause = re.compile("the engine died: VllmWorker-0 (was killed by SIGKILL|ended unexpectedly), possibly")
    running = limits(server)[0]
    with ThreadPoolExecutor(running + 2) as pool:
        streamed = server.begin_stream(pool, LONG)
        others = [pool.submit(httpx.post, server.url + PATH, json=LONG, timeout=60) for _ in range(running + 1)]
        server.until_requests(running, 2)
        os.kill(server.worker(), signal.SIGKILL)
        begun = time.monotonic()
        for response in (answer.result() for answer in others):
            assert response.status_code == 500
            assert cause.match(response.json()["error"])
        assert cause.match(json.loads(streamed.result()[-1])["error"]["message"])
    assert server.exit_code() == 70
    print(f"ended {time.monotonic() - begun:.1f} s after its worker was killed")
    assert time.monotonic() - begun < 2 + 4  # a busy machine takes longer
    assert cause.search(server.last_message())
    assert cause.match(server.termination_log.read_text())
    wait_until_gone(children)


def test_an_engine_out_of_memory_is_reported_and_counted(long_context: ServerProcess) -> None:
    """The last test of this server: a prompt with logprobs makes torch's allocator fail."""
    server = long_context
    computing = server.worker()
    room = 8 << 20
    limit = virtual_bytes(computing) + room
    resource.prlimit(computing, resource.RLIMIT_AS, (limit, limit))
    errors: list[dict[str, Any]] = []
    ended = threading.Event()

    def look() -> None:
        with httpx.Client(base_url=server.url) as client:
            while not ended.wait(0.005):
                try:
                    errors.append(client.get("/api/v1/metrics").json()["errors"])
                except httpx.TransportError:
                    return

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        body = {"prompt": [5] * 8192, "max_tokens": 4, "prompt_logprobs": 1}
        response = httpx.post(server.url + PATH, json=body, timeout=60)
        code = server.exit_code()
        ended.set()
        looking.result(10)
    assert response.status_code == 500
    assert set(response.json()) == {"error"}
    assert "out of memory" in response.json()["error"]
    assert code == 70
    assert errors[-1] == {"total": 1, "by_type": {"out_of_memory": 1}}
    assert "out of memory" in server.last_message()
    assert "out of memory" in server.termination_log.read_text()


def virtual_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")

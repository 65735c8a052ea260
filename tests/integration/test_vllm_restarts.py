"""The engine core of a real server is killed or stopped: its clients see a pause."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import httpx
import pytest

from tests.integration.server_process import START_SECONDS, ServerProcess, real_server, zombies_of

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900, func_only=True)]

STREAMS = 64
# The replay is a patch of its own; test_vllm_patches_off.py shows what happens without it.
server = real_server(
    "--patches=on",
    "--engine-restarts=9",
    "--standby-core=on",
    "--max-concurrent-requests=80",
    "--max-tokens-limit=3000",
    "--max-queue-size=80",
    "--tool-call-parser=hermes",
    "--dtype=float32",
    EngineUnresponsive=3.0,
)

LONG = {"prompt": "请分类：", "max_tokens": 300, "ignore_eos": True, "temperature": 0}
CITY = {"type": "object", "properties": {"city": {"type": "string", "minLength": 2000}}, "required": ["city"]}
BEGUN = LONG | {"max_tokens": 400}
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}
CHAT = {"messages": [{"role": "user", "content": "请分类："}], "max_tokens": 400, "ignore_eos": True, "temperature": 0}
# What cannot go on after its first token, and the words by which the error says so.
FIXED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("seed", BEGUN | {"temperature": 1.0, "seed": 7}),
    ("grammar", BEGUN | {"structured_outputs": {"json": CITY}, "max_tokens": 2000}),
    ("penalty", BEGUN | {"frequency_penalty": 0.5}),
    ("serving code", BEGUN | {"logprobs": 1}),
    ("serving code", CHAT | {"tools": [WEATHER]}),
)


@dataclass
class Answer:
    """A stream as its client saw it. `gap` is the longest time between two events, in seconds."""

    text: str = ""
    error: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None
    done: bool = False
    events: int = 0
    gap: float = field(default=0.0, repr=False)


def stream(server: ServerProcess, answer: Answer, body: dict[str, Any]) -> Answer:
    """Streams a completion, or a chat if there are messages. `answer` shows how far it is."""
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    body = body | {"stream": True, "stream_options": {"include_usage": True}}
    before = 0.0
    with httpx.stream("POST", server.url + path, json=body, timeout=300) as response:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            if not line.startswith("data: "):
                continue
            now = time.monotonic()
            before, answer.gap = now, max(answer.gap, now - (before or now))
            answer.events += 1
            if line == "data: [DONE]":
                answer.done = True
                continue
            event = json.loads(line.removeprefix("data: "))
            answer.error = event.get("error") or answer.error
            answer.usage = event.get("usage") or answer.usage
            answer.text += "".join(text_of(choice) for choice in event.get("choices", ()))
    return answer


def text_of(choice: dict[str, Any]) -> str:
    """What an event adds to a completion or a chat."""
    return str(choice["text"] if "text" in choice else choice["delta"].get("content") or "")


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(STREAMS + 16) as pool:
        yield pool


def begun(
    server: ServerProcess, pool: ThreadPoolExecutor, *bodies: dict[str, Any], answers: Sequence[Answer] = ()
) -> list[Future[Answer]]:
    """Begins a stream for each body and waits until each has its first text."""
    answers = answers or [Answer() for _ in bodies]
    futures = [pool.submit(stream, server, answer, body) for answer, body in zip(answers, bodies, strict=True)]
    server.until(lambda: all(answer.events > 1 for answer in answers), START_SECONDS, "every stream has begun")
    return futures


def restarts(server: ServerProcess) -> dict[str, int]:
    """How often the engine was restarted, by cause."""
    found: dict[str, int] = server.metrics()["engine"]["restarts"]["by_cause"]
    return found


def start_seconds(server: ServerProcess) -> float:
    """How long the first engine took to start, by the log."""
    lines = [json.loads(line) for line in server.lines if line.startswith("{")]
    ready = next(line for line in lines if line["message"].startswith("ready: "))
    begun, ended = (datetime.fromisoformat(line["time"]) for line in (lines[0], ready))
    return (ended - begun).total_seconds()


def test_every_stream_survives_a_killed_engine_core(server: ServerProcess, pool: ThreadPoolExecutor) -> None:
    """64 greedy streams go on, and two choices of one. Others say why they cannot, or start over if
    nothing was shown.
    """
    server.until(lambda: server.metrics()["engine"]["standby_bytes"] > 100e6, START_SECONDS, "a standby core")
    standby = server.metrics()["engine"]["standby_bytes"]
    core = server.engine_core()
    prompts = [BEGUN | {"prompt": f"请分类第{number}条："} for number in range(STREAMS)]
    choices = BEGUN | {"temperature": 1.0, "n": 2}
    whole = pool.submit(
        httpx.post,
        f"{server.url}/v1/completions",
        json=choices | {"seed": 7, "logprobs": 1},
        timeout=300,
    )
    futures = begun(server, pool, *prompts, choices, *(body for _, body in FIXED))
    os.kill(core, signal.SIGKILL)
    server.until(lambda: server.status("/health/ready") == 503, 20, "not ready")
    assert httpx.get(f"{server.url}/health", timeout=10).json()["status"] == "restarting"
    late = pool.submit(httpx.post, f"{server.url}/v1/completions", json=LONG, timeout=300)
    answers = [future.result() for future in futures]
    going_on, fixed = answers[: STREAMS + 1], answers[STREAMS + 1 :]
    assert [(answer.done, answer.error) for answer in going_on] == [(True, None)] * (STREAMS + 1)
    tokens = [answer.usage["completion_tokens"] for answer in going_on if answer.usage]
    assert tokens == [400] * STREAMS + [800]
    for answer, (reason, _) in zip(fixed, FIXED, strict=True):
        assert answer.error is not None, reason
        assert (answer.error["code"], answer.done) == ("engine_restarted", False)
        assert reason in answer.error["message"]
    assert (whole.result().status_code, late.result().status_code) == (200, 200)
    assert whole.result().json()["usage"]["completion_tokens"] == 800
    metrics = server.metrics()
    assert metrics["errors"] == {"total": len(FIXED), "by_type": {"engine_restarted": len(FIXED)}}
    assert (restarts(server), metrics["alerts"]) == ({"died": 1}, [])
    assert "EngineCore was killed by SIGKILL" in "".join(server.lines)
    gap = max(answer.gap for answer in going_on)
    print(f"{STREAMS} streams paused for at most {gap:.1f} s, after a start of {start_seconds(server):.1f} s")
    kept = next(line for line in server.lines if "the standby core is process" in line)
    assert f"process {server.engine_core()}" in kept, "the next engine did not take it"
    print(f"the standby core used {standby / 2**20:.0f} MiB")
    # 3 s on an idle machine, of which tests must not depend.
    assert gap < max(30, 3 * start_seconds(server))


def test_a_single_stream_gets_the_same_tokens_although_two_engines_die(
    server: ServerProcess, pool: ThreadPoolExecutor
) -> None:
    """Its engine dies, the next one while it loads, and the one after that hangs and is replaced on
    request. The stop string and the characters are the stream's own.
    """
    body = LONG | {"max_tokens": 2900, "stop": ["这段文字不会出现"]}
    undisturbed = stream(server, Answer(), body)
    answer = Answer()
    (future,) = begun(server, pool, body, answers=[answer])
    core, begun_at = server.engine_core(), server.metrics()["uptime"]["seconds"]
    os.kill(core, signal.SIGKILL)
    server.until(lambda: server.engine_core_or_none() not in (None, core), START_SECONDS, "the next core")
    os.kill(server.engine_core(), signal.SIGKILL)
    seen = answer.events
    # A request for a restart is about the engine before until the next one is seen to be ready.
    server.until(lambda: server.status("/health/ready") == 200, START_SECONDS, "ready")
    server.until(lambda: answer.events > seen, 10, "the stream goes on")
    os.kill(server.engine_core(), signal.SIGSTOP)
    assert not answer.done, "the stream was too short to go on twice"
    (server.podinfo / "annotations").write_text('qwen-vllm.io/restart-engine="7f3a"\n')
    future.result()
    assert (answer.text, answer.usage, answer.done) == (undisturbed.text, undisturbed.usage, True)
    assert restarts(server) == {"died": 2, "failed": 1, "requested": 1}
    assert server.metrics()["uptime"]["seconds"] > begun_at  # the same process
    server.until(lambda: server.status("/health/ready") == 200, 20, "ready")
    print(f"one stream paused for {answer.gap:.1f} s, without a standby core and with a failed restart")


def test_dead_engines_leave_no_zombies(server: ServerProcess) -> None:
    """Each keeps its number, of which a container has only so many. Here, three have died."""
    server.until(lambda: not zombies_of(server.process.pid), 120, "every ended process has been waited for")

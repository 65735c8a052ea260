"""The specification's example of `/api/v1/metrics`: three requests produce all of its numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from qwen_server.api.openapi.specification import METRICS_ANSWER
from qwen_server.control.lifecycle import Lifecycle
from qwen_server.control.service import Service
from qwen_server.observe import snapshots
from qwen_server.observe.gpu import GpuReading
from qwen_server.observe.request_figures import RequestRecord
from tests.scripted_engine import ScriptedEngine
from tests.unit.qwen_server.serving import make_settings

# Three consecutive requests that produce the example: latency, time to first token, tokens.
REQUESTS = ((3.467, 0.5203, 11), (4.0945, 0.6143, 13), (6.2639, 0.9588, 19))
UPTIME = 117.3
EXPECTED = json.loads(METRICS_ANSWER)
GIB = 1024**3


class Gpu:
    """A monitor with the readings of the example."""

    latest = GpuReading("NVIDIA GeForce RTX 3080", int(7.64 * GIB), int(9.64 * GIB), 55.0)

    def warn_if_silent(self) -> None:
        """It is never silent."""


class Clock:
    def __init__(self) -> None:
        self.now = 5000.0

    def __call__(self) -> float:
        return self.now


def after(requests: Sequence[tuple[float, float, int]]) -> tuple[Service, Clock]:
    """A server that has answered these requests, one after another."""
    clock = Clock()
    lifecycle = Lifecycle(clock)
    lifecycle.mark_ready()
    gpu: Any = Gpu()
    moment = datetime.fromisoformat("2025-12-24T21:11:59.226485")
    service = Service(make_settings(), ScriptedEngine(), lifecycle, gpu=gpu, clock=clock, wall=lambda: moment)
    for latency, ttft, tokens in requests:
        trace = RequestRecord("id", clock.now, prompt_tokens=9)
        ticket = service.admission.enter(1)
        service.figures.accept()
        for index in range(tokens):
            service.figures.gain(trace, 1, trace.arrival + ttft + (latency - ttft) * index / (tokens - 1))
        clock.now = trace.arrival + latency
        service.admission.leave(ticket)
        service.figures.finish(trace, "successful")
    service.evaluate()
    return service, clock


def test_every_field_and_number_of_the_example_comes_out() -> None:
    service, clock = after(REQUESTS)
    clock.now = service.lifecycle.started_at + UPTIME
    found = snapshots.metrics(service.observe())
    # What the specification does not have comes after its own.
    assert found.popitem()[0] == "engine"
    assert [found["requests"].popitem() for _ in range(2)] == [("refused", 0), ("aborted", 0)]
    assert json.loads(json.dumps(found)) == EXPECTED
    assert list(found) == list(EXPECTED), "also in the example's order"
    for name in ("uptime", "requests", "tokens", "slo", "latency", "latency_histogram", "gpu", "errors"):
        assert list(found[name]) == list(EXPECTED[name])
    assert list(found["slo"]["ttft"]) == list(EXPECTED["slo"]["ttft"])
    assert list(found["slo"]["throughput"]) == list(EXPECTED["slo"]["throughput"])


def test_requests_that_failed_or_go_on_count_in_the_total_and_in_no_percentile() -> None:
    service, clock = after([(number / 10, number / 20, 3) for number in range(1, 51)])
    service.figures.accept()
    service.figures.finish(RequestRecord("id", clock.now), "failed", "engine_error")
    service.figures.accept()
    found = snapshots.metrics(service.observe())
    requests, ttft, latency = found["requests"], found["slo"]["ttft"], found["latency"]
    assert (requests["total"], requests["successful"], requests["failed"]) == (52, 50, 1)
    assert (requests["success_rate_percent"], requests["error_rate_percent"]) == (98.0, 2.0)
    assert requests["requests_per_second"] == 0.408  # 52 in 127.5 s
    assert found["tokens"]["avg_per_request"] == 2.9  # 150 tokens of 52 requests
    assert [ttft[name] for name in ("mean", "p50", "p95", "p99")] == [1.275, 1.25, 2.4, 2.5]
    assert [latency[name] for name in ("mean", "p50", "p95", "p99")] == [2.55, 2.5, 4.8, 5.0]
    assert found["errors"] == {"total": 1, "by_type": {"engine_error": 1}}

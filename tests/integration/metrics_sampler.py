"""Samples a real server's metrics during a test; compares them with what clients measured."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import httpx

from qwen_server.observe.request_figures import percentile
from tests.integration.load import Answer
from tests.integration.server_process import ServerProcess

LATENCY_EDGES = (0.1, 0.5, 1, 2, 5, 10)


class MetricsSampler:
    """`with MetricsSampler(server)`: ten samples of the metrics a second; `check` compares them."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._log_begins = len(server.lines)
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self.samples: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        self._done = self._pool.submit(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()

    def check(self) -> None:
        """Fails if an alert fired, a counter fell, or requests did not add up in a sample."""
        self._stop.set()
        self._done.result(30)
        assert len(self.samples) > 5
        assert alarms(self._server, self._log_begins) == []
        for sample in self.samples:
            requests = sample["requests"]
            accounted = [requests[name] for name in ("successful", "failed", "aborted", "running", "waiting")]
            assert requests["total"] == sum(accounted), requests
        for before, after in itertools.pairwise(map(counters, self.samples)):
            assert all(early <= late for early, late in zip(before, after, strict=True))

    def _run(self) -> None:
        with httpx.Client(base_url=self._server.url, timeout=20) as client:
            while not self._stop.wait(0.1):
                self.samples.append(client.get("/api/v1/metrics").json())


def counters(sample: dict[str, Any]) -> list[float]:
    """The values that never fall."""
    requests, tokens = sample["requests"], sample["tokens"]
    return [
        sample["uptime"]["seconds"],
        *(requests[name] for name in ("total", "successful", "failed", "peak_concurrent")),
        tokens["total_input"],
        tokens["total_output"],
        *sample["latency_histogram"].values(),
        sample["errors"]["total"],
    ]


def alarms(server: ServerProcess, since: int = 0) -> list[str]:
    """Log lines since line `since` of alerts that restart or take out a replica."""
    names = ("EngineUnresponsive", "GenerationStalled", "EngineDead", "GPUUnhealthy", "HighErrorRate")
    return [line for line in server.lines[since:] if any(f"alert {name}:" in line for name in names)]


def figures(answers: Sequence[Answer]) -> dict[str, float]:
    """The clients' measurements of streams under the server's names, by the same formulas."""
    ttfts = sorted(answer.ttft for answer in answers if answer.ttft is not None)
    latencies = sorted(answer.latency for answer in answers)
    rates = sorted(answer.decoding for answer in answers)
    output = sum(answer.completion_tokens for answer in answers)
    found = {"latency.min": latencies[0], "latency.max": latencies[-1], "slo.throughput.total": output / sum(latencies)}
    found["slo.throughput.decoding_mean"] = math.fsum(rates) / len(rates)
    found["slo.throughput.decoding_p50"] = percentile(rates, 50) or 0.0
    for name, values in (("slo.ttft", ttfts), ("latency", latencies)):
        found[f"{name}.mean"] = math.fsum(values) / len(values)
        for percent in (50, 95, 99):
            found[f"{name}.p{percent}"] = percentile(values, percent) or 0.0
    return found


def read(sample: dict[str, Any], path: str) -> float:
    """The number at a path such as `slo.ttft.p95`."""
    value: Any = sample
    for name in path.split("."):
        value = value[name]
    return float(value)


def histogram(answers: Sequence[Answer]) -> list[int]:
    """The number of answers in each latency range of the specification."""
    counts = [0] * (len(LATENCY_EDGES) + 1)
    for answer in answers:
        counts[sum(answer.latency >= edge for edge in LATENCY_EDGES)] += 1
    return counts

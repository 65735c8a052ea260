"""Requests and tokens a second, and the time to the first token.

`vllm bench serve` measures streamed answers, our own client those that are not streamed.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from benchmarks.console import say
from benchmarks.context import Context, chat
from benchmarks.load import Result, drive
from benchmarks.results import Row, Target
from benchmarks.servers import Server, Which, order
from benchmarks.vllm_client import VllmBench

# By concurrency; enough requests that p99 is not only the burst at the start.
REQUESTS = {1: 100, 16: 1600, 64: 1920}
_TOKENS_IN, _TOKENS_OUT = 64, 32
_NOT_SLOWER, _NOT_LATER = Target("ratio", ">=", 0.97), Target("ratio", "<=", 1.03)
_LIKE_RUST, _NOT_LATER_THAN_RUST = Target("ratio", ">=", 1.0), Target("ratio", "<=", 1.0)
_SMALL_MODEL = Target("ratio", ">=", 1.1)
_MOST_DROPPED = 0.02  # of a peer's requests; with more, its figures would not be comparable

Figures = dict[tuple[str, str], dict[Which, list[float]]]


def measure(context: Context) -> tuple[list[Row], list[str]]:
    """Every run loads one server after the other at every concurrency; they take turns."""
    servers = context.servers()
    figures: Figures = defaultdict(lambda: defaultdict(list))
    dropped: dict[Which, int] = defaultdict(int)
    with VllmBench(context.engine.model, context.folder) as client:
        for which, server in servers.items():
            _streamed(client, server, 16, 32)
            say(f"{server.label}: warmed up ({which})")
        for run in range(context.runs):
            for concurrency, full in REQUESTS.items():
                requests = context.scaled(full)
                for which in order(run, servers):
                    result = _streamed(client, servers[which], concurrency, requests)
                    missing = requests - result["completed"]
                    dropped[which] += _bearable(which, missing, requests, f"see {client.log_path}")
                    _note(figures, which, concurrency, result)
                for which in order(run, servers):
                    whole = _whole(servers[which], concurrency, requests, run)
                    dropped[which] += _bearable(which, requests - whole.answered, requests, f"{whole.statuses}")
                    _note(figures, which, concurrency, whole)
            say(f"throughput: run {run + 1} of {context.runs}")
    counts = {concurrency: context.scaled(full) for concurrency, full in REQUESTS.items()}
    return _rows(context, figures), [
        f"Each run: {_TOKENS_IN} tokens in, {_TOKENS_OUT} out; {counts} requests by concurrency.",
        *(
            f"{servers[which].label} closed the connection of {count} requests without an answer."
            for which, count in dropped.items()
            if count
        ),
    ]


def _bearable(which: Which, missing: int, requests: int, why: str) -> int:
    """How many requests a peer dropped. Raises RuntimeError for our own server, and for many."""
    if missing and (which == "ours" or missing > _MOST_DROPPED * requests):
        raise RuntimeError(f"{which}: {missing} of {requests} requests were not answered: {why}")
    if missing:
        say(f"{which} dropped {missing} of {requests} requests")
    return missing


def _streamed(client: VllmBench, server: Server, concurrency: int, requests: int) -> dict[str, Any]:
    return client.serve(
        server.port, concurrency=concurrency, requests=requests, tokens_in=_TOKENS_IN, tokens_out=_TOKENS_OUT
    )


def _whole(server: Server, concurrency: int, requests: int, run: int) -> Result:
    job = chat(server.port, tokens=_TOKENS_OUT, stream=False, concurrency=concurrency, requests=requests, seed=run + 1)
    return drive(job)


def _note(figures: Figures, which: Which, concurrency: int, result: dict[str, Any] | Result) -> None:
    if isinstance(result, Result):
        whole = f"not streamed, {concurrency} at a time"
        figures[whole, "requests/s"][which].append(result.answered / result.seconds)
        figures[whole, "tokens/s"][which].append(result.tokens / result.seconds)
        figures[whole, "p50, ms"][which].append(1000 * result.total_p50)
        figures[whole, "p99, ms"][which].append(1000 * result.total_p99)
        return
    streamed = f"streamed, {concurrency} at a time"
    figures[streamed, "requests/s"][which].append(result["request_throughput"])
    figures[streamed, "tokens/s"][which].append(result["output_throughput"])
    figures[streamed, "TTFT p50, ms"][which].append(result["p50_ttft_ms"])
    figures[streamed, "TTFT p99, ms"][which].append(result["p99_ttft_ms"])


def _rows(context: Context, figures: Figures) -> list[Row]:
    small = context.engine.device == "cpu"
    return [
        Row.of(name, unit, values, _target(name, unit, shared_cores=small), _rust_target(name, unit))
        for (name, unit), values in figures.items()
    ]


def _target(name: str, unit: str, *, shared_cores: bool) -> Target | None:
    if not unit.endswith("/s"):
        # In a closed loop, the duration of an answer is only the inverse of the rate.
        return _NOT_LATER if unit.startswith("TTFT") else None
    # Where model and frontend share the cores, the model gets what the frontend saves.
    return _SMALL_MODEL if shared_cores and (name, unit) == ("streamed, 64 at a time", "tokens/s") else _NOT_SLOWER


def _rust_target(name: str, unit: str) -> Target | None:
    if unit == "requests/s":
        return _LIKE_RUST
    return _NOT_LATER_THAN_RUST if unit == "TTFT p50, ms" else None

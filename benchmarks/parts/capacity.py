"""How many streamed tokens a second each frontend can carry: the engine answers at once, the frontend has one core."""

from __future__ import annotations

import os
from collections import defaultdict

from benchmarks.console import say
from benchmarks.context import AUTO, Context, chat
from benchmarks.load import Result, drive
from benchmarks.processes import cpu_of, pin
from benchmarks.results import Row, Target
from benchmarks.servers import Server, Which, both, order

REPLAY = "--distributed-executor-backend=benchmarks.replay.ReplayExecutor"
_TOKENS = 128
_STREAMS = 64
_SECONDS = 6


def measure(context: Context) -> tuple[list[Row], list[str]]:
    """Both servers over vLLM's own engine core with an executor that computes nothing (see `replay`)."""
    first, *others = sorted(os.sched_getaffinity(0))
    rest = set(others or [first])
    tokens: dict[Which, list[float]] = defaultdict(list)
    events: dict[Which, list[float]] = defaultdict(list)
    shares: dict[Which, list[float]] = defaultdict(list)
    context.release()
    with both(context.engine.with_extra(REPLAY), context.folder, AUTO) as servers:
        for server in servers.values():
            pin([server.pid], {first})
            pin(server.engine_pids(), rest)
            _load(server, 2, 0, rest)
        for run in range(context.runs):
            for which in order(run):
                before = cpu_of(servers[which].pid)
                result = _load(servers[which], context.scaled(_SECONDS), run, rest)
                shares[which].append(100 * (cpu_of(servers[which].pid) - before) / result.seconds)
                tokens[which].append(result.tokens / result.seconds)
                events[which].append(result.events / result.seconds)
            say(f"capacity: run {run + 1} of {context.runs}")
    target = Target("ratio", ">=", 1.6)
    return [
        Row("streamed tokens that one core of frontend carries", "tokens/s", tokens["ours"], tokens["vllm"], target),
        Row("events in which they came", "events/s", events["ours"], events["vllm"]),
        Row("of which the frontend used of its core", "%", shares["ours"], shares["vllm"]),
    ], [
        f"{_STREAMS} streams of {_TOKENS} tokens each. Engine core and load generator share the other cores.",
        "A frontend that falls behind puts several tokens into an event, which costs less a token.",
    ]


def _load(server: Server, seconds: int, run: int, cores: set[int]) -> Result:
    job = chat(server.port, tokens=_TOKENS, stream=True, concurrency=_STREAMS, seconds=seconds, seed=60 + run)
    result = drive(job, cores=cores)
    if result.refused or result.unanswered:
        raise RuntimeError(f"{server.label} did not answer all: {result.statuses}")
    return result

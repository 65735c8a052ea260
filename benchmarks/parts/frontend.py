"""What the process with the HTTP API costs under a streamed load: CPU time a token, and memory.

The processes of the engine are not counted.
"""

from __future__ import annotations

from collections import defaultdict

from benchmarks.console import say
from benchmarks.context import Context, chat
from benchmarks.load import drive
from benchmarks.procfs import cpu_of, memory_of
from benchmarks.results import Row, Target
from benchmarks.servers import Server, Which, order

_TOKENS = 64
_SECONDS = 6
_CONCURRENCIES = (1, 16, 64)


def measure(context: Context) -> tuple[list[Row], list[str]]:
    """CPU time (user and system, all threads) of the API process, by the tokens it streamed."""
    tokens: dict[tuple[int, Which], list[float]] = defaultdict(list)
    shares: dict[tuple[int, Which], list[float]] = defaultdict(list)
    pair = context.pair()
    with context.unpatched() as third:
        servers = pair | third
        for server in servers.values():
            _cpu_per_token(server, 16, 2, 0)
        for run in range(context.runs):
            for concurrency in _CONCURRENCIES:
                for which in order(run, servers):
                    cost, share = _cpu_per_token(servers[which], concurrency, context.scaled(_SECONDS), run)
                    tokens[concurrency, which].append(cost)
                    shares[concurrency, which].append(share)
            say(f"frontend: run {run + 1} of {context.runs}")
    rows = []
    for at in _CONCURRENCIES:
        target = Target("ratio", "<=", 0.6) if at > 1 else None
        name = f"streamed, {at} at a time"
        for kind, unit, found, goal in (
            ("CPU a token", "µs", tokens, target),
            ("share of a core", "%", shares, None),
        ):
            mine, theirs, bare = found[at, "ours"], found[at, "vllm"], found[at, "unpatched"]
            rows.append(Row(f"{kind}, {name}", unit, mine, theirs, goal, bare))
    return rows, [
        f"{_TOKENS} tokens an answer. At 1 at a time, the fixed cost of a request is spread over fewer tokens."
    ]


def _cpu_per_token(server: Server, concurrency: int, seconds: int, run: int) -> tuple[float, float]:
    """CPU time for a streamed token in microseconds, and the share of one core in percent."""
    job = chat(server.port, tokens=_TOKENS, stream=True, concurrency=concurrency, seconds=seconds, seed=20 + run)
    before = cpu_of(server.pid)
    result = drive(job)
    used = cpu_of(server.pid) - before
    if result.refused or result.unanswered:
        raise RuntimeError(f"{server.label} did not answer every request: {result.statuses}")
    return 1e6 * used / result.tokens, 100 * used / result.seconds


def measure_memory(context: Context) -> tuple[list[Row], list[str]]:
    """The memory of the API process after a load.

    It is comparable only if the earlier parts put the same load on both servers.
    """
    servers = context.pair()
    rss: dict[Which, list[float]] = {"ours": [], "vllm": []}
    pss: dict[Which, list[float]] = {"ours": [], "vllm": []}
    for run in range(context.runs):
        for which in order(run):
            server = servers[which]
            drive(chat(server.port, tokens=_TOKENS, stream=True, concurrency=64, requests=128, seed=40 + run))
            memory = memory_of(server.pid)
            rss[which].append(memory.rss)
            pss[which].append(memory.pss)
        say(f"memory: run {run + 1} of {context.runs}")
    target = Target("ratio", "<=", 1.0)
    return [
        Row("frontend's memory after 64 streams, RSS", "MiB", rss["ours"], rss["vllm"]),
        Row("frontend's memory after 64 streams, PSS", "MiB", pss["ours"], pss["vllm"], target),
    ], ["PSS divides shared memory among the processes that map it; RSS counts it in each."]

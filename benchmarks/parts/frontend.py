"""What a frontend costs under a streamed load: CPU time a token, and memory.

A frontend is every process of a server that is not the engine's.
"""

from __future__ import annotations

from collections import defaultdict

from benchmarks.console import say
from benchmarks.context import Context, chat
from benchmarks.load import drive
from benchmarks.procfs import Memory, memory_of
from benchmarks.results import Row, Target
from benchmarks.servers import Server, Which, order

_TOKENS = 64
_SECONDS = 5
_CONCURRENCIES = (1, 16, 64)


def measure(context: Context) -> tuple[list[Row], list[str]]:
    """CPU time (user and system, all threads) of the frontend, by the tokens it streamed."""
    tokens: dict[int, dict[Which, list[float]]] = defaultdict(lambda: defaultdict(list))
    shares: dict[int, dict[Which, list[float]]] = defaultdict(lambda: defaultdict(list))
    peers = context.servers()
    with context.unpatched() as bare:
        servers = peers | bare
        for server in servers.values():
            _cpu_per_token(server, 16, 2, 0)
        for run in range(context.runs):
            for concurrency in _CONCURRENCIES:
                for which in order(run, servers):
                    cost, share = _cpu_per_token(servers[which], concurrency, context.scaled(_SECONDS), run)
                    tokens[concurrency][which].append(cost)
                    shares[concurrency][which].append(share)
            say(f"frontend: run {run + 1} of {context.runs}")
    rows = []
    for at in _CONCURRENCIES:
        goals = (Target("ratio", "<=", 0.6), Target("ratio", "<=", 2.0)) if at > 1 else (None, None)
        name = f"streamed, {at} at a time"
        rows.append(Row.of(f"CPU a token, {name}", "µs", tokens[at], *goals))
        rows.append(Row.of(f"share of a core, {name}", "%", shares[at]))
    return rows, [
        f"{_TOKENS} tokens an answer. At 1 at a time, the fixed cost of a request is spread over fewer tokens."
    ]


def _cpu_per_token(server: Server, concurrency: int, seconds: int, run: int) -> tuple[float, float]:
    """CPU time for a streamed token in microseconds, and the share of one core in percent."""
    job = chat(server.port, tokens=_TOKENS, stream=True, concurrency=concurrency, seconds=seconds, seed=20 + run)
    before = server.frontend_cpu()
    result = drive(job)
    used = server.frontend_cpu() - before
    if result.refused or result.unanswered:
        raise RuntimeError(f"{server.label} did not answer every request: {result.statuses}")
    return 1e6 * used / result.tokens, 100 * used / result.seconds


def measure_memory(context: Context) -> tuple[list[Row], list[str]]:
    """The memory of the frontend after a load.

    It is comparable only if the earlier parts put the same load on all servers.
    """
    servers = context.servers()
    found: dict[Which, list[Memory]] = defaultdict(list)
    for run in range(context.runs):
        for which in order(run, servers):
            server = servers[which]
            drive(chat(server.port, tokens=_TOKENS, stream=True, concurrency=64, requests=128, seed=40 + run))
            found[which].append(server.frontend_memory())
        say(f"memory: run {run + 1} of {context.runs}")
    rss = {which: [each.rss for each in values] for which, values in found.items()}
    pss = {which: [each.pss for each in values] for which, values in found.items()}
    notes = ["PSS divides shared memory among the processes that map it; RSS counts it in each."]
    if "rust" in servers:
        alone = memory_of(servers["rust"].frontend_pids()[-1]).pss
        notes.append(
            f"The Rust frontend runs under a process in Python, which is counted; its own PSS is {alone:.0f} MiB."
        )
    return [
        Row.of("frontend's memory after 64 streams, RSS", "MiB", rss),
        Row.of("frontend's memory after 64 streams, PSS", "MiB", pss, Target("ratio", "<=", 1.0)),
    ], notes

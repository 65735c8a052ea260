"""How many streamed tokens a second a frontend on one core delivers without falling behind."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from benchmarks import pace
from benchmarks.console import say
from benchmarks.context import AUTO, Context, chat
from benchmarks.figures import highest
from benchmarks.load import drive
from benchmarks.procfs import pin
from benchmarks.results import Row, Target
from benchmarks.servers import Server, Which, order

_REPLAY = "--distributed-executor-backend=benchmarks.replay.ReplayExecutor"
_STREAMS = 64
_SECONDS = 2.0  # of the engine's output, at each rate that is tried
_GUESS = 8000.0  # tokens a second
# A frontend keeps up if hardly any tokens share an event and the last stream ends soon after the
# engine's last step.
_OWN_EVENT = 0.95
_LATE_SECONDS = 0.3  # 64 requests at once are read and answered first


class Carried(NamedTuple):
    """The highest rate at which a frontend kept up, and its cost."""

    tokens_per_second: float
    cpu_microseconds: float  # a token


def measure(context: Context) -> tuple[list[Row], list[str]]:
    """Measures both servers on an engine core whose executor computes nothing (see `replay`)."""
    first, *others = sorted(os.sched_getaffinity(0))
    rest = set(others or [first])
    carried: dict[Which, list[Carried]] = defaultdict(list)
    context.release()
    file = context.folder / "pace"
    pace.write(file, 0.01)
    engine = context.engine.with_extra(_REPLAY)
    variables = {pace.VARIABLE: str(file)}
    with (
        context.fresh(AUTO, engine=engine, variables=variables) as peers,
        context.unpatched(engine, variables) as bare,
    ):
        servers = peers | bare
        for server in servers.values():
            pin(server.frontend_pids(), {first})
            pin(server.engine_pids(), rest)
            _Search(server, file, rest).passes(_GUESS / 4)
        for run in range(context.runs):
            for which in order(run, servers):
                guess = carried[which][-1].tokens_per_second if carried[which] else _GUESS
                found = _Search(servers[which], file, rest).best(guess)
                carried[which].append(found)
                say(f"capacity: run {run + 1} of {context.runs}, {which}: {found.tokens_per_second:.0f} tokens/s")
    rates = {which: [run.tokens_per_second for run in runs] for which, runs in carried.items()}
    costs = {which: [run.cpu_microseconds for run in runs] for which, runs in carried.items()}
    return [
        Row.of("streamed tokens that a frontend carries", "tokens/s", rates, Target("ratio", ">=", 1.6)),
        Row.of("CPU of the frontend at that rate", "µs a token", costs),
    ], [
        f"{_STREAMS} streams get one token each per step of the engine. Steps get shorter until the frontend falls "
        f"behind: more than {100 * (1 - _OWN_EVENT):.0f} % of the tokens share an event, or the streams end late.",
        "The frontend has its own core. The engine core and the load generator share the others and may be the limit.",
    ]


class _Search:
    """Tries rates on one server."""

    def __init__(self, server: Server, file: Path, cores: set[int]) -> None:
        self._server = server
        self._file = file
        self._cores = cores
        self._best = Carried(0.0, 0.0)

    def best(self, guess: float) -> Carried:
        """The highest rate at which the server keeps up."""
        highest(self.passes, guess)
        return self._best

    def passes(self, rate: float) -> bool:
        """Whether the server keeps up with an engine that makes `rate` tokens a second."""
        step = _STREAMS / rate
        pace.write(self._file, step)
        tokens = round(_SECONDS / step)
        job = chat(self._server.port, tokens=tokens, stream=True, concurrency=_STREAMS, requests=_STREAMS)
        before = self._server.frontend_cpu()
        result = drive(job, cores=self._cores)
        used = self._server.frontend_cpu() - before
        if result.answered != _STREAMS:
            raise RuntimeError(f"{self._server.label} did not answer every request: {result.statuses}")
        in_time = result.total_p99 <= _SECONDS + _LATE_SECONDS
        kept_up = in_time and result.events >= _OWN_EVENT * result.tokens
        carried = result.tokens / result.seconds
        if kept_up and carried > self._best.tokens_per_second:
            self._best = Carried(carried, 1e6 * used / result.tokens)
        return kept_up

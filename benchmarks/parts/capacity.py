"""How many streamed tokens a second a frontend on one core delivers without falling behind."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from benchmarks import lateness, pace
from benchmarks.console import say
from benchmarks.context import AUTO, TOKENS_LIMIT, Context, chat
from benchmarks.figures import highest
from benchmarks.lateness import Lateness
from benchmarks.load import ROUND_SECONDS, drive
from benchmarks.procfs import pin, yield_to_others
from benchmarks.results import Row, Target
from benchmarks.servers import Server, Which, order

_REPLAY = "--distributed-executor-backend=benchmarks.replay.ReplayExecutor"
_STREAMS = 64
_SECONDS = 1.5  # of the engine's output at the full pace, at each rate that is tried
_LEAST_SECONDS = 1.0  # where the length of an answer bounds it
_GUESS = 30_000.0  # tokens a second
_FLOOR = 1_000.0
_WARM_UP = 4_000.0
# More than the pauses of a frontend that keeps up, and less than a reader notices. A frontend that
# falls behind by 4 % of the rate is this late within the time of one try.
_LATE_SECONDS = 0.05
_PACE_KEPT = 0.95
_SLOW_STEPS = 40  # at most, while requests are read and at the end
_PROMPT_TOKENS = 128  # at most


class Carried(NamedTuple):
    """The highest rate at which a frontend kept up, and its cost."""

    tokens_per_second: float
    cpu_microseconds: float  # a token
    late_seconds: float  # p99


def measure(context: Context) -> tuple[list[Row], list[str]]:
    """Measures the servers on an engine core whose executor computes nothing (see `replay`)."""
    first, *others = sorted(os.sched_getaffinity(0))
    rest = set(others or [first])
    carried: dict[Which, list[Carried]] = defaultdict(list)
    bounded: set[str] = set()
    context.release()
    pace.set_pace(context.folder, 0, 0)  # no replay before all servers are up
    engine = context.engine.with_extra(_REPLAY)
    variables = {pace.FOLDER: str(context.folder)}
    with (
        context.fresh(AUTO, engine=engine, variables=variables) as peers,
        context.unpatched(engine, variables) as bare,
    ):
        servers = peers | bare
        limit = _longest_answer(servers["vllm"])
        for server in servers.values():
            pin(server.frontend_pids(), {first})
            pin(server.engine_pids(), rest)
            # An engine core that fills its core would keep the generator waiting, and tokens would
            # look late that the frontend had sent in time.
            yield_to_others(server.engine_pids())
            _Search(server, context.folder, rest, limit).passes(_WARM_UP)
        for run in range(context.runs):
            for which in order(run, servers):
                earlier = [found.tokens_per_second for found in carried[which] if found.tokens_per_second > 0]
                search = _Search(servers[which], context.folder, rest, limit)
                carried[which].append(search.best(earlier[-1] if earlier else None))
                bounded |= {search.server.label} if search.engine_was_slow else set()
                say(f"capacity: run {run + 1} of {context.runs}, {which}: {_shown(carried[which][-1])}")
    return _rows(carried), [
        f"{_STREAMS} streams get one token each per step of the engine. Steps get shorter until the frontend falls "
        f"behind: p99 of the time from the step to the client exceeds {1000 * _LATE_SECONDS:.0f} ms.",
        "The frontend has its own core. The engine core and the load generator share the others, where the generator "
        f"has the higher priority. It reads all streams every {1000 * ROUND_SECONDS:.0f} ms, which is part of the "
        "lateness.",
        *([f"The engine could not make more tokens, in some runs: {'; '.join(sorted(bounded))}."] if bounded else []),
    ]


def _rows(carried: dict[Which, list[Carried]]) -> list[Row]:
    rates = {which: [run.tokens_per_second for run in runs] for which, runs in carried.items()}
    costs = {which: [run.cpu_microseconds for run in runs] for which, runs in carried.items()}
    late = {which: [1000 * run.late_seconds for run in runs] for which, runs in carried.items()}
    return [
        Row.of("streamed tokens that a frontend carries", "tokens/s", rates, Target("ratio", ">=", 1.6)),
        Row.of("CPU of the frontend at that rate", "µs a token", costs),
        Row.of("p99 of the lateness at that rate", "ms", late),
    ]


def _shown(found: Carried) -> str:
    return f"{found.tokens_per_second:.0f} tokens/s, p99 {1000 * found.late_seconds:.1f} ms late"


def _longest_answer(server: Server) -> int:
    """The most tokens that every server generates for one request."""
    context_length: int = json.loads(server.get("/v1/models")[1])["data"][0]["max_model_len"]
    return min(context_length, TOKENS_LIMIT) - _PROMPT_TOKENS


class _Search:
    """Tries rates on one server.

    engine_was_slow: a rate was not reached because the engine did not make the tokens in time.
    """

    def __init__(self, server: Server, folder: Path, cores: set[int], limit: int) -> None:
        self.server = server
        self.engine_was_slow = False
        self._folder = folder
        self._files = pace.Files(folder, server.which)
        self._cores = cores
        self._limit = limit
        self._best = Carried(math.nan, math.nan, math.nan)

    def best(self, earlier: float | None) -> Carried:
        """The highest rate at which the server keeps up; NaN if it never does."""
        ceiling = (self._limit - _SLOW_STEPS) * _STREAMS / _LEAST_SECONDS
        bracket = 1.1 if earlier else 1.25
        highest(self.passes_twice, earlier or _GUESS, floor=_FLOOR, ceiling=ceiling, bracket=bracket)
        return self._best

    def passes_twice(self, rate: float) -> bool:
        """Whether the server keeps up in one of two tries: a disturbance is not its fault."""
        return self.passes(rate) or self.passes(rate)

    def passes(self, rate: float) -> bool:
        """Whether the server keeps up with an engine that makes `rate` tokens a second."""
        step = _STREAMS / rate
        tokens = min(round(_SECONDS / step) + _SLOW_STEPS, self._limit)
        pace.set_pace(self._folder, step, _STREAMS)
        first = self._files.steps()
        job = chat(self.server.port, tokens=tokens, stream=True, concurrency=_STREAMS, requests=_STREAMS, arrivals=True)
        before = self.server.frontend_cpu()
        result = drive(job, cores=self._cores)
        used = self.server.frontend_cpu() - before
        if result.answered != _STREAMS:
            raise RuntimeError(f"{self.server.label} did not answer every request: {result.statuses}")
        found = self._lateness(result.arrivals, first)
        slow = not found.rate >= _PACE_KEPT * rate
        self.engine_was_slow |= slow
        if not found.p99 <= _LATE_SECONDS:
            return False
        if found.rate > (0.0 if math.isnan(self._best.tokens_per_second) else self._best.tokens_per_second):
            self._best = Carried(found.rate, 1e6 * used / result.tokens, found.p99)
        return not slow

    def _lateness(self, streams: list[list[tuple[float, str]]], first: int) -> Lateness:
        words = self._files.words()
        try:
            return lateness.of(streams, self._files.since(first), words, first % len(words))
        except ValueError as error:
            raise RuntimeError(f"{self.server.label}: {error}") from error

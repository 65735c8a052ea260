"""Three times as many requests as a server can answer, for a minute, without retries."""

from __future__ import annotations

import time
from typing import NamedTuple

from benchmarks.console import say
from benchmarks.context import CHAT, Context, chat
from benchmarks.load import Result, drive
from benchmarks.results import Row, Target
from benchmarks.servers import NAME, Server, running

_TOKENS = 32
_SECONDS = 60
_SATURATING = 64  # requests at a time that saturate a server of auto limits
_TIMES = 3.0
_DEFAULT_SLOTS = 3 + 10
_IDLE_SECONDS = 180.0


class Loaded(NamedTuple):
    """A server's saturated requests a second, and its result under three times as many."""

    capacity: float
    result: Result


def measure(context: Context) -> tuple[list[Row], list[str]]:
    """One minute each for our defaults, our `auto` limits and vLLM's defaults, at the same rate."""
    seconds = context.scaled(_SECONDS)
    servers = context.pair()
    saturated = {which: _saturation(server, _SATURATING) for which, server in servers.items()}
    rate = _TIMES * max(saturated.values())
    say(f"saturated: ours {saturated['ours']:.1f}, vLLM's {saturated['vllm']:.1f} requests/s; offered {rate:.0f}/s")
    auto = Loaded(saturated["ours"], _overload(servers["ours"], rate, seconds))
    theirs = Loaded(saturated["vllm"], _overload(servers["vllm"], rate, seconds))
    context.release()
    with running("ours", context.engine, context.folder) as server:
        plain = Loaded(_saturation(server, _DEFAULT_SLOTS), _overload(server, rate, seconds))
    rows = _rows("limits auto", seconds, auto, theirs) + _rows("our defaults (3 run, 10 wait)", seconds, plain, theirs)
    return rows, [
        f"Poisson arrivals at {rate:.0f}/s for {seconds} s, {_TOKENS} tokens each, streamed; one run.",
        "Goodput: complete answers whose first token came within 1 s. Capacity: the same server in a closed loop.",
        "With `auto`, --queue-timeout=500ms bounds the wait.",
    ]


def _rows(name: str, seconds: int, ours: Loaded, theirs: Loaded) -> list[Row]:
    mine, others = ours.result.in_time / seconds, theirs.result.in_time / seconds
    shares = [100 * mine / ours.capacity], [100 * others / theirs.capacity]
    first = [theirs.result.ttft_p99] if theirs.result.answered else []
    left = [float(ours.result.unanswered)], [float(theirs.result.unanswered)]
    return [
        Row(f"{name}: saturated capacity", "requests/s", [ours.capacity], [theirs.capacity]),
        Row(f"{name}: goodput", "requests/s", [mine], [others], Target("ratio", ">=", 5.0)),
        Row(f"{name}: goodput of capacity", "%", *shares, Target("value", ">=", 85.0)),
        Row(f"{name}: TTFT p99 of accepted", "s", [ours.result.ttft_p99], first, Target("value", "<=", 1.0)),
        Row(f"{name}: refusal p99", "s", [ours.result.refusal_p99]),
        Row(f"{name}: left without an answer", "requests", *left),
    ]


def _saturation(server: Server, concurrency: int) -> float:
    """Requests a second when `concurrency` requests are always in flight."""
    drive(chat(server.port, tokens=_TOKENS, stream=True, concurrency=concurrency, seconds=3, seed=80))
    result = drive(chat(server.port, tokens=_TOKENS, stream=True, concurrency=concurrency, seconds=10, seed=81))
    return result.answered / result.seconds


def _overload(server: Server, rate: float, seconds: int) -> Result:
    result = drive(chat(server.port, tokens=_TOKENS, stream=True, rate=rate, seconds=seconds, seed=82))
    say(f"overload, {server.label}: {result.in_time} of {result.sent} in time, statuses {result.statuses}")
    _until_idle(server)
    return result


def _until_idle(server: Server) -> None:
    """Waits until a request is answered at once: the engine has dropped the old ones."""
    deadline = time.monotonic() + _IDLE_SECONDS
    body = {"model": NAME, "messages": [{"role": "user", "content": "1"}], "max_tokens": 1, "temperature": 0}
    while time.monotonic() < deadline:
        started = time.monotonic()
        if server.post(CHAT, body)[0] == 200 and time.monotonic() - started < 1.0:
            return
        time.sleep(0.5)
    raise RuntimeError(f"{server.label} is still busy {_IDLE_SECONDS:.0f} s after the overload")

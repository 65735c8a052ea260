"""Three times as many requests as a server can answer, for a minute, without retries."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from benchmarks.console import say
from benchmarks.context import CHAT, Context, chat
from benchmarks.load import Result, drive
from benchmarks.results import Row, Target
from benchmarks.servers import NAME, Server, Which, running

_TOKENS = 32
_SECONDS = 45
_SATURATING = 64  # requests at a time that saturate a server of auto limits
_TIMES = 3.0
_DEFAULT_SLOTS = 3 + 10
_IDLE_SECONDS = 180.0


class Loaded(NamedTuple):
    """A server's saturated requests a second, and its result under three times as many."""

    capacity: float
    result: Result
    seconds: int  # of the overload

    def goodput(self) -> float:
        """Requests a second that were answered in time."""
        return self.result.in_time / self.seconds

    def share(self) -> float:
        """The goodput as a percentage of the capacity."""
        return 100 * self.goodput() / self.capacity


def measure(context: Context) -> tuple[list[Row], list[str]]:
    """The same rate for our `auto` limits, our defaults, and vLLM's servers as they are."""
    seconds = context.scaled(_SECONDS)
    servers = context.servers()
    saturated = {which: _saturation(server, _SATURATING) for which, server in servers.items()}
    rate = _TIMES * max(saturated.values())
    shown = ", ".join(f"{servers[which].label} {found:.1f}" for which, found in saturated.items())
    say(f"saturated, requests/s: {shown}; offered {rate:.0f}/s")
    loaded = {
        which: Loaded(saturated[which], _overload(server, rate, seconds), seconds) for which, server in servers.items()
    }
    context.release()
    with running("ours", context.engine, context.folder) as server:
        plain = Loaded(_saturation(server, _DEFAULT_SLOTS), _overload(server, rate, seconds), seconds)
    rows = _rows("limits auto", loaded) + _rows("our defaults (3 run, 10 wait)", loaded | {"ours": plain})
    return rows, [
        f"Poisson arrivals at {rate:.0f}/s for {seconds} s, {_TOKENS} tokens each, streamed; one run.",
        "Goodput: complete answers whose first token came within 1 s. Capacity: the same server in a closed loop.",
        "With `auto`, --queue-timeout=500ms bounds the wait.",
    ]


def _rows(name: str, loaded: Mapping[Which, Loaded]) -> list[Row]:
    def each(value: Callable[[Loaded], float]) -> dict[Which, list[float]]:
        return {which: [value(one)] for which, one in loaded.items()}

    goodput = each(Loaded.goodput)
    ours = loaded["ours"].result
    return [
        Row.of(f"{name}: saturated capacity", "requests/s", each(lambda one: one.capacity)),
        Row.of(f"{name}: goodput", "requests/s", goodput, Target("ratio", ">=", 5.0), Target("ratio", ">=", 10.0)),
        Row.of(f"{name}: goodput of capacity", "%", each(Loaded.share), Target("value", ">=", 85.0)),
        Row.of(f"{name}: TTFT p99 of accepted", "s", each(lambda one: one.result.ttft_p99), Target("value", "<=", 1.0)),
        Row(f"{name}: refusal p99", "s", [ours.refusal_p99]),
        Row.of(f"{name}: left without an answer", "requests", each(lambda one: float(one.result.unanswered))),
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
    """Waits until a request is answered at once: the engine has dropped the old ones.

    A server that is busy for longer is stopped, so that it does not disturb the next one.
    """
    deadline = time.monotonic() + _IDLE_SECONDS
    body = {"model": NAME, "messages": [{"role": "user", "content": "1"}], "max_tokens": 1, "temperature": 0}
    while time.monotonic() < deadline:
        started = time.monotonic()
        with contextlib.suppress(OSError, http.client.HTTPException):
            if server.post(CHAT, body, timeout=_IDLE_SECONDS)[0] == 200 and time.monotonic() - started < 1.0:
                return
        time.sleep(0.5)
    say(f"{server.label} is still busy {_IDLE_SECONDS:.0f} s after the overload, and is stopped")
    server.stop()

"""From the start of the process to its first answers: one server at a time, nothing else runs."""

from __future__ import annotations

import http.client
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from benchmarks.console import say
from benchmarks.context import CHAT, Context
from benchmarks.results import Row, Target
from benchmarks.servers import NAME, START_SECONDS, Server, ServerError, Which, order

_BODY = {"model": NAME, "messages": [{"role": "user", "content": "你好"}], "max_tokens": 1, "temperature": 0}
_POLL_SECONDS = 0.05


def measure(context: Context) -> tuple[list[Row], list[str]]:
    """Polls /health until any answer comes, then sends a chat until one succeeds."""
    context.release()
    health: dict[Which, list[float]] = defaultdict(list)
    chats: dict[Which, list[float]] = defaultdict(list)
    fresh: dict[Which, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="caches-", dir=context.folder) as caches:
        for run in range(-1, context.runs):
            for which in order(max(run, 0), context.peers):
                first, answered = _start(context, which, Path(caches) / which)
                say(
                    f"startup: run {run + 1} of {context.runs}, {which}: /health {first:.1f} s, answer {answered:.1f} s"
                )
                if run < 0:
                    fresh[which] = [answered]
                else:
                    health[which].append(first)
                    chats[which].append(answered)
    return [
        Row.of("process start to first answered request", "s", chats, Target("ratio", "<=", 0.75)),
        Row.of("the same, vLLM's caches empty", "s", fresh),
        Row.of("process start to first answer of /health", "s", health, Target("value", "<=", 2.0)),
    ], [
        "Bytecode is compiled beforehand. Empty caches: the first start of each server, which fills them and loads "
        "files into the page cache. That helps vLLM's servers because they start after this one.",
    ]


def _start(context: Context, which: Which, caches: Path) -> tuple[float, float]:
    """Seconds from the start of the process to the first answers of /health and of a chat."""
    variables = {"VLLM_CACHE_ROOT": str(caches / "vllm"), "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor")}
    server = Server(which, context.engine, context.folder, variables=variables)
    try:
        return _until(server, lambda: server.get("/health")[0] > 0), _until(server, lambda: _answers(server))
    finally:
        server.stop()


def _answers(server: Server) -> bool:
    return server.is_ready() and server.post(CHAT, _BODY)[0] == 200


def _until(server: Server, condition: Callable[[], bool]) -> float:
    while True:
        try:
            if condition():
                return time.monotonic() - server.started_at
        except (OSError, http.client.HTTPException):
            pass
        server.check()
        if time.monotonic() - server.started_at > START_SECONDS:
            raise ServerError(f"{server.label} has not answered within {START_SECONDS:.0f} s")
        time.sleep(_POLL_SECONDS)

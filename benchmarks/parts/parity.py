"""Sends varied requests to all servers, one at a time in float32, and shows every difference."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

from benchmarks.answers import difference, streamed, whole
from benchmarks.cases import Case, cases
from benchmarks.console import say
from benchmarks.context import AUTO, CHAT, Context
from benchmarks.results import Row, Target
from benchmarks.servers import NAME, Server, Which
from qwen_server.api.bodies.checking import Bodies
from qwen_server.config.settings import Settings

_CASES = 240
_SEED = 20261124
_SHOWN_LINES = 40
# This server chooses parsers by the model's template, and Qwen3 does not think unless asked to.
# vLLM's server needs flags for both.
_OUR_PARSERS = ("--tool-call-parser=hermes", "--reasoning-parser=none")
_THEIR_PARSERS = (
    "--enable-auto-tool-choice",
    "--tool-call-parser=hermes",
    '--default-chat-template-kwargs={"enable_thinking": false}',
)


def measure(context: Context) -> tuple[list[Row], list[str]]:
    """Compares text, finish reason, logprobs, tool calls and usage with those of vLLM's server."""
    context.release()
    bodies = Bodies(Settings(served_model_name=NAME, max_tokens_limit=4096))
    compared: Counter[str] = Counter()
    different: dict[Which, Counter[str]] = {which: Counter() for which in context.peers if which != "vllm"}
    engine = replace(context.engine, dtype="float32")
    theirs: dict[Which, tuple[str, ...]] = {"vllm": _THEIR_PARSERS, "rust": _THEIR_PARSERS}
    with context.fresh((*AUTO, *_OUR_PARSERS), engine=engine, theirs=theirs) as servers:
        for number, case in enumerate(cases(context.scaled(_CASES), _SEED)):
            answers = {which: _answer(server, case) for which, server in servers.items()}
            path = _path(bodies, case)
            compared[path] += 1
            if answers["vllm"]["status"] != 200:
                compared["refused by both"] += 1
            for which, found in different.items():
                if text := difference(answers[which], answers["vllm"]):
                    found[path] += 1
                    _show(f"{servers[which].label}, case {number} ({path} path)", case, text)
    rows = []
    for path in ("fast", "reference"):
        rows.append(Row(f"{path} path: requests compared", "requests", [compared[path]]))
        found_here: dict[Which, list[float]] = {which: [found[path]] for which, found in different.items()}
        rows.append(
            Row.of(f"{path} path: answers that differ", "requests", found_here, target=Target("value", "<=", 0))
        )
    return rows, [
        f"Seed {_SEED}, one at a time, float32, explicit temperature and max_tokens. Compared with vLLM's server: "
        "status, text, finish reason, logprobs to 5 decimals, tool calls, token ids, usage.",
        f"Refused by both: {compared['refused by both']}.",
    ]


def _answer(server: Server, case: Case) -> dict[str, Any]:
    """The answer of a server in its normal form."""
    read = streamed if case.body.get("stream") else whole
    stops = bool({"stop", "stop_token_ids"} & set(case.body))
    return read(*server.post(case.path, case.body), stops=stops)


def _show(what: str, case: Case, text: str) -> None:
    say(f"{what} differs: {case.path} {json.dumps(case.body, ensure_ascii=False)}")
    print("\n".join(text.splitlines()[:_SHOWN_LINES]), flush=True)


def _path(bodies: Bodies, case: Case) -> str:
    body = bodies.check("chat" if case.path == CHAT else "completion", case.body)
    return "fast" if body.fast else "reference"

"""Requests whose grammars are made to cost as much as possible, beside requests that have none.

Each must be answered or refused in time, and a chat without a grammar must not notice.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx

_AT_A_TIME = 4
_ANSWER_SECONDS = 60.0
_PLAIN_SECONDS = 15.0
_EXPECTED = frozenset({200, 400, 413, 503})

Schema = dict[str, Any]


def schemas(draw: random.Random) -> Schema:
    """A JSON schema that may cost much to convert, to compile, or to run."""
    count = draw.choice([3, 30, 300, 1000, 4000, 14_000])
    depth = draw.choice([2, 8, 30, 60])
    nested: Schema = {"type": "string"}
    for _ in range(depth):
        nested = draw.choice([{"type": "array", "items": nested}, {"anyOf": [nested, {"type": "object"}]}])
    names = [f"property_{number}_{draw.random()}" for number in range(min(count, 4000))]
    few = names[:200]
    return draw.choice(
        [
            {"type": "string", "pattern": f"^[a-z]{{1,{count}}}x?$"},
            {"type": "string", "pattern": f"^(([a-z]{{1,{count % 97}}}){{1,{count % 89}}}){{1,{count % 83}}}$"},
            {"type": "string", "pattern": "^(" + "|".join(f"({name})*" for name in names[:300]) + ")*$"},
            {"type": "string", "pattern": f"^(a|b)*a(a|b){{{count % 64}}}$"},
            {"type": "string", "minLength": count // 2, "maxLength": count},
            {"type": "array", "items": nested, "minItems": count, "maxItems": 2 * count},
            {"type": "object", "properties": dict.fromkeys(names[: 8000 // (depth + 1)], nested)},
            {"type": "object", "properties": {name: {"enum": few[:20]} for name in few}, "required": few},
            {"anyOf": [{"type": "object", "properties": {name: {}}, "required": [name]} for name in names]},
            {"enum": names},
            nested,
            {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"},
            {"type": "integer", "minimum": -(10 ** (count % 300)), "maximum": 10 ** (count % 300)},
        ]
    )


def constraints(draw: random.Random) -> dict[str, Any]:
    """vLLM's `structured_outputs`, in one of its kinds."""
    count = draw.choice([5, 50, 500, 4000])
    rules = "\n".join(f'r{number} ::= r{(number * 7 + 1) % count} [a-z]* | "{number}"' for number in range(count))
    tag = {"type": "structural_tag", "format": {"type": "json_schema", "json_schema": schemas(draw)}}
    return draw.choice(
        [
            {"json": schemas(draw)},
            {"json": json.dumps(schemas(draw))},
            {"regex": schemas(draw).get("pattern", "(.*.*.*)*x")},
            {"regex": f"(.|.a){{0,{count}}}" + "(" * (count % 50) + "a*" + ")*" * (count % 50)},
            {"choice": ["财经" * (count % 40) + str(number) for number in range(count)]},
            {"grammar": "root ::= r0\n" + rules},
            {"grammar": 'root ::= s\ns ::= s s s | [^x] | s "a" s | ""'},
            {"grammar": f'start: "a"~1..{count} b\nb: ("x" | b b)+'},
            {"structural_tag": json.dumps(tag)},
        ]
    )


def request(draw: random.Random) -> tuple[str, dict[str, Any]]:
    """A path and a body, of any of the APIs."""
    messages = [{"role": "user", "content": "x"}]
    schema = schemas(draw)
    function = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": schema}}}
    forced = {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}
    nested = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    flat = {"type": "json_schema", "name": "x", "schema": schema}
    tag = {"type": "structural_tag", "format": {"type": "json_schema", "json_schema": schema}}
    chat: dict[str, Any] = {"messages": messages, "max_tokens": 4}
    short: dict[str, Any] = {"max_tokens": 4}
    choices: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", chat | {"structured_outputs": constraints(draw)}),
        ("/v1/chat/completions", chat | {"response_format": nested}),
        ("/v1/chat/completions", chat | {"response_format": tag}),
        ("/v1/chat/completions", chat | forced),
        ("/v1/completions", short | {"prompt": ["x"] * 8, "structured_outputs": constraints(draw)}),
        ("/v1/responses", {"input": "x", "max_output_tokens": 4, "text": {"format": flat}}),
        ("/v1/messages", chat | {"output_config": {"format": {"type": "json_schema", "schema": schema}}}),
    ]
    return draw.choice(choices)


@dataclass
class Attack:
    """What came of it: statuses by their number, and everything that was wrong."""

    statuses: dict[int, int] = field(default_factory=dict)
    plain: int = 0
    slowest_plain: float = 0.0
    findings: list[str] = field(default_factory=list)


def attack(url: str, *, count: int, seed: int, progress: Callable[[str], None] = lambda _: None) -> Attack:
    """Sends `count` hostile requests, some at a time, and plain chats meanwhile."""
    draw = random.Random(seed)
    drawn = [request(draw) for _ in range(count)]
    result = Attack()
    ended = threading.Event()
    with httpx.Client(base_url=url, timeout=_ANSWER_SECONDS) as client, ThreadPoolExecutor(_AT_A_TIME + 1) as pool:
        plain = pool.submit(_plain, client, result, ended)
        try:
            for sent in pool.map(lambda each: _send(client, *each), drawn):
                result.statuses[sent[0]] = result.statuses.get(sent[0], 0) + 1
                result.findings += [sent[1]] if sent[1] else []
        finally:
            ended.set()
        plain.result()
    progress(f"hostile grammars: {result.statuses}, slowest of {result.plain} plain chats {result.slowest_plain:.1f} s")
    return result


def _send(client: httpx.Client, path: str, body: dict[str, Any]) -> tuple[int, str]:
    """The status, and what was wrong with it."""
    try:
        status = client.post(path, json=body).status_code
    except httpx.HTTPError as error:
        return 0, f"{path} {json.dumps(body)[:500]}: {error!r}"
    return status, "" if status in _EXPECTED else f"{path} {json.dumps(body)[:500]}: {status}"


def _plain(client: httpx.Client, result: Attack, ended: threading.Event) -> None:
    """Chats without a grammar, one after the other. A full queue is no finding: others fill it."""
    body = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 4}
    while not ended.is_set():
        begun = time.monotonic()
        response = client.post("/v1/chat/completions", json=body)
        took = time.monotonic() - begun
        result.plain += 1
        result.slowest_plain = max(result.slowest_plain, took)
        if response.status_code not in (200, 503) or took > _PLAIN_SECONDS:
            result.findings.append(f"a plain chat took {took:.1f} s: {response.status_code} {response.text[:200]}")
        ended.wait(0.05)

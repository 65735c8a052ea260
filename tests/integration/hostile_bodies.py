"""Bodies that are legal and as expensive as one can make them, to measure who has to wait.

Each of them is close to a limit of its API. None asks for a long answer: what it costs the engine
is the queue's business. What counts is how long the event loop is silent for everybody else.

`python -m tests.integration.hostile_bodies PORT` prints a table of it for the server on that port.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import httpx

from tests.integration.silence import Watch

_MIB: Final = 1 << 20
_ROOM: Final = 4 * _MIB - 4096  # of the default --max-body-bytes, less the rest of the body
_SHORT: Final = {"max_tokens": 4}
_WORDS: Final = "the quick brown fox jumps over the lazy dog "
_CHINESE: Final = "央行宣布降息25个基点，市场反应积极。"


def _text(sample: str, size: int = _ROOM) -> str:
    """A text of at most `size` bytes."""
    return sample * (size // len(sample.encode()))


def _chat(text: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **_SHORT, **fields}


def _many(count: int, size: int = _ROOM, **fields: Any) -> dict[str, Any]:
    text = _text("a b ", size // count - 60)
    turns = [{"role": ("user", "assistant")[index % 2], "content": text} for index in range(count)]
    return {"messages": turns, **_SHORT, **fields}


def _deep(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = {"a": value}
    return value


def _tools(count: int, properties: int) -> list[dict[str, Any]]:
    schema = {f"p{index}": {"type": "string", "description": "d"} for index in range(properties)}
    return [
        {"type": "function", "function": {"name": f"f{index}", "parameters": {"type": "object", "properties": schema}}}
        for index in range(count)
    ]


def _chats() -> Iterator[tuple[str, dict[str, Any]]]:
    part = {"type": "text", "text": ""}
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    calls = [{"role": "assistant", "content": None, "tool_calls": [call] * 40_000}, {"role": "user", "content": "x"}]
    bias = {str(token): -1.5 for token in range(1024)}
    yield "one text of 4 MiB", _chat(_text(_WORDS))
    yield "one Chinese text of 4 MiB", _chat(_text(_CHINESE))
    yield "one text that just passes the check of its length", _chat(_text("a ", 60_000))
    yield "one word of 60 KiB", _chat("a" * 60_000)
    yield "one text with escaped surrogates, 4 MiB", _chat(_text("\U0001f600", _ROOM // 3))
    yield "a text of 4 MiB cut to 1 token", _chat(_text(_WORDS), truncate_prompt_tokens=1)
    yield "4,096 messages of 1 KiB", _many(4096)
    yield "4,096 messages of one word", _many(4096, 4096 * 64)
    yield "100,000 parts of text", _chat([part] * 100_000)
    yield "40,000 calls in a message", {"messages": calls, **_SHORT}
    yield "logit_bias of 1,024", _chat("x", logit_bias=bias)
    yield "1,000 bad words", _chat("x", bad_words=[f"{_WORDS} {index}" for index in range(1000)])
    yield "4 MiB of bad words", _chat("x", bad_words=[_text("ab ", 100)] * 35_000)
    yield "one bad word of 4 MiB", _chat("x", bad_words=[_text(_WORDS)])
    yield "500,000 allowed tokens", _chat("x", allowed_token_ids=list(range(1000)) * 500)
    yield "1,024 stop tokens", _chat("x", stop_token_ids=[*range(1024)])
    yield "4 stops of 1,024 characters", _chat("x", stop=[f"{_text('ab', 1020)}{index}" for index in range(4)])
    yield "documents of 4 MiB", _chat("x", documents=[{"text": "a"}] * 200_000)
    yield "template arguments of 4 MiB", _chat("x", chat_template_kwargs={"a": [[]] * 800_000})
    yield "template arguments, deep", _chat("x", chat_template_kwargs=_deep(60))
    yield "128 tools of 100 properties", _chat("x", tools=_tools(128, 100), tool_choice="auto")
    yield (
        "1,024 tools, one named",
        _chat("x", tools=_tools(1024, 10), tool_choice={"type": "function", "function": {"name": "f1"}}),
    )
    yield "1,024 tools, required", _chat("x", tools=_tools(1024, 10), tool_choice="required")
    yield "a cache salt of 4 MiB", _chat("x", cache_salt=_text("a"))
    yield "16 choices with 20 logprobs", _chat("x", n=16, logprobs=True, top_logprobs=20, max_tokens=200)
    yield "20 logprobs of a prompt of 3,000", _chat(_text("a ", 6000), prompt_logprobs=20)
    yield "300,000 unknown fields", _chat("x") | {f"u{index}": 1 for index in range(300_000)}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + _text("AAAA")}}
    yield "an image of 4 MiB", _chat([image])
    yield "a user name of 4 MiB", _chat("x", user=_text("a"))
    yield "metadata of 4 MiB", _chat("x", metadata=[[]] * 1_000_000)
    yield "a model's name of 4 MiB", _chat("x", model=_text("a"))
    yield "a role of 4 MiB", {"messages": [{"role": _text("a"), "content": "x"}], **_SHORT}


def _completions() -> Iterator[tuple[str, dict[str, Any]]]:
    bias = {str(token): -1.5 for token in range(1024)}
    stops = [f"{_text('ab', 1000)}{index}" for index in range(4)]
    yield "128 prompts of 32 KiB", {"prompt": [_text(_WORDS, 32_000)] * 128, **_SHORT}
    yield "128 prompts of 4 KiB", {"prompt": [_text("a b ", 4000)] * 128, **_SHORT}
    yield "128 prompts with logit_bias", {"prompt": ["x"] * 128, "logit_bias": bias, **_SHORT}
    yield (
        "128 prompts with bad words",
        {
            "prompt": ["x"] * 128,
            "bad_words": [f"{_WORDS} {index}" for index in range(400)],
            **_SHORT,
        },
    )
    yield "128 prompts with allowed tokens", {"prompt": ["x"] * 128, "allowed_token_ids": [*range(15_000)], **_SHORT}
    yield "128 prompts with stops", {"prompt": ["x"] * 128, "stop": stops, "stop_token_ids": [*range(1024)], **_SHORT}
    yield "8 prompts, 16 choices", {"prompt": ["x"] * 8, "n": 16, "max_tokens": 100, "ignore_eos": True}
    yield (
        "8 prompts, 16 choices, streamed",
        {
            "prompt": ["x"] * 8,
            "n": 16,
            "max_tokens": 100,
            "ignore_eos": True,
            "stream": True,
        },
    )
    yield "a prompt of a million ids", {"prompt": [9] * 1_000_000, **_SHORT}
    yield "a prompt of 260,000 ids", {"prompt": [999] * 260_000, **_SHORT}
    yield "128 prompts of 8,000 ids", {"prompt": [[9] * 8000] * 128, **_SHORT}
    yield "128 prompts of 2,000 ids", {"prompt": [[9] * 2000] * 128, "max_tokens": 1}
    yield "echo with 20 logprobs of 3,000", {"prompt": _text("a ", 6000), "echo": True, "logprobs": 20, **_SHORT}
    yield (
        "32 echoes with 20 logprobs of 2,000",
        {
            "prompt": [_text("a ", 3900)] * 32,
            "echo": True,
            "logprobs": 20,
            **_SHORT,
        },
    )
    yield "a suffix of 4 MiB", {"prompt": "x", "suffix": _text("a"), **_SHORT}
    yield "a million prompts", {"prompt": ["x"] * 800_000, **_SHORT}


def _others() -> Iterator[tuple[str, str, dict[str, Any]]]:
    part = {"type": "text", "text": "a"}
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}] * 10}
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c", "output": "x"}
    thought = {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "x"}] * 10}
    turns = [{"role": ("user", "assistant")[index % 2], "content": [part] * 10} for index in range(4096)]
    blocks = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "x"}] * 100}
    yield "messages: 4,096", "/v1/messages", {"messages": turns, **_SHORT}
    yield "messages: 400 of 100 results", "/v1/messages", {"messages": [blocks] * 400, **_SHORT}
    yield (
        "messages: 1,024 system blocks",
        "/v1/messages",
        {
            "messages": [{"role": "user", "content": "x"}],
            "system": [part] * 500,
            **_SHORT,
        },
    )
    tool = {"name": "f", "input_schema": {"type": "object", "properties": _tools(1, 300)[0]["function"]["parameters"]}}
    yield (
        "messages: 200 tools",
        "/v1/messages",
        {
            "messages": [{"role": "user", "content": "x"}],
            "tools": [tool] * 200,
            **_SHORT,
        },
    )
    yield "count_tokens: 4,096", "/v1/messages/count_tokens", {"messages": turns}
    yield "responses: 4,096 messages", "/v1/responses", {"input": [item] * 4096, "max_output_tokens": 4}
    yield "responses: 4,096 calls", "/v1/responses", {"input": [call, output] * 2048, "max_output_tokens": 4}
    yield "responses: 4,096 thoughts", "/v1/responses", {"input": [thought] * 4096, "max_output_tokens": 4}
    yield (
        "responses: instructions of 4 MiB",
        "/v1/responses",
        {
            "input": "x",
            "instructions": _text(_WORDS),
            "max_output_tokens": 4,
        },
    )
    yield (
        "responses: metadata of 4 MiB, streamed",
        "/v1/responses",
        {
            "input": "x",
            "metadata": {str(index): _text("a", _ROOM // 17) for index in range(16)},
            "max_output_tokens": 4,
            "stream": True,
        },
    )
    yield "tokenize: 4 MiB", "/tokenize", {"prompt": _text(_WORDS)}
    yield (
        "tokenize: 60,000 tokens with strings",
        "/tokenize",
        {"prompt": _text("a ", 60_000), "return_token_strs": True},
    )
    yield "tokenize: 4,096 messages", "/tokenize", {"messages": _many(4096, 4096 * 100)["messages"]}
    yield (
        "tokenize: 1,024 tools",
        "/tokenize",
        {
            "messages": [{"role": "user", "content": "x"}],
            "tools": _tools(1024, 10),
        },
    )
    yield "detokenize: 260,000 ids", "/detokenize", {"tokens": [999] * 260_000}
    yield "detokenize: a million ids", "/detokenize", {"tokens": [999] * 800_000}


def _raw() -> Iterator[tuple[str, str, bytes]]:
    chat = b'{"messages":[{"role":"user","content":"x"}],"max_tokens":4,"ignored":'
    for name, opening, item, closing in (
        ("a million numbers", b"[", b"1,", b"1]"),
        ("500,000 decimals", b"[", b"1.5e3,", b"1]"),
        ("a million empty objects", b"[", b"{},", b"1]"),
        ("300,000 short strings", b"[", b'"ab",', b"1]"),
        ("200,000 members", b"{", b"", b""),
        ("4 MiB of escapes", b'"', b"\\u0041", b'"'),
        ("4 MiB of surrogates", b'"', b"\\ud83d\\ude00", b'"'),
    ):
        if name == "200,000 members":
            inner = b"{" + b",".join(b'"k%d":[]' % index for index in range(200_000)) + b"}"
        else:
            inner = opening + item * (min(_ROOM // len(item), 1_000_000)) + closing
        yield f"JSON: {name}", "/v1/chat/completions", chat + inner + b"}"


def bodies() -> Mapping[str, tuple[str, Callable[[], bytes]]]:
    """The path and the body of each request, by what it is. A body is made when it is asked for."""
    made: dict[str, tuple[str, Callable[[], bytes]]] = {}

    def add(name: str, path: str, body: dict[str, Any] | bytes) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
        made[name] = path, lambda: raw

    for name, body in _chats():
        add(f"chat: {name}", "/v1/chat/completions", body)
    for name, body in _completions():
        add(f"completion: {name}", "/v1/completions", body)
    for name, path, body in _others():
        add(name, path, body)
    for name, path, raw in _raw():
        add(name, path, raw)
    return made


def longest_silence(watch: Watch, http: httpx.Client, path: str, body: bytes, attempts: int) -> tuple[float, set[int]]:
    """How long the server is silent while it answers a body, in seconds, and the answers' statuses.

    The shortest of some attempts counts: whatever else the machine does hardly delays all of them.
    """
    statuses: set[int] = set()

    def ask() -> None:
        statuses.add(http.post(path, content=body, headers={"content-type": "application/json"}).status_code)

    return min(watch.during(ask) for _ in range(attempts)), statuses


def _print_table(port: int) -> None:
    print("| request | status | longest silence, ms |\n| --- | --- | --: |")
    with Watch(port) as watch, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300) as http:
        print(f"| none, for two seconds | | {1000 * watch.during(lambda: time.sleep(2)):.0f} |")
        for name, (path, body) in bodies().items():
            silence, statuses = longest_silence(watch, http, path, body(), attempts=3)
            print(f"| {name} | {', '.join(map(str, sorted(statuses)))} | {1000 * silence:.0f} |", flush=True)


if __name__ == "__main__":
    _print_table(int(sys.argv[1]))

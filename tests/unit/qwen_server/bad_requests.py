"""A collection of requests that deserve a 4xx, as the bytes that go over the wire, and a client
that sends them.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
_USER = [{"role": "user", "content": "x"}]


@dataclass(frozen=True)
class Bad:
    """One request and the status it is answered with."""

    name: str
    raw: bytes
    status: int

    @property
    def has_body(self) -> bool:
        """Whether the answer has a body: that of a HEAD has only the headers of one."""
        return not self.raw.startswith(b"HEAD ")

    @property
    def is_anthropics(self) -> bool:
        """Whether the path belongs to Anthropic's API, whose errors have another shape."""
        return b" /v1/messages" in self.raw[:30]


@dataclass(frozen=True)
class Answer:
    """What came back, and after how many seconds."""

    status: int
    body: bytes
    seconds: float


def request(method: str, path: str, body: bytes | None = None, **headers: str) -> bytes:
    """An HTTP/1.1 request; underscores in the headers' names stand for hyphens."""
    fields = {"host": "test"} | {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        fields = {"content-type": "application/json", "content-length": str(len(body))} | fields
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + (body or b"")


def chunked(path: str, body: bytes) -> bytes:
    """The same with a body of unknown length."""
    head = f"POST {path} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    return head.encode() + f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"


def corpus() -> list[Bad]:
    """All of them."""
    found = [Bad(name, request("POST", CHAT, body), 400) for name, body in _bodies()]
    found += [Bad(f"chat {json.dumps(fields)[:60]}", chat(**fields), 400) for fields in _FIELDS]
    found += [Bad(f"prompt {json.dumps(value)[:40]}", completion(value), 400) for value in _PROMPTS]
    return [*found, *_heads(), *_further(), *_no_http(), *_large()]


def chat(**fields: Any) -> bytes:
    """A chat with these fields."""
    return request("POST", CHAT, json.dumps({"messages": _USER} | fields).encode())


def completion(prompt: Any) -> bytes:
    """A completion of `prompt`."""
    return request("POST", COMPLETION, json.dumps({"prompt": prompt}).encode())


def _bodies() -> Iterator[tuple[str, bytes]]:
    yield "no body", b""
    yield "cut off", b'{"messages": [{"role": "user"'
    yield "trailing comma", b'{"messages": [],}'
    yield "two values", b"{} {}"
    yield "single quotes", b"{'messages': []}"
    yield "a comment", b'{"messages": [] /* x */}'
    yield "not an object", b"[1, 2]"
    yield "a number", b"5"
    yield "a string", b'"x"'
    yield "null", b"null"
    yield "NaN", b'{"messages": [], "temperature": NaN}'
    yield "Infinity", b'{"messages": [], "temperature": -Infinity}'
    yield "a float out of range", b'{"messages": [], "temperature": 1e999}'
    yield "an integer of 5,000 digits", b'{"messages": [], "max_tokens": ' + b"9" * 5000 + b"}"
    yield "invalid UTF-8", b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}'
    yield "an overlong encoding", b'{"messages": [{"role": "user", "content": "\xc0\xaf"}]}'
    yield "UTF-16", '{"messages": []}'.encode("utf-16")
    yield "a byte order mark", b"\xef\xbb\xbf" + b'{"messages": []}'
    yield "a lone surrogate", b'{"messages": [{"role": "user", "content": "\\ud800"}]}'
    yield "a lone surrogate in a name", b'{"messages": [{"role": "user", "content": "x"}], "\\udfff": 1}'
    yield "a raw control character", b'{"messages": [{"role": "user", "content": "a\x00b"}]}'
    yield "nested 70 deep", b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}"
    yield "the last of two equal names counts", b'{"messages": [{"role": "user", "content": "x"}], "n": 1, "n": 0}'
    yield "no messages", b"{}"


def _each(name: str, *values: Any) -> list[dict[str, Any]]:
    return [{name: value} for value in values]


_FIELDS: tuple[dict[str, Any], ...] = (
    *_each("max_tokens", -1, 0, 513, 10**30, 1.5, "1", True, [], {}),
    *_each("temperature", -0.1, 1.01, 1e300, -(10**30), "hot", [], False),
    *_each("n", -1, 0, 17, 10**30, "2"),
    *_each("seed", 2**63, -(2**63) - 1, 0.5, "1"),
    *_each("top_p", 0, 1.1, "1"),
    *_each("stop", "", ["a"] * 33, [1], {"a": 1}, ["x" * 1025]),
    *_each("logit_bias", [], {"x": 1}, {"-1": 1}, {"1": 101}, {"1": "x"}),
    *_each("stream", 1, "true", []),
    *_each("messages", None, [], {}, "hi", [1], [{}], [{"role": 1}], [{"role": "user", "content": 1}]),
    *_each("model", 1, [], {}),
    *_each("response_format", "json", [], 1),
    {"stream_options": {"include_usage": 1}},
    {"guided_json": {}},
    *_each("use_beam_search", True, 1),
    *_each("length_penalty", 0.5, True),
    {"chat_template": "{{ 1 }}"},
    {"kv_transfer_params": {"a": 1}},
    {"max_output_tokens": 5},
    {"tools": "x"},
)
_PROMPTS: tuple[Any, ...] = (None, [], {}, 1, True, ["a", 1], [[]], [-1], [2**31], [[1], "a"], ["a"] * 129)


def _heads() -> Iterator[Bad]:
    good = json.dumps({"messages": _USER}).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "garbage"):
        yield Bad(f"content type {kind!r}", request("POST", CHAT, good, content_type=kind), 415)
    yield Bad("no length and no body", request("POST", CHAT, content_type="application/json"), 400)
    yield Bad("chunked and malformed", chunked(CHAT, b'{"messages": '), 400)
    yield Bad("another model", chat(model="gpt-4o"), 404)
    for path in ("/v1/models/gpt-4o", "/v1/models/%ff%00", "/v1/models/..%2f..%2fetc/passwd?x=%ff"):
        yield Bad(f"GET {path}", request("GET", path), 404)
    for path in (
        "/",
        "/v1",
        "/v2/chat/completions",
        "/%2e%2e/x",
        "/" + "a" * 9000,
    ):
        yield Bad(f"GET {path[:40]}", request("GET", path), 404)
    for method in ("GET", "HEAD", "TRACE", "PUT", "PATCH", "DELETE"):
        yield Bad(f"{method} {CHAT}", request(method, CHAT), 405)
    for method in ("TRACE", "POST", "DELETE"):
        yield Bad(f"{method} /v1/models", request(method, "/v1/models"), 405)
    yield Bad("a query and no messages", request("POST", f"{CHAT}?messages=x&a[]=%00", b"{}"), 400)


def _further() -> Iterator[Bad]:
    """The other paths that take a body."""
    for path in ("/v1/responses", "/v1/messages", "/v1/messages/count_tokens", "/tokenize", "/detokenize"):
        for body in (b"", b"{", b"{}", b"[]", b'{"model": 1}', b'{"x": NaN}', b'{"a": "\xff"}', b'{"a": "\\ud800"}'):
            yield Bad(f"{path} {body!r}", request("POST", path, body), 400)
        yield Bad(f"{path} as text", request("POST", path, b"{}", content_type="text/plain"), 415)
        yield Bad(f"{path} by GET", request("GET", path), 405)
    for value in (0, -1, "1", 513):
        fields = {"messages": _USER, "max_tokens": value}
        yield Bad(f"a message of {value!r} tokens", request("POST", "/v1/messages", json.dumps(fields).encode()), 400)
    inputs: tuple[Any, ...] = ([], {}, [1], [{"role": "user", "content": 1}])
    for given in inputs:
        yield Bad(
            f"a response to {given}", request("POST", "/v1/responses", json.dumps({"input": given}).encode()), 400
        )
    for tokens in ([], [-1], [2**31], ["a"], [[1]], "1"):
        yield Bad(f"the text of {tokens}", request("POST", "/detokenize", json.dumps({"tokens": tokens}).encode()), 400)


def _no_http() -> Iterator[Bad]:
    """What the parser of HTTP refuses, before there is a request."""
    yield Bad("no HTTP at all", b"hello\r\n\r\n", 400)
    yield Bad("HTTP/9.9", b"GET / HTTP/9.9\r\nhost: test\r\n\r\n", 400)
    yield Bad("an unknown method", request("BREW", "/v1/models"), 501)
    yield Bad("bytes beyond ASCII in the path", b"GET /v1/\xff HTTP/1.1\r\nhost: test\r\n\r\n", 400)
    yield Bad("a space in a header's name", b"GET / HTTP/1.1\r\nho st: test\r\n\r\n", 400)
    yield Bad("a negative length", request("POST", CHAT, content_length="-1"), 400)
    yield Bad("two lengths", b"POST / HTTP/1.1\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}", 400)
    yield Bad("chunked with a length", request("POST", CHAT, b"0\r\n\r\n", transfer_encoding="chunked"), 400)
    yield Bad("headers of 100 kB", request("GET", "/v1/models", x="a" * 100_000), 431)


def _large() -> Iterator[Bad]:
    """Bodies of up to 4 MiB, the limit."""
    mebibyte = 1 << 20
    yield Bad(
        "100,000 stops", request("POST", CHAT, json.dumps({"messages": _USER, "stop": ["a"] * 100_000}).encode()), 400
    )
    yield Bad("a million levels", request("POST", CHAT, b'{"a":' * 10**6), 413)
    yield Bad("500,000 levels", request("POST", CHAT, b'{"a":' * 500_000 + b"1" + b"}" * 500_000), 400)
    yield Bad("500,000 brackets", request("POST", CHAT, b'{"a":' + b"[" * 500_000 + b"]" * 500_000 + b"}"), 400)
    yield Bad(
        "100,000 biases",
        request(
            "POST",
            CHAT,
            json.dumps({"messages": _USER, "logit_bias": dict.fromkeys(map(str, range(100_000)), 1)}).encode(),
        ),
        400,
    )
    yield Bad("a million prompts", request("POST", COMPLETION, b'{"prompt":[' + b'"",' * 10**6 + b'""]}'), 400)
    yield Bad("two million token ids", request("POST", COMPLETION, b'{"prompt":[' + b"1," * (2 * 10**6) + b"1]}"), 400)
    yield Bad("a number of 4 MB", request("POST", CHAT, b'{"n":' + b"9" * (4 * 10**6) + b"}"), 400)
    yield Bad("a float of 4 MB", request("POST", CHAT, b'{"n":0.' + b"9" * (4 * 10**6) + b"}"), 400)
    yield Bad("4 MB of spaces", request("POST", CHAT, b" " * (4 * 10**6)), 400)
    yield Bad("a prompt of 4 MB", request("POST", COMPLETION, b'{"prompt":"' + b"x" * (4 * 10**6) + b'"}'), 400)
    yield Bad("above the limit", request("POST", CHAT, b" " * (4 * mebibyte + 1)), 413)
    yield Bad("chunked, above the limit", chunked(CHAT, b" " * (4 * mebibyte + 1)), 413)


class Connection:
    """A keep-alive connection that is opened again when the server has closed it."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, bad: Bad) -> Answer:
        """Sends a request and reads its answer."""
        reader, writer = self._streams or await asyncio.open_connection(*self._address, limit=1 << 20)
        self._streams = reader, writer
        writer.write(bad.raw)
        await writer.drain()
        begun = time.perf_counter()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.partition("content-length:")[2].split("\r\n")[0])
        body = await reader.readexactly(length) if bad.has_body else b""
        seconds = time.perf_counter() - begun
        # A refused body may still be on its way: what follows would be read as part of it.
        if "connection: close" in head or len(bad.raw) > 1 << 22:
            await self.close()
        return Answer(int(head.split(" ", 2)[1]), body, seconds)

    async def close(self) -> None:
        """Closes it; the next request opens another."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

"""HTTP as others do it: each row of the table in docs/api.md, by its first cell."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.unit.qwen_server.raw_client import HEALTH, connect, post
from tests.unit.qwen_server.serving import Served, events_of, on_uvloop, serve

DOCS = Path(__file__).parents[3] / "docs"
PROMPT = b'{"prompt": "x"}'
STREAM = b'{"prompt": "@{\\"tokens\\": 4}", "stream": true}'
GET_PATHS = (
    *("/health", "/health/live", "/health/ready", "/health/generate", "/v1/models", "/v1/models/qwen-news-classifier"),
    *("/api/v1/metrics", "/stats", "/metrics", "/metrics/prometheus", "/docs", "/redoc", "/openapi.json"),
    "/docs/favicon.png",
)

Row = Callable[[Served], Coroutine[Any, Any, None]]
ROWS: dict[str, Row] = {}


def row(cell: str) -> Callable[[Row], Row]:
    """Registers a test for the row whose first cell is `cell`."""

    def register(test: Row) -> Row:
        ROWS[cell] = test
        return test

    return register


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    length = [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([f"{line} HTTP/1.1", "Host: x", *length, *headers, "", ""]).encode() + body


async def answer_to(served: Served, data: bytes, *, bodiless: bool = False) -> tuple[int, dict[str, str], bytes]:
    """The answer on a connection that is usable afterwards."""
    async with connect(served) as client:
        await client.send(data)
        answer = await client.answer(bodiless=bodiless)
        await client.send(HEALTH)
        assert (await client.answer())[0] == 200
        return answer


async def status_of(served: Served, data: bytes) -> int:
    return (await answer_to(served, data))[0]


async def refusal_of(served: Served, data: bytes, status: int) -> str:
    """The message with which a connection ends."""
    async with connect(served) as client:
        await client.send(data)
        return await client.refused(status)


@row("`HEAD` where there is `GET`")
async def _(served: Served) -> None:
    for path in GET_PATHS:
        got, gets, body = await answer_to(served, request(f"GET {path}"))
        headed, heads, _ = await answer_to(served, request(f"HEAD {path}"), bodiless=True)
        assert (got, headed) == (200, 200), path
        assert gets.keys() == heads.keys(), path
        assert gets["content-type"] == heads["content-type"]
        assert gets["content-length"] == str(len(body))
    status, headers, _ = await answer_to(served, request("HEAD /v1/completions"), bodiless=True)
    assert (status, headers["allow"]) == (405, "OPTIONS, POST")
    assert (await answer_to(served, request("HEAD /v1/models/gpt-4o"), bodiless=True))[0] == 404


@row("`OPTIONS`")
async def _(served: Served) -> None:
    for path, allowed in (("/v1/models", "GET, HEAD, OPTIONS"), ("/v1/chat/completions", "OPTIONS, POST")):
        status, headers, body = await answer_to(served, request(f"OPTIONS {path}"))
        assert (status, headers["allow"], body) == (204, allowed, b"")
    assert (await answer_to(served, request("OPTIONS *")))[0] == 204
    assert (await answer_to(served, request("OPTIONS /v1/nothing")))[0] == 404
    async with serve(cors_origins=["https://a.example"]) as shared:
        asks: tuple[str, ...] = ("Origin: https://a.example", "Access-Control-Request-Method: POST")
        asks = (*asks, "Access-Control-Request-Headers: authorization,content-type,x-stainless-os")
        status, headers, _ = await answer_to(shared, request("OPTIONS /v1/chat/completions", *asks))
        assert (status, headers["access-control-allow-origin"]) == (200, "https://a.example")
        assert "x-stainless-os" in headers["access-control-allow-headers"]


@row("a method that the path does not have")
async def _(served: Served) -> None:
    for method in ("GET", "PUT", "PATCH", "DELETE", "TRACE"):
        status, headers, body = await answer_to(served, request(f"{method} /v1/completions"))
        assert (status, headers["allow"]) == (405, "OPTIONS, POST")
        assert method in json.loads(body)["error"]["message"]
    status, headers, _ = await answer_to(served, request("POST /health"))
    assert (status, headers["allow"]) == (405, "GET, HEAD, OPTIONS")


@row("an unknown method")
async def _(served: Served) -> None:
    for method in ("BREW", "get", "GETS", "X-PING"):
        await refusal_of(served, request(f"{method} /health"), 501)


@row("slashes too many, at the end of the path or doubled")
async def _(served: Served) -> None:
    for path in ("/v1/models/", "//v1/models", "/v1//models//", "/health/"):
        assert await status_of(served, request(f"GET {path}")) == 200
    for path in ("/v1/completions/", "//v1/completions", "/v1//completions"):
        assert await status_of(served, request(f"POST {path}", body=PROMPT)) == 200
    for path, target in (("/docs/", "../docs"), ("/redoc/", "../redoc")):
        status, headers, _ = await answer_to(served, request(f"GET {path}"))
        assert (status, headers["location"]) == (308, target)
    async with serve(api_keys="k") as locked:
        for path in ("//v1/models", "/v1/models/", "//v1//models"):
            assert await status_of(locked, request(f"GET {path}")) == 401


@row("percent-encoded characters in the path")
async def _(served: Served) -> None:
    assert await status_of(served, request("GET /%68ealth")) == 200
    assert await status_of(served, request("GET /v1/models/qwen%2Dnews%2dclassifier")) == 200
    status, _, body = await answer_to(served, request("GET /v1/models/Qwen%2FQwen3-8B"))
    assert (status, "Qwen/Qwen3-8B" in json.loads(body)["error"]["message"]) == (404, True)
    for path in ("/%00", "/%ff%fe", "/v1/%2e%2e/health", "/v1/../health"):
        assert await status_of(served, request(f"GET {path}")) == 404
    async with serve(api_keys="k") as locked:
        for path in ("/%76%31/models", "/v1%2Fmodels"):
            assert await status_of(locked, request(f"GET {path}")) == 401


@row("a target with scheme and host (`GET http://host/health`)")
async def _(served: Served) -> None:
    assert await status_of(served, request("GET http://other.example:8000/health?x=1")) == 200
    assert await status_of(served, request("POST http://x/v1/completions", body=PROMPT)) == 200


@row("a URL above 32 KiB, headers above 64 KiB")
async def _(served: Served) -> None:
    assert await status_of(served, request(f"GET /health?{'a' * 30_000}")) == 200
    await refusal_of(served, request(f"GET /health?{'a' * 70_000}"), 414)
    await refusal_of(served, request("GET /health", f"X-Long: {'a' * 70_000}"), 431)


@row("names of headers in any case")
async def _(served: Served) -> None:
    for change in (str.upper, str.lower, str.title):
        headers = [
            change(name) + value for name, value in (("content-type", ": application/json"), ("x-request-id", ": 7"))
        ]
        status, got, _ = await answer_to(served, request("POST /v1/completions", *headers, body=PROMPT))
        assert (status, got["x-request-id"]) == (200, "7")


@row("HTTP/1.1 without `Host`, or with two, or an invalid one")
async def _(served: Served) -> None:
    for host in (b"", b"Host: a\r\nHost: b\r\n", b"Host: x\r\nHost: x\r\n", b"Host: a b\r\n", b"Host: a/b\r\n"):
        assert "Host" in await refusal_of(served, b"GET /health HTTP/1.1\r\n" + host + b"\r\n", 400)
    for host in (b"", b" x:8000", b"[::1]:8000", b"service.namespace.svc", b"10.0.0.1"):
        assert await status_of(served, b"GET /health HTTP/1.1\r\nHost:" + host + b"\r\n\r\n") == 200


@row("HTTP/1.0")
async def _(served: Served) -> None:
    for name in (b"", b"Host: x\r\n", b"Connection: keep-alive\r\n"):
        async with connect(served) as client:
            await client.send(b"GET /health HTTP/1.0\r\n" + name + b"\r\n")
            status, headers, _ = await client.answer()
            assert (status, headers["connection"]) == (200, "close")
            assert await client.ends() == b""
    for body in (PROMPT, STREAM):
        async with connect(served) as client:
            await client.send(
                post(body).replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
            )
            head, _, content = (await client.ends()).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert b"transfer-encoding" not in head
            if body is STREAM:
                assert events_of(content.decode())[-1] == "[DONE]"
                assert content.startswith(b"data: ")
                assert content.endswith(b"data: [DONE]\n\n")
            else:
                assert json.loads(content)["object"] == "text_completion"
    await refusal_of(served, b"POST /v1/completions HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400)


@row("another version of HTTP")
async def _(served: Served) -> None:
    for version in (b"HTTP/0.9", b"HTTP/2.0"):
        await refusal_of(served, HEALTH.replace(b"HTTP/1.1", version), 505)
    await refusal_of(served, b"GET /health\r\n\r\n", 505)


@row("`Connection: close`")
async def _(served: Served) -> None:
    for value in ("close", "Close", "keep-alive, close"):
        async with connect(served) as client:
            await client.send(request("GET /health", f"Connection: {value}"))
            assert (await client.answer())[1]["connection"] == "close"
            assert await client.ends() == b""
    assert "connection" not in (await answer_to(served, request("GET /health", "Connection: keep-alive")))[1]


@row("`Upgrade` (HTTP/2, WebSocket or anything else)")
async def _(served: Served) -> None:
    for offer in ("h2c", "websocket", "foo"):
        headers = (
            "Connection: Upgrade, HTTP2-Settings",
            f"Upgrade: {offer}",
            "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA",
        )
        assert await status_of(served, request("POST /v1/completions", *headers, body=PROMPT)) == 200


@row("`Expect: 100-continue`")
async def _(served: Served) -> None:
    expects = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\n"
    async with connect(served) as client:
        await client.send(expects + b"Content-Length: %d\r\n\r\n" % len(PROMPT))
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(PROMPT)
        assert (await client.answer())[0] == 200
    for refused, status in ((b"Content-Length: 99999999\r\n", 413), (b"Content-Type: text/plain\r\n", 415)):
        async with connect(served) as client:
            await client.send(expects + b"Content-Length: 5\r\n" * (status == 415) + refused + b"\r\n")
            assert (await client.answer())[0] == status
    await refusal_of(served, request("GET /health", "Expect: a-miracle"), 417)


@row("`Content-Length` twice, with another sign than digits, or beside `Transfer-Encoding`")
async def _(served: Served) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
    for lines in (
        b"Content-Length: 2\r\nContent-Length: 3\r\n",
        b"Content-Length: 15\r\nContent-Length: 15\r\n",
        b"Content-Length: +15\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 15, 15\r\n",
        b"Content-Length: 0xf\r\n",
        b"Content-Length: 99999999999999999999999999\r\n",
        b"Content-Length: 15\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 15\r\n",
    ):
        await refusal_of(served, head + lines + b"\r\n" + PROMPT, 400)


@row("`Transfer-Encoding: chunked`")
async def _(served: Served) -> None:
    for coding in ("chunked", "Chunked"):
        head = request("POST /v1/completions", f"Transfer-Encoding: {coding}")
        chunks = b"5;extension=1\r\n" + PROMPT[:5] + b"\r\n" + b"A\r\n" + PROMPT[5:] + b"\r\n0\r\nX-Trailer: 1\r\n\r\n"
        assert await status_of(served, head + chunks) == 200
        assert await status_of(served, head + b"0\r\n\r\n") == 400


@row("another `Transfer-Encoding`")
async def _(served: Served) -> None:
    for coding in ("gzip, chunked", "identity"):
        await refusal_of(served, request("POST /v1/completions", f"Transfer-Encoding: {coding}"), 501)


@row("a compressed body (`Content-Encoding`)")
async def _(served: Served) -> None:
    for coding in ("gzip", "br", "zstd", "deflate, gzip", "GZIP"):
        data = request("POST /v1/completions", f"Content-Encoding: {coding}", body=b"\x1f\x8b\x08\x00")
        status, headers, body = await answer_to(served, data)
        assert (status, headers["accept-encoding"]) == (415, "identity")
        assert coding in json.loads(body)["error"]["message"]
    assert await status_of(served, request("POST /v1/completions", "Content-Encoding: identity", body=PROMPT)) == 200


@row("no `Content-Type`, or `application/json` with parameters")
async def _(served: Served) -> None:
    for kind in (
        "application/json",
        "APPLICATION/JSON;charset=utf-8",
        'application/json; charset="UTF-8"',
        "application/x+json",
    ):
        assert await status_of(served, request("POST /v1/completions", f"Content-Type: {kind}", body=PROMPT)) == 200
    latin = ("Content-Type: application/json; charset=iso-8859-1",)
    assert await status_of(served, request("POST /v1/completions", *latin, body=PROMPT)) == 200
    for raw in ('{"prompt": "é"}'.encode("latin-1"), '{"prompt": "x"}'.encode("utf-16")):
        assert await status_of(served, request("POST /v1/completions", *latin, body=raw)) == 400


@row("another `Content-Type`")
async def _(served: Served) -> None:
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonl",
    ):
        assert await status_of(served, request("POST /v1/completions", f"Content-Type: {kind}", body=PROMPT)) == 415


@row("a body that begins with a byte order mark")
async def _(served: Served) -> None:
    assert await status_of(served, post(b"\xef\xbb\xbf" + PROMPT)) == 200
    assert await status_of(served, post(b"\xef\xbb\xbf")) == 400
    assert await status_of(served, post(b"\xef\xbb\xbf\xef\xbb\xbf" + PROMPT)) == 400


@row("an empty body")
async def _(served: Served) -> None:
    for data in (post(b""), request("POST /v1/completions")):
        status, _, body = await answer_to(served, data)
        assert (status, "empty" in json.loads(body)["error"]["message"]) == (400, True)


@row("`GET` with a body")
async def _(served: Served) -> None:
    assert await status_of(served, request("GET /v1/models", body=PROMPT)) == 200
    assert (
        await status_of(served, request("GET /v1/models", "Transfer-Encoding: chunked") + b"1\r\n{\r\n0\r\n\r\n") == 200
    )


@row("pipelined requests")
async def _(served: Served) -> None:
    async with connect(served) as client:
        await client.send(post(PROMPT) * 3 + HEALTH * 10)
        assert [(await client.answer())[0] for _ in range(13)] == [200] * 13


@row("`Accept`, `Accept-Encoding`, `Range`, `If-None-Match`")
async def _(served: Served) -> None:
    asks = ("Accept: text/event-stream", "Accept-Encoding: gzip, br, zstd", "Range: bytes=0-1", "If-None-Match: *")
    status, headers, body = await answer_to(served, request("POST /v1/completions", *asks, body=PROMPT))
    assert (status, headers["content-type"], json.loads(body)["object"]) == (200, "application/json", "text_completion")
    assert "content-encoding" not in headers
    assert (await answer_to(served, request("GET /health", "Accept: application/xml")))[1][
        "content-type"
    ] == "application/json"
    status, headers, _ = await answer_to(served, request("GET /metrics", "Accept: text/plain"))
    assert headers["content-type"].startswith("text/plain")


@row("a client that closes its sending half")
async def _(served: Served) -> None:
    async with connect(served) as client:
        await client.send(post(b'{"prompt": "@{\\"tokens\\": 9, \\"delay\\": 0.1}"}'))
        client.writer.write_eof()
        assert await client.ends() == b""
    await served.until_idle()
    assert served.service.figures.counters.outcomes["failed"] == 0


@row("anything that is not HTTP")
async def _(served: Served) -> None:
    for data in (
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET /health HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nname : value\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nname: a\x00b\r\n\r\n",
        b"GET /h\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    ):
        await refusal_of(served, data, 400)


@row("every answer")
async def _(served: Served) -> None:
    await served.client.get("/health")

    async def headers_of(data: bytes) -> dict[str, str]:
        async with connect(served) as client:
            await client.send(data)
            return (await client.answer())[1]

    for data in (HEALTH, request("GET /nothing"), b"hello\r\n\r\n", post(PROMPT), request("BREW /health")):
        headers = await headers_of(data)
        assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", headers["date"])
        assert headers["x-request-id"]
        assert "server" not in headers


def cells(page: str, heading: str) -> list[str]:
    """The first cells of the table under a heading."""
    text = (DOCS / page).read_text(encoding="utf-8")
    part = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| (.+?) \|", part, re.MULTILINE)[2:]


def test_each_row_of_the_documentation_has_its_test() -> None:
    assert cells("api.md", "HTTP") == list(ROWS)
    assert len(cells("api.zh-CN.md", "HTTP 细节")) == len(ROWS)


@pytest.mark.parametrize("cell", ROWS)
@on_uvloop
async def test_the_server_does_as_documented(cell: str) -> None:
    async with serve() as served:
        await ROWS[cell](served)
        assert served.service.figures.counters.outcomes["failed"] == 0


@pytest.mark.parametrize("patches", [frozenset(), frozenset({"early-writes"})])
@on_uvloop
async def test_the_rules_hold_without_the_patches(patches: frozenset[str]) -> None:
    async with serve(patches=patches) as served:
        for cell in (
            "HTTP/1.0",
            "`HEAD` where there is `GET`",
            "pipelined requests",
            "a client that closes its sending half",
        ):
            await ROWS[cell](served)

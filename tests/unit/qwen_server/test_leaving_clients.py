"""Clients that leave, stop reading or send nonsense: they are noticed, and no failure of ours."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from qwen_server.http.asgi import Scope
from tests.unit.qwen_server.raw_client import HEALTH, Client, connect, post
from tests.unit.qwen_server.serving import Served, on_uvloop, serve, until


def ask(*, stream: bool = False, length: int | None = None, max_tokens: int = 500, **script: Any) -> bytes:
    """A completion by the script. `length` is a Content-Length that is not that of the body."""
    body = {"prompt": f"@{json.dumps(script)}", "max_tokens": max_tokens, "stream": stream}
    return post(json.dumps(body).encode(), length=length)


def outcomes(served: Served) -> dict[str, int]:
    return {str(name): count for name, count in served.service.figures.counters.outcomes.items()}


LONG: dict[str, Any] = {"tokens": 500, "delay": 0.02}
BEHIND = {
    "nothing": b"",
    "requests": HEALTH * 3,
    "a part of a request": HEALTH[:20],
    "a part of a body": post(b"x" * 5000, length=50_000),
    "a body": post(b"x" * 50_000),
    "a body that is too large to wait": post(b"x" * 300_000),
    "more requests than may wait": HEALTH * 40,
    "no HTTP": b"\x16\x03\x01" * 10,
}


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("behind", BEHIND)
@on_uvloop
async def test_a_client_that_leaves_is_noticed_whatever_it_has_sent(behind: str, stream: bool, resets: bool) -> None:
    async with serve() as served:
        async with connect(served) as client:
            await client.send(ask(stream=stream, **LONG) + BEHIND[behind])
            await until(lambda: served.engine.generated > 2)
            if resets:
                client.reset()
        await until(lambda: outcomes(served), 1)
        assert outcomes(served) == {"aborted": 1}
        await served.until_idle()


@pytest.mark.parametrize("resets", [False, True])
@on_uvloop
async def test_a_client_that_leaves_while_it_sends_is_counted_and_logged(
    resets: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "qwen_server.access")
    async with serve() as served:
        async with connect(served) as client:
            await client.send(post(b"x" * 5000, length=50_000))
            await until(lambda: served.app.state.handler.reader.room < 32 * served.service.settings.max_body_bytes)
            if resets:
                client.reset()
        await until(lambda: outcomes(served), 1)
        assert outcomes(served) == {"rejected": 1}
        requests = (await served.metrics())["requests"]
        assert {requests[name] for name in ("total", "failed", "aborted", "refused")} == {0}
    (line,) = [record.__dict__ for record in caplog.records if record.name == "qwen_server.access"]
    assert (line["status"], line["outcome"], line["error"]) == (499, "rejected", "client_left")


@pytest.mark.parametrize("behind", ["a body that is too large to wait", "more requests than may wait", "no HTTP"])
@on_uvloop
async def test_what_is_refused_behind_a_request_does_not_spoil_its_answer(behind: str) -> None:
    async with serve() as served, connect(served) as client:
        await client.send(ask(tokens=5, delay=0.05) + HEALTH + BEHIND[behind])
        status, _, body = await client.answer()
        assert (status, json.loads(body)["usage"]["completion_tokens"]) == (200, 5)
        assert (await client.answer())[0] == 200
        rest = await client.ends()
        assert rest.count(b"HTTP/1.1 200") == rest.count(b"HTTP/1.1")
        assert outcomes(served) == {"successful": 1}


@on_uvloop
async def test_pipelined_bodies_are_answered_in_turn() -> None:
    async with serve() as served, connect(served) as client:
        lengths = (7, 3, 5)
        await client.send(b"".join(ask(tokens=length, delay=0.01) for length in lengths))
        for length in lengths:
            assert json.loads((await client.answer())[2])["usage"]["completion_tokens"] == length
        await client.send(HEALTH)
        assert (await client.answer())[0] == 200


async def resets_at_once(client: Client, _: Served) -> None:
    await client.send(ask(**LONG))
    client.reset()


async def leaves_a_stream(client: Client, _: Served) -> None:
    await client.send(ask(stream=True, **LONG))
    await client.reader.readuntil(b"data:")


async def resets_a_stream(client: Client, _: Served) -> None:
    await client.send(ask(stream=True, **LONG))
    await client.reader.readuntil(b"data:")
    client.reset()


async def closes_its_half(client: Client, _: Served) -> None:
    await client.send(ask(**LONG))
    client.writer.write_eof()
    assert await client.ends() == b""


async def leaves_a_pipeline(client: Client, _: Served) -> None:
    await client.send(ask(**LONG) + ask(**LONG) + HEALTH)
    await asyncio.sleep(0.05)


async def leaves_a_pipeline_of_streams(client: Client, _: Served) -> None:
    await client.send(ask(stream=True, tokens=3) + ask(stream=True, **LONG) + HEALTH)
    await client.reader.readuntil(b"[DONE]")
    await client.reader.readuntil(b"data:")


async def leaves_a_body(client: Client, _: Served) -> None:
    await client.send(ask(tokens=1, length=10_000))


async def leaves_after_its_head(client: Client, _: Served) -> None:
    await client.send(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n")
    await client.reader.readuntil(b"100 Continue\r\n\r\n")


async def speaks_no_json(client: Client, _: Served) -> None:
    await client.send(post(b'{"prompt": '))
    assert (await client.answer())[0] == 400


async def sends_no_chunks(client: Client, _: Served) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    await client.send(head + b'5\r\n{"pro\r\nfive\r\n')
    await client.refused(400)


async def sends_no_http_behind_a_request(client: Client, _: Served) -> None:
    await client.send(ask(stream=True, **LONG) + b"\x16\x03\x01")
    await client.reader.readuntil(b"data:")


async def never_completes_its_body(client: Client, _: Served) -> None:
    await client.send(ask(tokens=1, length=10_000))
    await client.refused(408)


async def never_completes_its_head(client: Client, _: Served) -> None:
    await client.send(HEALTH[:20])
    await client.refused(408)


async def asks_for_too_much(client: Client, _: Served) -> None:
    await client.send(ask(tokens=1, max_tokens=10**9))
    assert (await client.answer())[0] == 400


async def speaks_an_old_version(client: Client, _: Served) -> None:
    await client.send(ask(stream=True, **LONG).replace(b"HTTP/1.1", b"HTTP/1.0"))
    await client.reader.readuntil(b"data:")


async def is_answered(client: Client, _: Served) -> None:
    await client.send(ask(tokens=2))
    assert (await client.answer())[0] == 200


BEHAVIOR: tuple[Callable[[Client, Served], Awaitable[None]], ...] = (
    resets_at_once,
    leaves_a_stream,
    resets_a_stream,
    closes_its_half,
    leaves_a_pipeline,
    leaves_a_pipeline_of_streams,
    leaves_a_body,
    leaves_after_its_head,
    speaks_no_json,
    sends_no_chunks,
    sends_no_http_behind_a_request,
    never_completes_its_body,
    never_completes_its_head,
    asks_for_too_much,
    speaks_an_old_version,
    is_answered,
)


@on_uvloop
async def test_no_crowd_of_bad_clients_makes_the_server_look_sick() -> None:
    settings: dict[str, Any] = {"header_timeout": 2.5, "body_timeout": 2.5, "max_concurrent_requests": 1000}
    async with serve(**settings) as served:

        async def come(behave: Callable[[Client, Served], Awaitable[None]]) -> None:
            async with connect(served) as client:
                await behave(client, served)

        await asyncio.gather(*(come(behave) for behave in BEHAVIOR for _ in range(25)))
        await served.until_idle()
        figures = served.service.figures
        assert not figures.counters.errors
        assert figures.counters.outcomes["failed"] == 0
        assert figures.counters.outcomes["successful"] >= 25
        assert served.service.signals(served.service.clock())["HighErrorRate"] == 0
        assert (await served.metrics())["status"] == "healthy"


@contextlib.asynccontextmanager
async def deaf(served: Served) -> AsyncIterator[Client]:
    """A client with a small receive buffer, which a server fills soon."""
    end = socket.socket()
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    end.setblocking(False)
    address = urlsplit(served.url)
    await asyncio.get_running_loop().sock_connect(end, (address.hostname, address.port))
    reader, writer = await asyncio.open_connection(sock=end, limit=1024)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


@on_uvloop
async def test_clients_that_never_read_meet_their_deadline_and_are_no_failures() -> None:
    async with serve(request_timeout=2.0, max_tokens_limit=5000, send_buffer=4096) as served:
        async with deaf(served) as one, deaf(served) as two, deaf(served) as three:
            await one.send(ask(stream=True, tokens=5000, max_tokens=5000))
            await two.send(ask(stream=True, tokens=5000, max_tokens=5000) + HEALTH)
            await three.send(HEALTH * 2 + ask(stream=True, tokens=5000, max_tokens=5000))
            await until(lambda: sum(outcomes(served).values()) == 3, 20)
        assert outcomes(served) == {"aborted": 3}
        await served.until_idle()


async def test_a_client_that_does_not_read_a_whole_answer_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    """Its answer waits until those before it are read."""
    body = json.dumps({"prompt": "x"}).encode()
    arrived = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, Any]:
        for message in arrived:
            return message
        return await asyncio.Future()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Future()

    async with serve(request_timeout=0.2) as served:
        scope: Scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": [], "query_string": b""}
        with caplog.at_level(logging.WARNING):
            await served.app(scope, receive, send)
        assert outcomes(served) == {"aborted": 1}
        assert not caplog.records

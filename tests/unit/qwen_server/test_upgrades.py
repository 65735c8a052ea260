"""Offers to change the protocol: ignored, with exactly one response to each request."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.unit.qwen_server.raw_client import HEALTH, Client, connect
from tests.unit.qwen_server.serving import Served, on_uvloop, serve

BODY = b'{"messages":[{"role":"user","content":"hi"}]}'
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAA\r\n"
OFFERS = {
    "h2c": H2C,
    "h2c of curl": H2C.replace(b"AAEAAEAAAAIAAAAAAAMAAAAA", b"AAMAAABkAAQCAAAAAAIAAAAA"),
    # The order of the JDK's HttpClient.
    "h2c of Java": (
        b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
        b"Upgrade: h2c\r\nUser-Agent: Java-http-client/17.0.19\r\n"
    ),
    "h2c and keep-alive": H2C.replace(b"Upgrade,", b"keep-alive, upgrade,"),
    "WebSocket": (
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    ),
    "unknown": b"Upgrade: foo/2, bar\r\nConnection: upgrade\r\n",
    "without its token": b"Upgrade: h2c\r\n",
    "none": b"",
}


def head(offer: str, *, framing: bytes = b"Content-Length: %d\r\n" % len(BODY)) -> bytes:
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
        + OFFERS[offer]
        + b"Content-Type: application/json\r\n"
        + framing
        + b"\r\n"
    )


def chunked(body: bytes) -> bytes:
    return b"".join(b"5\r\n%b\r\n" % body[start : start + 5] for start in range(0, len(body), 5)) + b"0\r\n\r\n"


CHUNKED = b"Transfer-Encoding: chunked\r\n"
WAYS = ("at once", "the body later", "the body in two parts", "byte by byte")


async def deliver(client: Client, head: bytes, body: bytes, way: str) -> None:
    if way == "byte by byte":
        for byte in head + body:
            await client.send(bytes([byte]))
            await asyncio.sleep(0.0001)
    elif way == "at once":
        await client.send(head + body)
    else:
        early = 10 if way == "the body in two parts" else 0
        await client.send(head + body[:early])
        await asyncio.sleep(0.2)
        await client.send(body[early:])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("chunks", [False, True])
@on_uvloop
async def test_an_offer_is_ignored(chunks: bool, way: str) -> None:
    async def offers(served: Served, offer: str) -> None:
        async with connect(served) as client:
            if chunks:
                await deliver(client, head(offer, framing=CHUNKED), chunked(BODY), way)
            else:
                await deliver(client, head(offer), BODY, way)
            status, headers, answer = await client.answer()
            assert (status, json.loads(answer)["object"]) == (200, "chat.completion")
            assert not {"upgrade", "connection"} & headers.keys()
            await client.send(HEALTH)
            assert (await client.answer())[0] == 200
            with pytest.raises(TimeoutError):
                await client.ends(0.1)

    async with serve(max_concurrent_requests=20) as served:
        await asyncio.gather(*(offers(served, offer) for offer in OFFERS))
        assert served.service.figures.counters.outcomes == {"successful": len(OFFERS)}


@pytest.mark.parametrize("offer", OFFERS)
@on_uvloop
async def test_requests_behind_an_offer_are_answered_in_turn(offer: str) -> None:
    get = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + OFFERS[offer] + b"\r\n"
    async with serve() as served, connect(served) as client:
        await client.send(get + head(offer) + BODY + get + HEALTH)
        objects = [json.loads((await client.answer())[2]).get("object") for _ in range(4)]
        assert objects == ["list", "chat.completion", "list", None]
        with pytest.raises(TimeoutError):
            await client.ends(0.1)


@on_uvloop
async def test_an_offer_is_bounded_like_any_request() -> None:
    async with serve(header_timeout=0.3, body_timeout=0.3) as served:
        async with connect(served) as client:
            await client.send(head("h2c")[:-2] + b"X-Long: " + b"a" * 100_000)
            await client.refused(431)
        async with connect(served) as client:
            await client.send(head("h2c")[:-2])
            await client.refused(408)
        async with connect(served) as client:
            await client.send(head("h2c") + BODY[:5])
            await client.refused(408)
        async with connect(served) as client:
            await client.send(head("h2c").replace(b"Host: x\r\n", b"") + BODY)
            await client.refused(400)
        async with connect(served) as client:
            await client.send(head("h2c").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + BODY)
            status, headers, _ = await client.answer()
            assert (status, headers["connection"]) == (200, "close")


@pytest.mark.parametrize(
    "data", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\n\r\n"]
)
@on_uvloop
async def test_another_protocol_without_an_offer_is_refused(data: bytes) -> None:
    async with serve() as served, connect(served) as client:
        await client.send(data)
        await client.refused(400)

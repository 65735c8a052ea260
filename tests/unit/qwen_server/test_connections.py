"""Slow, endless or broken clients below HTTP: bounded cost, and well-formed errors."""

import asyncio
import contextlib
import json
import re
import resource
import socket

import pytest

from qwen_server.http.connections import MAX_HEADER_BYTES
from qwen_server.runner import listen
from tests.unit.qwen_server.raw_client import HEALTH, Client, connect, post
from tests.unit.qwen_server.serving import make_settings, serve, until


async def trickle(client: Client, piece: bytes) -> None:
    while True:
        await client.send(piece)
        await asyncio.sleep(0.02)


async def test_headers_that_trickle_are_a_408() -> None:
    async with serve(header_timeout=0.3) as served, connect(served) as client:
        await client.send(b"GET /health HTTP/1.1\r\n")
        task = asyncio.create_task(trickle(client, b"X-More: 1\r\n"))
        assert "0.3 s" in await client.refused(408)
        task.cancel()


async def test_a_connection_that_says_nothing_is_closed_without_a_word() -> None:
    async with serve(header_timeout=0.2) as served:
        async with connect(served) as client:
            assert await client.ends() == b""
        async with connect(served) as client:
            await client.send(b"\r\n")
            assert await client.ends() == b""


async def test_each_request_of_a_connection_has_its_time_for_headers_and_idling_is_none() -> None:
    async with serve(header_timeout=0.3) as served, connect(served) as client:
        for _ in range(2):
            await client.send(HEALTH)
            assert (await client.answer())[0] == 200
            await asyncio.sleep(0.5)
        await client.send(HEALTH[:-2])
        await client.refused(408)


async def test_an_answer_may_take_longer_than_headers_and_bodies() -> None:
    async with serve(header_timeout=0.2, body_timeout=0.2) as served, connect(served) as client:
        await client.send(post(b'{"prompt": "@{\\"tokens\\": 1, \\"first\\": 0.6}"}'))
        assert (await client.answer())[0] == 200
        await client.send(HEALTH)
        assert (await client.answer())[0] == 200


async def test_a_late_pipelined_request_does_not_spoil_the_answer_before_it() -> None:
    async with serve(header_timeout=0.2) as served, connect(served) as client:
        await client.send(post(b'{"prompt": "@{\\"tokens\\": 1, \\"first\\": 0.6}"}') + HEALTH[:20])
        status, _, body = await client.answer()
        assert (status, json.loads(body)["object"]) == (200, "text_completion")
        assert await client.ends() == b""


@pytest.mark.parametrize("connection", ["keep-alive", "close"])
async def test_headers_come_with_the_first_part_of_the_body(connection: str) -> None:
    """Sent in one packet, unless the connection ends with the answer."""
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: {connection}\r\n"
    whole = b'{"prompt": "@{\\"tokens\\": 2}"}'
    stream = b'{"prompt": "@{\\"tokens\\": 3, \\"delay\\": 0.1}", "stream": true}'
    async with serve() as served:
        for body, ending in ((whole, b"}"), (stream, b"0\r\n\r\n")):
            async with connect(served) as client:
                await client.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                first = await client.reader.read(1 << 16)
                assert first.startswith(b"HTTP/1.1 200 OK\r\n")
                if connection == "keep-alive":
                    assert b'"choices":[' in first.partition(b"\r\n\r\n")[2]
                    await client.send(HEALTH)
                    rest = first + await client.reader.readuntil(b'"limits"')
                    assert rest.partition(b"HTTP/1.1 200 OK\r\n")[2].partition(b"HTTP/1.1")[0].endswith(ending)
                else:
                    assert (first + await client.ends()).endswith(ending)


async def test_an_old_connection_ends_with_an_answer_and_a_new_one_is_not_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for the same address: headers such as X-Forwarded-For do not count."""
    monkeypatch.setattr("qwen_server.http.connections.LIFETIME_SECONDS", 0.5)
    request = HEALTH[:-2] + b"X-Forwarded-For: 10.0.0.1\r\n\r\n"
    async with serve() as served:
        async with connect(served) as client:
            await client.send(request)
            assert "connection" not in (await client.answer())[1]
            await asyncio.sleep(0.6)
            await client.send(request)
            status, headers, _ = await client.answer()
            assert (status, headers["connection"]) == (200, "close")
            assert await client.ends() == b""
        async with connect(served) as client:
            await client.send(request)
            assert "connection" not in (await client.answer())[1]


async def test_an_old_connection_finishes_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen_server.http.connections.LIFETIME_SECONDS", 0.2)
    async with serve() as served, connect(served) as client:
        await asyncio.sleep(0.3)
        await client.send(post(b'{"prompt": "@{\\"tokens\\": 5}", "stream": true}'))
        answer = await client.ends()
        assert b"\r\nconnection: close\r\n" in answer
        assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_an_idle_connection_is_closed_after_its_time() -> None:
    async with serve(keep_alive_timeout=1) as served, connect(served) as client:
        await client.send(HEALTH)
        assert (await client.answer())[0] == 200
        with pytest.raises(TimeoutError):
            await client.ends(0.3)
        assert await client.ends() == b""


async def test_a_body_that_trickles_is_a_408_and_takes_no_slot() -> None:
    async with serve(body_timeout=0.3) as served, connect(served) as client:
        await client.send(post(b'{"prompt": "', length=100_000))
        task = asyncio.create_task(trickle(client, b"x"))
        assert "0.3 s" in await client.refused(408)
        task.cancel()
        assert (served.service.admission.peak, served.engine.bodies) == (0, [])
        assert served.app.state.handler.reader.room == 32 * served.service.settings.max_body_bytes


async def test_a_body_that_nobody_waits_for_has_its_time_too() -> None:
    async with serve(body_timeout=0.3) as served:
        async with connect(served) as client:
            await client.send(post(b"x", length=1000, path="/v1/nothing"))
            assert (await client.answer())[0] == 404
            task = asyncio.create_task(trickle(client, b"x"))
            assert await client.ends() == b""
            task.cancel()
        async with connect(served) as client:
            await client.send(post(b"x", length=10, path="/v1/nothing"))
            assert (await client.answer())[0] == 404
            await client.send(b"x" * 9)
            await asyncio.sleep(0.4)
            await client.send(HEALTH)
            assert (await client.answer())[0] == 200


async def test_a_connection_whose_body_came_after_its_answer_does_not_idle_for_ever() -> None:
    async with serve(keep_alive_timeout=1) as served, connect(served) as client:
        await client.send(post(b"x", length=10, path="/v1/nothing"))
        assert (await client.answer())[0] == 404
        await client.send(b"x" * 9)
        assert await client.ends() == b""


@pytest.mark.parametrize("at_once", [True, False])
async def test_headers_above_the_limit_are_a_431(at_once: bool) -> None:
    async with serve() as served:
        for name, value in ((b"X-Long", b"a" * 100_000), (b"X-Long", b"a\r\nX-More: b" * 6000)):
            async with connect(served) as client:
                data = b"GET /health HTTP/1.1\r\n" + name + b": " + value + b"\r\n\r\n"
                for start in range(0, len(data), len(data) if at_once else 20_000):
                    await client.send(data[start : start + (len(data) if at_once else 20_000)])
                    await asyncio.sleep(0)
                assert str(MAX_HEADER_BYTES) in await client.refused(431)
        async with connect(served) as client:
            await client.send(HEALTH[:-2] + b"X-Long: " + b"a" * (MAX_HEADER_BYTES - 200) + b"\r\n\r\n")
            assert (await client.answer())[0] == 200


async def test_an_endless_header_line_eats_no_memory() -> None:
    async with serve() as served, connect(served) as client:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        refused = asyncio.create_task(client.refused(431))  # read before the server resets what comes after
        await client.send(b"GET /health HTTP/1.1\r\nX-Long: ")
        piece = b"a" * (1 << 20)
        for _ in range(100):
            if client.writer.is_closing():
                break
            await client.send(piece)
        await refused
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000  # KiB


async def test_endless_trailers_are_refused() -> None:
    async with serve() as served, connect(served) as client:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        await client.send(head + b"1\r\n{\r\n0\r\n")
        task = asyncio.create_task(trickle(client, b"X-Trailer: " + b"a" * 30_000 + b"\r\n"))
        await client.ends()
        task.cancel()
        await until(lambda: served.app.state.handler.reader.room == 32 * served.service.settings.max_body_bytes)
        assert served.engine.bodies == []


async def test_a_body_in_chunks_of_one_byte_is_read() -> None:
    body = json.dumps({"prompt": "x" * 1000, "user": "y" * 19_000}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with serve() as served, connect(served) as client:
        await client.send(head + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n")
        assert (await client.answer())[0] == 200


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_a_400_in_shape(data: bytes) -> None:
    async with serve() as served, connect(served) as client:
        await client.send(data)
        assert "HTTP" in await client.refused(400)


@pytest.mark.parametrize("begun", [False, True])
async def test_a_body_in_chunks_that_are_none_is_a_400_and_leaves_nothing_behind(begun: bool) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with serve() as served, connect(served) as client:
        room = served.app.state.handler.reader.room
        await client.send(HEALTH)
        assert (await client.answer())[0] == 200
        if begun:
            await client.send(head + b'5\r\n{"pro\r\n')
            await until(lambda: served.app.state.handler.reader.room < room)
            await client.send(b"five\r\n{")
        else:
            await client.send(head + b"five\r\n{")
        assert "HTTP" in await client.refused(400)
        await until(lambda: served.app.state.handler.reader.room == room)
        assert served.engine.bodies == []


async def test_pipelined_requests_are_answered_in_turn_and_bounded() -> None:
    async with serve() as served:
        async with connect(served) as client:
            await client.send(HEALTH * 10)
            assert [(await client.answer())[0] for _ in range(10)] == [200] * 10
        async with connect(served) as client:
            await client.send(post(b'{"prompt": "@{\\"tokens\\": 1, \\"first\\": 0.3}"}') + HEALTH * 2000)
            text = await client.ends()
            assert len(re.findall(rb"HTTP/1.1 200", text)) <= 18


async def test_uploads_share_a_bounded_memory() -> None:
    async with serve(max_body_bytes=1024) as served, contextlib.AsyncExitStack() as stack:
        room = served.app.state.handler.reader.room
        assert room == 32 * 1024
        clients = [await stack.enter_async_context(connect(served)) for _ in range(33)]
        body = b'{"prompt": "x"' + b" " * 1000 + b"}"
        for client in clients[:-1]:
            await client.send(post(body[:-1], length=len(body)))
        await until(lambda: served.app.state.handler.reader.room == room - 32 * (len(body) - 1))
        await clients[-1].send(post(body[:-1], length=len(body)))
        status, headers, refusal = await clients[-1].answer()
        assert status == 503
        assert set(json.loads(refusal)) == {"error", "queue_size", "max_queue_size"}
        assert int(headers["retry-after"]) >= 1
        assert (await served.metrics())["requests"]["total"] == 0
        await clients[0].send(body[-1:])
        assert (await clients[0].answer())[0] == 200
        for client in clients[1:-1]:
            client.writer.close()
        await until(lambda: served.app.state.handler.reader.room == room)


def test_the_kernel_drops_a_client_that_does_not_read() -> None:
    settings = make_settings(host="127.0.0.1", port=0, keep_alive_timeout=42.0)
    with listen(settings) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 42_000

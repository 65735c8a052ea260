"""The load generator against a small server with predefined answers."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from benchmarks.load import Job, LoadGenerator, arrivals

EVENT = b'data: {"choices":[{"delta":{"content":"%s"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}\n\ndata: [DONE]\n\n'
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(answer: Answer, seen: list[bytes] | None = None) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                body = await reader.readexactly(length)
                if seen is not None:
                    seen.append(body)
                await answer(writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def stream(writer: asyncio.StreamWriter) -> None:
    """A role, a pause, two tokens split in the middle of the text, and the usage."""
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunked(EVENT % b""))
    await asyncio.sleep(0.1)
    event = chunked(EVENT % b"a" + EVENT % b"b")
    cut = random.randrange(len(event))
    writer.write(event[:cut])
    await asyncio.sleep(0.02)
    writer.write(event[cut:] + chunked(USAGE) + b"0\r\n\r\n")
    await writer.drain()


async def whole(writer: asyncio.StreamWriter) -> None:
    body = b'{"choices":[{"message":{"content":"ab"}}],"usage":{"completion_tokens":2,"total_tokens":5}}'
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()


async def refuse(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\n{}")
    await writer.drain()


async def job(answer: Answer, **settings: Any) -> Any:
    async with serving(answer) as port:
        return await LoadGenerator(Job(port, "/v1/chat/completions", {"messages": []}, **settings)).run()


async def test_the_first_token_is_no_role_and_tokens_are_those_of_the_usage() -> None:
    result = await job(stream, concurrency=8, requests=40)
    assert (result.sent, result.answered, result.refused, result.unanswered) == (40, 40, 0, 0)
    assert result.tokens == 80
    assert result.events == 40 * 2
    assert 0.09 < result.ttft_p99 <= result.total_p99


async def test_whole_answers_and_refusals() -> None:
    good = await job(whole, requests=3)
    assert (good.answered, good.tokens, good.statuses) == (3, 6, {"200": 3})
    busy = await job(refuse, requests=3)
    assert (busy.answered, busy.refused, busy.statuses) == (0, 3, {"503": 3})
    assert busy.refusal_p99 > 0


async def test_a_closed_loop_ends_with_its_time() -> None:
    result = await job(whole, concurrency=3, seconds=1.0)
    assert 1.0 <= result.seconds < 10
    assert result.answered == result.sent > 3


async def test_an_open_loop_waits_for_nobody_and_cuts_off_the_rest() -> None:
    async def never(_: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    result = await asyncio.wait_for(job(never, rate=100, seconds=0.3, grace=0.1), 10)
    assert result.sent > 10
    assert result.unanswered == result.sent
    assert (result.answered, result.in_time, result.seconds) == (0, 0, 0.3)


async def test_every_request_has_a_number_of_its_own() -> None:
    seen: list[bytes] = []
    async with serving(whole, seen) as port:
        await LoadGenerator(Job(port, "/", {"prompt": "######## text"}, requests=3, seed=2)).run()
    assert sorted(seen) == [b'{"prompt": "%08d text"}' % number for number in (2000001, 2000002, 2000003)]


async def test_a_connection_that_ends_early_is_no_answer() -> None:
    async def cut(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunked(EVENT % b"a"))
        await writer.drain()
        writer.close()

    result = await job(cut, requests=2)
    assert (result.answered, result.unanswered) == (0, 2)


async def test_a_connection_that_the_server_ends_is_not_used_again() -> None:
    """The connection gets no other request, although it closes slightly later."""

    async def last(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 23\r\n\r\n" + b'"completion_tokens":7, ')
        await writer.drain()
        await asyncio.sleep(0.05)
        raise ConnectionError

    result = await job(last, concurrency=2, requests=8)
    assert (result.answered, result.tokens, result.unanswered) == (8, 56, 0)


async def test_arrivals_are_the_texts_of_each_stream_with_their_times() -> None:
    result = await job(stream, requests=3, arrivals=True)
    assert (result.answered, result.tokens) == (3, 6)
    for texts in result.arrivals:
        assert [text for _, text in texts] == ["a", "b"]
        assert texts[0][0] <= texts[1][0]


def test_a_text_arrives_with_its_last_byte() -> None:
    event = (EVENT % "中文".encode()) + EVENT % b"" + EVENT % b"c"
    end = event.index("文".encode()) + 4  # the closing quotation mark
    pieces = [(1.0, event[: end - 1]), (2.0, event[end - 1 : end]), (3.0, event[end:])]
    assert arrivals(pieces) == [(2.0, "中文"), (3.0, "c")]
    assert arrivals([]) == []

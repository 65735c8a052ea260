"""Streams written past the request's task: nothing is lost, reordered, delayed or unbounded."""

from __future__ import annotations

import asyncio
import json
import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from qwen_server.api.streaming import Chunks, EventStream
from qwen_server.engine.base import Delta, Output
from qwen_server.http.asgi import Receive
from qwen_server.http.early_writes import DirectEvents, Outbox, connection_of
from qwen_server.observe.request_figures import RequestFigures, RequestRecord
from tests.unit.qwen_server.serving import Served, events_of, serve, until


def script(**fields: Any) -> str:
    return f"@{json.dumps(fields)}"


async def open_stream(served: Served, text: str, **fields: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A streamed chat over a connection with a small receive buffer."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    client.setblocking(False)
    host, port = served.url.removeprefix("http://").split(":")
    await asyncio.get_running_loop().sock_connect(client, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=client, limit=1 << 14)
    body = json.dumps({"messages": [{"role": "user", "content": text}], "stream": True, **fields}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    return reader, writer


def texts(events: list[Any]) -> str:
    return "".join(choice["delta"]["content"] for event in events for choice in event["choices"])


async def test_the_stream_is_whole_and_counted_as_ever() -> None:
    async with serve() as served:
        answer = await served.chat(
            script(tokens=40), max_tokens=50, stream=True, stream_options={"include_usage": True}
        )
        *events, usage, done = events_of(answer.text)
        assert served.engine.tapped == 38  # neither the first nor the last
        assert texts(events) == "字" * 40
        assert [choice["finish_reason"] for event in events for choice in event["choices"]] == [None] * 39 + ["stop"]
        assert events[0]["choices"][0]["delta"]["role"] == "assistant"
        assert "role" not in events[1]["choices"][0]["delta"]
        assert (usage["usage"]["completion_tokens"], done) == (40, "[DONE]")
        figures = served.service.figures
        assert figures.counters.output_tokens == 40
        assert sum(figures.inter_token.counts) == 39


@pytest.mark.parametrize("fields", [{"n": 2}, {"stream": False}])
async def test_other_answers_come_from_the_iterator(fields: dict[str, Any]) -> None:
    async with serve() as served:
        answer = await served.chat(script(tokens=4), **({"stream": True} | fields))
        assert answer.status_code == 200
        assert served.engine.tapped == 0


async def test_many_streams_at_once_keep_to_themselves() -> None:
    async with serve(max_concurrent_requests=60, max_queue_size=10) as served:
        lengths = range(2, 62)
        asked = [served.chat(script(tokens=length, delay=0.001), max_tokens=100, stream=True) for length in lengths]
        answers = await asyncio.gather(*asked)
        for length, answer in zip(lengths, answers, strict=True):
            assert texts(events_of(answer.text)[:-1]) == "字" * length


async def test_a_slow_reader_holds_the_engine_back() -> None:
    tokens = 20_000
    async with serve(max_tokens_limit=tokens) as served:
        reader, writer = await open_stream(served, script(tokens=tokens), max_tokens=tokens)
        await until(lambda: served.engine.generated)
        seen = -1
        while seen != served.engine.generated:  # until it stands still
            seen = served.engine.generated
            await asyncio.sleep(0.2)
        assert 0 < served.engine.tapped < served.engine.generated < tokens
        answer = await reader.readuntil(b"\r\n\r\n")
        answer = b""
        while b"[DONE]" not in answer[-100:]:
            answer += await reader.read(1 << 16)
        assert answer.count("字".encode()) == tokens
        writer.close()


async def test_a_client_that_goes_ends_the_work() -> None:
    async with serve() as served:
        reader, writer = await open_stream(served, script(tokens=500, delay=0.01), max_tokens=500)
        await until(lambda: served.engine.tapped > 3)
        writer.transport.abort()
        await until(lambda: served.engine.aborted, 1.0)
        await until(lambda: served.service.figures.counters.outcomes["aborted"] == 1)
        assert (await served.chat()).status_code == 200
        del reader


async def test_a_failure_comes_after_all_that_was_written() -> None:
    async with serve() as served:
        answer = await served.chat(script(tokens=9, fail="CUDA out of memory", after=5), stream=True)
        *events, error = events_of(answer.text)
        assert served.engine.tapped == 4
        assert texts(events) == "字" * 5
        assert error["error"]["message"] == "CUDA out of memory"


async def test_the_deadline_cuts_a_directly_written_stream() -> None:
    async with serve(request_timeout=1) as served:
        answer = await served.chat(script(tokens=500, delay=0.02), max_tokens=500, stream=True)
        assert served.engine.tapped > 3
        assert "error" in events_of(answer.text)[-1]
        assert served.engine.aborted == 1


class Wire:
    """The part of uvicorn's request cycle that DirectEvents uses."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closing = False
        self.disconnected = False
        self.flow = SimpleNamespace(write_paused=False)
        self.transport = SimpleNamespace(write=self.sent.append, is_closing=lambda: self.closing)
        self.chunked_encoding: bool | None = True


def direct_events(wire: Any, *, begun: bool = True, outbox: Outbox | None = None) -> DirectEvents:
    chunks = Chunks("chat", "id", 5, "m")
    if begun:
        chunks.of(Output((Delta(0, "a", 1),), finished=False))
    return DirectEvents(
        wire, chunks, RequestRecord("id", 0.0), RequestFigures(), clock=lambda: 1.0, outbox=outbox or Outbox()
    )


def test_it_takes_nothing_that_must_wait() -> None:
    wire = Wire()
    direct = direct_events(wire)
    assert not direct.ready()
    direct.open()
    assert direct.ready()
    for hinder in ("closing", "disconnected"):
        setattr(wire, hinder, True)
        assert not direct.ready()
        setattr(wire, hinder, False)
    wire.flow.write_paused = True
    assert not direct.ready()
    wire.flow.write_paused = False
    assert direct.ready()
    direct.shut()
    assert not direct.ready()


def test_it_waits_for_the_role_and_for_a_chunked_answer() -> None:
    direct = direct_events(Wire(), begun=False)
    direct.open()
    assert not direct.ready()
    wire = Wire()
    wire.chunked_encoding = False
    direct = direct_events(wire)
    direct.open()
    assert not direct.ready()


async def test_a_gain_without_text_is_counted_and_not_sent() -> None:
    wire = Wire()
    direct = direct_events(wire)
    direct.take("", 1)
    await asyncio.sleep(0)
    assert wire.sent == []
    direct.take('"\n字', 1)
    await asyncio.sleep(0)
    (sent,) = wire.sent
    size, _, rest = sent.partition(b"\r\n")
    assert int(size, 16) == len(rest) - 2
    (event,) = events_of(rest.decode())
    assert event["choices"] == [{"index": 0, "delta": {"content": '"\n字'}, "logprobs": None, "finish_reason": None}]


async def test_only_the_servers_own_receive_reveals_its_connection() -> None:
    async def receive() -> dict[str, Any]:
        return {}

    assert connection_of(receive) is None
    cycle = RequestResponseCycle.__new__(RequestResponseCycle)
    assert connection_of(cast("Receive", cycle.receive)) is cycle


async def test_what_comes_in_one_go_is_one_event_of_each_stream() -> None:
    outbox = Outbox()
    wires = [Wire(), Wire()]
    streams = [direct_events(wire, outbox=outbox) for wire in wires]
    for step in "abc":  # the server is behind by three steps
        for number, stream in enumerate(streams):
            stream.take(f"{step}{number}", 1)
    assert [wire.sent for wire in wires] == [[], []]
    await asyncio.sleep(0)
    streams[1].take("d1", 1)
    await asyncio.sleep(0)
    assert [[texts_of(sent) for sent in wire.sent] for wire in wires] == [["a0b0c0"], ["a1b1c1", "d1"]]


async def test_the_task_writes_after_all_text_that_came_before() -> None:
    wire = Wire()
    direct = direct_events(wire)
    direct.open()

    async def send(message: Any) -> None:
        wire.sent.append(message.get("body", b""))

    stream = EventStream(send, list, direct=direct)
    direct.take("a", 1)
    await stream.end(b"the end")
    await asyncio.sleep(0)
    assert [texts_of(wire.sent[0]), *wire.sent[1:]] == ["a", b"", b"the end"]
    direct.take("b", 1)
    direct.shut()
    assert texts_of(wire.sent[-1]) == "b"


async def test_text_for_a_client_that_is_gone_is_dropped() -> None:
    wire = Wire()
    direct = direct_events(wire)
    direct.take("a", 1)
    wire.disconnected = True
    await asyncio.sleep(0)
    assert wire.sent == []


async def test_an_error_of_one_stream_is_its_own() -> None:
    outbox = Outbox()
    broken, well = Wire(), Wire()

    def fail(_: bytes) -> None:
        raise RuntimeError("broken")

    broken.transport.write = fail
    streams = [direct_events(wire, outbox=outbox) for wire in (broken, well)]
    for stream in streams:
        stream.open()
        stream.take("a", 1)
    await asyncio.sleep(0)
    assert len(well.sent) == 1
    assert [stream.ready() for stream in streams] == [False, True]
    with pytest.raises(RuntimeError, match="broken"):
        streams[0].shut()


def texts_of(chunk: bytes) -> str:
    return texts(events_of(chunk.partition(b"\r\n")[2].decode()))

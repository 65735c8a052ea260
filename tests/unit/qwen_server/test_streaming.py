import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_server.api.streaming import Chunks, Collector, EventStream, require_answer
from qwen_server.control.refusals import Refusal
from qwen_server.engine.base import Delta, EngineError, Output
from qwen_server.http.dialects import KEEP_ALIVE
from qwen_server.http.error_bodies import engine_failure, refused, stream_event
from tests.unit.qwen_server.serving import events_of, until


def output(*deltas: Delta) -> Output:
    return Output(deltas, finished=any(delta.finish_reason for delta in deltas))


def choices_of(data: bytes) -> list[dict[str, Any]]:
    return [event["choices"][0] for event in events_of(data.decode())]


@given(st.text(), st.text(min_size=1), st.integers(0, 99))
def test_any_text_arrives_as_it_was(text: str, model: str, index: int) -> None:
    text = text.encode("utf-8", "ignore").decode()
    model = model.encode("utf-8", "ignore").decode()
    data = Chunks("chat", "chatcmpl-1", 5, model).of(output(Delta(index, text, 1, "stop")))
    (line,) = [line for line in data.split(b"\n\n") if line]
    event = json.loads(line.removeprefix(b"data: "))
    assert event["model"] == model
    assert event["choices"] == [
        {
            "index": index,
            "delta": {"role": "assistant", "content": text},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]


def test_the_first_token_is_reported_and_others_only_with_text() -> None:
    chunks = Chunks("chat", "id", 5, "m")
    assert chunks.of(output(Delta(0, "", 0))) == b""
    (choice,) = choices_of(chunks.of(output(Delta(0, "", 1))))
    assert choice["delta"] == {"role": "assistant", "content": ""}
    assert chunks.of(output(Delta(0, "", 1))) == b""
    (choice,) = choices_of(chunks.of(output(Delta(0, "财", 1))))
    assert choice["delta"] == {"content": "财"}


def test_several_choices_go_out_in_one_write() -> None:
    chunks = Chunks("completion", "id", 5, "m")
    assert [choice["index"] for choice in choices_of(chunks.of(output(Delta(0, "a", 1), Delta(1, "b", 1))))] == [0, 1]
    data = chunks.of(output(Delta(0, "a", 1), Delta(1, "", 1), Delta(2, "c", 1)))
    assert [(choice["index"], choice["text"]) for choice in choices_of(data)] == [(0, "a"), (2, "c")]


@pytest.mark.parametrize("reason", ["\n", 151643])
def test_the_matched_stop_is_named_to_clients_that_set_stops(reason: int | str) -> None:
    end = output(Delta(0, "a", 1, "stop", reason))
    for asked in (True, False):
        (choice,) = choices_of(Chunks("chat", "id", 5, "m", stop_reasons=asked).of(end))
        collector = Collector("chat", 1, stop_reasons=asked)
        collector.add(end)
        whole = collector.body("id", 5, "m", {})["choices"][0]
        assert choice.get("stop_reason") == whole.get("stop_reason") == (reason if asked else None)


def test_an_answer_that_never_ended_is_an_error() -> None:
    collector = Collector("chat", 2)
    collector.add(output(Delta(0, "a", 1, "stop")))
    with pytest.raises(EngineError, match="choice 1"):
        collector.body("id", 5, "m", {})


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_ends_that_nobody_asked_for_are_errors(reason: Any) -> None:
    with pytest.raises(EngineError):
        require_answer(output(Delta(0, "", 0, reason)))


def test_the_error_event_has_openais_shape_whatever_the_error_was() -> None:
    for error in (engine_failure("boom"), refused(Refusal("timeout", "服务繁忙", 1, 2, 3))):
        (event,) = events_of(stream_event(error).decode())
        assert set(event["error"]) == {"message", "type", "param", "code"}
        assert event["error"]["message"] == error.text


class Reader:
    """A client that reads only the head of the response until `reads` is set."""

    def __init__(self) -> None:
        self.reads = asyncio.Event()
        self.got: list[bytes] = []

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.body":
            await self.reads.wait()
            self.got.append(message["body"])


async def test_an_error_is_sent_though_the_deadline_met_a_blocked_comment() -> None:
    reader = Reader()
    stream = EventStream(reader.send, list)
    stream._seconds = 0.01
    stream.arm()
    await until(lambda: stream.blocked)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await stream.write(b"data: 1")
    asyncio.get_running_loop().call_later(0.05, reader.reads.set)
    await stream.end(b"data: error")
    stream.close()
    assert reader.got == [KEEP_ALIVE, b"data: error"]


class Direct:
    """Writes past the stream at `wrote_at`."""

    wrote_at = 0.0

    def flush(self) -> None:
        """Nothing is left to write."""


async def test_silence_is_broken_at_any_time_and_only_silence() -> None:
    reader, direct = Reader(), Direct()
    reader.reads.set()
    now = 100.0
    stream = EventStream(reader.send, list, keep_alive=b"event: ping\n\n", direct=direct, clock=lambda: now)
    stream.arm()

    async def pass_to(then: float) -> list[bytes]:
        nonlocal now
        now, reader.got = then, []
        stream.close()  # the timer, which this test plays
        stream._check_silence()
        await asyncio.sleep(0)
        return reader.got

    assert await pass_to(109.9) == []
    assert await pass_to(110.0) == [KEEP_ALIVE]
    assert await pass_to(119.0) == []
    await stream.write(b"data: 1\n\n")  # at 119
    assert await pass_to(128.9) == []
    assert await pass_to(129.0) == [b"event: ping\n\n"]
    direct.wrote_at = 135.0
    assert await pass_to(144.9) == []
    assert await pass_to(145.0) == [b"event: ping\n\n"]
    await stream.write(b"data: half of an event")
    assert await pass_to(155.0) == []
    await stream.write(b"\n\n")
    assert await pass_to(165.0) == [b"event: ping\n\n"]
    reader.got = []
    await stream.end(b"data: 2\n\n")
    assert reader.got == [b"data: 2\n\n"]
    stream.close()


async def test_a_client_that_does_not_read_gets_no_comments() -> None:
    reader = Reader()
    stream = EventStream(reader.send, list)
    stream._seconds = 0.01
    stream.arm()
    await until(lambda: stream.blocked)
    await asyncio.sleep(0.05)
    reader.reads.set()
    await stream.end(b"data: 1\n\n")
    stream.close()
    assert reader.got == [KEEP_ALIVE, b"data: 1\n\n"]


async def test_a_stream_has_not_started_while_its_headers_wait() -> None:
    async def wait(_: MutableMapping[str, Any]) -> None:
        await asyncio.Future()

    stream = EventStream(wait, list)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await stream.write(b"data: 1\n\n")
    assert (stream.started, stream.blocked) == (False, True)


async def test_a_stream_knows_that_its_client_does_not_read() -> None:
    reader = Reader()
    stream = EventStream(reader.send, list)
    stream.arm()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await stream.write(b"data: 1")
    assert stream.blocked
    reader.reads.set()
    await stream.write(b"data: 2")
    assert not stream.blocked
    stream.close()

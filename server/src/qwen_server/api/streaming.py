"""Responses of the fast path: server-sent events and JSON bodies, built by hand.

A chunk is a few joined strings and one raw ASGI write. Only its text goes through a serializer.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from json.encoder import encode_basestring
from typing import Any, Protocol

from qwen_server.engine.base import Delta, EngineError, Kind, Output
from qwen_server.http.asgi import RawHeaders, Send
from qwen_server.http.dialects import KEEP_ALIVE

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE_SECONDS = 10.0

_quote = json.JSONEncoder(ensure_ascii=False).encode
_OBJECTS: Mapping[Kind, tuple[str, str]] = {
    "chat": ("chat.completion", "chat.completion.chunk"),
    "completion": ("text_completion", "text_completion"),
}


def usage_of(prompt_tokens: int, completion_tokens: int, cached_tokens: int | None = None) -> dict[str, Any]:
    """Returns OpenAI's usage object; without details if `cached_tokens` is None."""
    usage: dict[str, Any] = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    return usage if cached_tokens is None else usage | {"prompt_tokens_details": {"cached_tokens": cached_tokens}}


def require_answer(output: Output) -> None:
    """Raises EngineError if the engine aborted a choice by itself."""
    for delta in output.deltas:
        if delta.finish_reason in ("abort", "error"):
            raise EngineError(f"the engine ended the request with {delta.finish_reason!r}")


class Chunks:
    """Turns the engine's output for one request into events. The constant parts are joined once."""

    def __init__(self, kind: Kind, response_id: str, created: int, model: str, *, stop_reasons: bool = False) -> None:
        chunk_object = _OBJECTS[kind][1]
        self._head = (
            f'data: {{"id":{_quote(response_id)},"object":"{chunk_object}","created":{created},"model":{_quote(model)},'
        )
        self._chat = kind == "chat"
        self._open = '"delta":{"content":' if self._chat else '"text":'
        self._first = '"delta":{"role":"assistant","content":' if self._chat else self._open
        self._shut = "}" if self._chat else ""
        self._stop_reasons = stop_reasons
        self._begun: set[int] = set()
        self._plain_head = f'{self._head}"choices":[{{"index":0,{self._open}'
        self._plain_tail = f'{self._shut},"logprobs":null,"finish_reason":null}}]}}\n\n'

    @property
    def begun(self) -> bool:
        """Whether the first choice has its first event, so that the next one may be `plain`."""
        return 0 in self._begun

    def plain(self, text: str) -> bytes:
        """Returns the event for text in the middle of the first choice."""
        return f"{self._plain_head}{encode_basestring(text)}{self._plain_tail}".encode()

    def of(self, output: Output) -> bytes:
        """Returns the events of one output; empty if there is nothing to show yet."""
        if len(output.deltas) == 1:
            return self._event(output.deltas[0]).encode()
        return "".join(map(self._event, output.deltas)).encode()

    def usage(self, usage: Mapping[str, Any]) -> bytes:
        """Returns the event with the token counts. It has no choices."""
        written = json.dumps(usage, separators=(",", ":"))
        return f'{self._head}"choices":[],"usage":{written}}}\n\n'.encode()

    def _event(self, delta: Delta) -> str:
        reason = delta.finish_reason
        opening = self._open
        if delta.index in self._begun:
            if not delta.text and reason is None:
                return ""
        elif delta.tokens or delta.text or reason is not None:
            # Also without text: the first token may be an incomplete character, and the first event
            # marks the TTFT for the client.
            self._begun.add(delta.index)
            opening = self._first
        else:
            return ""
        ending = "null" if reason is None else f'"{reason}"'
        if self._stop_reasons and delta.stop_reason is not None:
            ending += f',"stop_reason":{_quote(delta.stop_reason)}'
        return (
            f'{self._head}"choices":[{{"index":{delta.index},{opening}{_quote(delta.text)}{self._shut},'
            f'"logprobs":null,"finish_reason":{ending}}}]}}\n\n'
        )


class Collector:
    """Collects the engine's output for one request into a response that is not streamed."""

    def __init__(self, kind: Kind, choices: int, *, stop_reasons: bool = False) -> None:
        self._kind = kind
        self._stop_reasons = stop_reasons
        self._texts: list[list[str]] = [[] for _ in range(choices)]
        self._ends: list[Delta | None] = [None] * choices

    def add(self, output: Output) -> None:
        for delta in output.deltas:
            self._texts[delta.index].append(delta.text)
            if delta.finish_reason is not None:
                self._ends[delta.index] = delta

    def body(self, response_id: str, created: int, model: str, usage: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the response. Raises EngineError if a choice has not ended."""
        return {
            "id": response_id,
            "object": _OBJECTS[self._kind][0],
            "created": created,
            "model": model,
            "choices": [self._choice(index) for index in range(len(self._texts))],
            "usage": dict(usage),
        }

    def _choice(self, index: int) -> dict[str, Any]:
        end = self._ends[index]
        if end is None:
            raise EngineError(f"the engine ended without finishing choice {index}")
        text = "".join(self._texts[index])
        choice: dict[str, Any] = {"index": index}
        if self._kind == "chat":
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        choice["logprobs"] = None
        choice["finish_reason"] = end.finish_reason
        if self._stop_reasons and end.stop_reason is not None:
            choice["stop_reason"] = end.stop_reason
        return choice


class DirectWriter(Protocol):
    """Writes events of a stream past it."""

    @property
    def wrote_at(self) -> float:
        """When it last got text, by the clock of the stream; 0.0 if it has not."""

    def flush(self) -> None:
        """Writes what it has not written yet."""


class EventStream:
    """An SSE response that sends its headers with the first event.

    An early failure can therefore still be an HTTP error. From `arm` on, the client gets a sign of
    life after every 10 s without a byte, because proxies cut a silent connection: the headers with
    a comment, later a comment or what `keep_alive` is. `direct` also writes events.
    """

    def __init__(
        self,
        send: Send,
        headers: Callable[[], RawHeaders],
        *,
        keep_alive: bytes = KEEP_ALIVE,
        direct: DirectWriter | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self._headers = headers
        self._keep_alive = keep_alive
        self._direct = direct
        self._clock = clock
        self._seconds = KEEP_ALIVE_SECONDS
        self._wrote_at = 0.0
        self._between_events = True
        self._timer: asyncio.TimerHandle | None = None
        self._comment: asyncio.Task[None] | None = None
        self.begun = False  # whether the first event was written
        self.started = False  # whether the headers were sent
        self.ended = False
        self.blocked = False  # whether the client has not yet read what was last written

    def arm(self) -> None:
        """Starts the timer of the keep-alive comments."""
        self._wrote_at = self._clock()
        self._wait(self._seconds)

    async def write(self, data: bytes) -> None:
        """Sends events, and the headers first if they have not been sent."""
        if self._comment is not None:
            await self._finish_comment()
        self.begun = True
        await self._write(data, more=True)

    async def end(self, data: bytes = b"") -> None:
        """Sends the last events and ends the response."""
        self._stop_timer()
        if self._comment is not None:
            await self._finish_comment()
        self.ended = True
        await self._write(data, more=False)

    def close(self) -> None:
        """Stops the timer and a comment, even if the response has not ended."""
        self._stop_timer()
        if self._comment is not None:
            self._comment.cancel()

    def _wait(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._check_silence)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _check_silence(self) -> None:
        """Sends a comment if nothing was written for long. Nothing else resets the timer."""
        wrote_at = self._wrote_at if self._direct is None else max(self._wrote_at, self._direct.wrote_at)
        left = wrote_at + self._seconds - self._clock()
        # A client that does not read needs no comment, and none may come between parts of an event.
        if left <= 0 and not self.blocked and self._between_events:
            comment = self._keep_alive if self.begun else KEEP_ALIVE
            self._comment = asyncio.get_running_loop().create_task(self._write(comment, more=True))
            # Whoever waits for the comment gets its exception. Nobody may be left to do so.
            self._comment.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._wait(left if left > 0 else self._seconds)

    async def _finish_comment(self) -> None:
        """Waits for a comment that is being written, so that two writes never mix."""
        while (comment := self._comment) is not None:
            # Unlike cancellation, this never interrupts a write, not even if this wait is
            # cancelled.
            await asyncio.wait({comment})
            if self._comment is comment:  # the next one may already have begun
                self._comment = None
            comment.result()

    async def _write(self, data: bytes, *, more: bool) -> None:
        if self._direct is not None:
            self._direct.flush()
        self.blocked = True  # stays True if the wait for the client is cancelled
        if not self.started:
            await self._send({"type": "http.response.start", "status": 200, "headers": self._headers()})
            self.started = True
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
        self.blocked = False
        self._between_events = data.endswith(b"\n\n")
        self._wrote_at = self._clock()

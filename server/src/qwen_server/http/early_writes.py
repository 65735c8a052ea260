"""A patch of uvicorn: stream events go to the socket as soon as the engine produces them.

Waking the request's task and passing every layer between it and the socket costs several times as
much as the event itself. The task still owns the request: it writes the first and the last event,
waits for slow readers and handles errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Protocol

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from qwen_server.config.patches import Patch, absent

if TYPE_CHECKING:
    from collections.abc import Callable

    from qwen_server.http.asgi import Receive
    from qwen_server.observe.request_figures import RequestFigures, RequestRecord


def _missing() -> Iterator[str]:
    yield from absent(RequestResponseCycle, "chunked_encoding", "disconnected", "flow", "receive", "transport")


EARLY_WRITES: Final = Patch(
    name="early-writes",
    gains="about half of the frontend's CPU time for a streamed token (docs/decisions/0006)",
    relies_on="uvicorn's RequestResponseCycle: its `receive` is bound to it, and it writes chunks to `transport`",
    missing=_missing,
)


def connection_of(receive: Receive) -> RequestResponseCycle | None:
    """Returns uvicorn's object behind `receive`; None if `receive` is not uvicorn's own."""
    cycle = getattr(receive, "__self__", None)
    return cycle if isinstance(cycle, RequestResponseCycle) else None


class PlainEvents(Protocol):
    """The events of one stream."""

    @property
    def begun(self) -> bool:
        """Whether the first event is out, so that the next one may be `plain`."""

    def plain(self, text: str) -> bytes:
        """Returns the event for text in the middle of the answer."""


class Outbox:
    """Writes the new text of all streams once the outputs that have come are handled.

    vLLM handles the steps that have come one after the other, without a pause. If there are several
    because the server is behind, the text that a stream gained in them becomes one event: so the
    server catches up.
    """

    __slots__ = ("_streams",)

    def __init__(self) -> None:
        self._streams: list[DirectEvents] = []

    def add(self, stream: DirectEvents) -> None:
        """Writes the stream's text in the next iteration of the running event loop."""
        if not self._streams:
            asyncio.get_running_loop().call_soon(self._write)
        self._streams.append(stream)

    def _write(self) -> None:
        streams, self._streams = self._streams, []
        for stream in streams:
            try:
                stream.flush()
            except Exception as error:  # noqa: BLE001 - one stream's error must not stop the others
                stream.fail(error)


class DirectEvents:
    """The `engine.base.Tap` of a stream with a single choice. It is shut until `open` is called."""

    __slots__ = (
        "_chunks",
        "_clock",
        "_cycle",
        "_error",
        "_figures",
        "_open",
        "_outbox",
        "_record",
        "_text",
        "wrote_at",
    )

    def __init__(
        self,
        cycle: RequestResponseCycle,
        chunks: PlainEvents,
        record: RequestRecord,
        figures: RequestFigures,
        *,
        clock: Callable[[], float],
        outbox: Outbox,
    ) -> None:
        self._cycle = cycle
        self._chunks = chunks
        self._record = record
        self._figures = figures
        self._clock = clock
        self._outbox = outbox
        self._open = False
        self._text = ""  # not written yet
        self._error: Exception | None = None
        self.wrote_at = 0.0  # see DirectWriter

    def open(self) -> None:
        """Allows direct writes. Everything before must have been written."""
        self._open = self._chunks.begun and self._cycle.chunked_encoding is True

    def shut(self) -> None:
        """Ends direct writes: from now on only the task writes. Raises the error of a write."""
        self._open = False
        if self._error is not None:
            raise self._error
        self.flush()

    def fail(self, error: Exception) -> None:
        """Ends direct writes. The task gets the error with the next output."""
        self._open = False
        self._error = error

    def flush(self) -> None:
        """Writes the text that has come, unless the client is gone."""
        text, self._text = self._text, ""
        if text and not self._gone():
            data = self._chunks.plain(text)
            self._cycle.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def ready(self) -> bool:
        """See Tap. False while the client reads slowly or is gone: the task handles both."""
        return self._open and not self._cycle.flow.write_paused and not self._gone()

    def _gone(self) -> bool:
        return self._cycle.disconnected or self._cycle.transport.is_closing()

    def take(self, text: str, tokens: int) -> None:
        """See Tap."""
        now = self._clock()
        self._figures.gain(self._record, tokens, now)
        if text:
            self.wrote_at = now
            if not self._text:
                self._outbox.add(self)
            self._text += text

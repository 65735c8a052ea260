"""One request and its response on a connection of uvicorn, whose client may leave at any time."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

# What `Exchange` relies on. There is no fallback.
RELIED_ON = (
    "chunked_encoding",
    "disconnected",
    "expected_content_length",
    "flow",
    "message_event",
    "receive",
    "response_complete",
    "scope",
    "send",
    "transport",
    "waiting_for_100_continue",
)


class Exchange(RequestResponseCycle):
    """uvicorn's request cycle, with three differences.

    The application is told of a client that left, also by a write to a connection that is closing;
    uvicorn's transport would raise RuntimeError. A client of HTTP/1.0 gets no chunks: the end of
    the connection ends its response. It gets no `100 Continue` either, which it would not know.
    """

    _ends_by_closing = False

    def leave(self) -> None:
        """Tells the application that its client is gone."""
        self.disconnected = True
        self.message_event.set()

    async def send(self, message: Any) -> None:
        """ASGI's `send`. It does nothing once the client is gone, see `disconnected`."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if not self.response_complete and self.transport.is_closing():
            self.leave()
        if self.scope["http_version"] == "1.0":
            self._avoid_chunks(message)
        await super().send(message)

    async def receive(self) -> Any:
        """ASGI's `receive`."""
        if self.scope["http_version"] == "1.0":
            self.waiting_for_100_continue = False
        return await super().receive()

    def _avoid_chunks(self, message: Any) -> None:
        """Has uvicorn write a body of unknown length as it is."""
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message.get("headers", ())}
            self._ends_by_closing = b"content-length" not in names
            if self._ends_by_closing:
                self.chunked_encoding = False
        elif self._ends_by_closing:
            # uvicorn compares what it sends with the length that was declared.
            self.expected_content_length = len(message.get("body", b""))

"""Detects that a client has disconnected, or does not read, while its request is served."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, MutableMapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from qwen_server.http.asgi import Receive, Send
from qwen_server.http.error_bodies import ClientDisconnectedError

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

_log = logging.getLogger(__name__)


class ClientSend:
    """ASGI's `send` to one client. Raises ClientDisconnectedError once the client is gone.

    `connection` is uvicorn's object for the request, if known: uvicorn drops what is sent to a
    client that is gone.
    """

    def __init__(self, send: Send, connection: RequestResponseCycle | None, clock: Callable[[], float]) -> None:
        self._send = send
        self._connection = connection
        self._clock = clock
        self._waited = 0.0
        self._blocked = False
        self.started = False  # whether the headers of a response were sent

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        """Sends a message. Waits while the client does not read."""
        self._blocked = True  # stays True if the wait for the client is cancelled
        begun = self._clock()
        try:
            await self._send(message)
        except OSError as error:
            raise ClientDisconnectedError from error
        finally:
            self._waited += self._clock() - begun
        self._blocked = False
        self.started = True
        if self._connection is not None and self._connection.disconnected:
            raise ClientDisconnectedError

    def held_up(self, seconds: float) -> bool:
        """Whether the client, by reading slowly, took the time of a request that ran `seconds`."""
        return self._blocked or self._waited > seconds / 2

    def abandon(self) -> None:
        """Closes the connection if a response has begun that will not be completed."""
        connection = self._connection
        if connection is not None and connection.response_started and not connection.response_complete:
            connection.disconnected = True
            connection.transport.close()


class UntilDisconnect:
    """A context manager that cancels its block and raises ClientDisconnectedError on disconnect.

    The body of the request must have been read before. It works like `asyncio.timeout`, with
    `receive` instead of the clock.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("UntilDisconnect needs a task")
        self._task = task
        self._cancelling = task.cancelling()
        self._watcher = asyncio.create_task(self._watch(), name="disconnect-watch")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._watcher.cancel()
        if self._gone and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise ClientDisconnectedError from error

    async def _watch(self) -> None:
        try:
            while (await self._receive())["type"] != "http.disconnect":
                continue
        except Exception:  # noqa: BLE001 - a request without a watch would not end with its client
            _log.exception("cannot watch a connection, its request is aborted")
        self._gone = True
        self._task.cancel()

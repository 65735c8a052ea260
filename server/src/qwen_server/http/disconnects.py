"""Detects that a client has disconnected while its request is served."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from qwen_server.http.asgi import Receive
from qwen_server.http.error_bodies import ClientDisconnectedError


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
        while (await self._receive())["type"] != "http.disconnect":
            continue
        self._gone = True
        self._task.cancel()

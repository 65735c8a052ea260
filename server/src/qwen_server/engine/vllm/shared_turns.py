"""Turns that several texts of a request share, because one text is too little work for a turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from qwen_server.engine.base import Turn


class SharedTurns:
    """Hands out turns, each to at most `size` texts, in the order in which they ask."""

    def __init__(self, turn: Turn, size: int) -> None:
        self._turn = turn
        self._size = size
        self._asked = 0
        self._latest = _Shared(turn)

    def next(self) -> AbstractAsyncContextManager[None]:
        """The turn of the next text: entered when it may start, left when it has ended."""
        if self._asked % self._size == 0:
            self._latest = _Shared(self._turn)
        self._asked += 1
        return self._latest.one()


class _Shared:
    """One turn. It begins before the first of its texts and ends after the last one."""

    def __init__(self, turn: Turn) -> None:
        self._make = turn
        self._turn: AbstractAsyncContextManager[None] | None = None
        self._users = 0
        self._changes = asyncio.Lock()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        self._users += 1
        error: BaseException | None = None
        try:
            async with self._changes:
                if self._turn is None:
                    turn = self._make()
                    await turn.__aenter__()
                    self._turn = turn
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._users -= 1
            if self._users == 0 and self._turn is not None:
                turn, self._turn = self._turn, None
                await turn.__aexit__(None if error is None else type(error), error, None)

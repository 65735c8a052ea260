"""Shares of what the operator has only once, so that no namespace takes those of another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Shares:
    """Slots for calls. Each namespace has the same number of them, and waits only for its own."""

    def __init__(self, each: int) -> None:
        self._each = each
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._users: dict[str, int] = {}

    @asynccontextmanager
    async def slot(self, namespace: str) -> AsyncIterator[None]:
        """Holds a slot of a namespace. Waits until one is free."""
        slots = self._slots.setdefault(namespace, asyncio.Semaphore(self._each))
        self._users[namespace] = self._users.get(namespace, 0) + 1
        try:
            async with slots:
                yield
        finally:
            self._users[namespace] -= 1
            if not self._users[namespace]:
                del self._users[namespace], self._slots[namespace]

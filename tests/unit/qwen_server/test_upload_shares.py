"""The memory for bodies in transit: no tenant takes what another one needs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from qwen_server.http.body import BodyReader, UploadsFullError

LIMIT = 1024
Message = dict[str, Any]


def stalled(size: int) -> Callable[[], Awaitable[Message]]:
    """A client that sends so many bytes and then nothing."""
    parts = [{"type": "http.request", "body": b"x" * size, "more_body": True}]

    async def receive() -> Message:
        if parts:
            return parts.pop()
        return await asyncio.Event().wait()  # type: ignore[return-value]

    return receive


def whole(size: int) -> Callable[[], Awaitable[Message]]:
    async def receive() -> Message:
        return {"type": "http.request", "body": b"x" * size, "more_body": False}

    return receive


@pytest.mark.parametrize(("tenant", "most"), [("bob", 16), ("", 32)])
async def test_a_tenant_has_at_most_as_much_as_is_left_for_the_others(tenant: str, most: int) -> None:
    reader = BodyReader(LIMIT, 60.0)
    uploads = [asyncio.create_task(reader.read({}, stalled(LIMIT), tenant)) for _ in range(40)]
    await asyncio.sleep(0)
    refused = [upload for upload in uploads if upload.done()]
    assert len(uploads) - len(refused) == most
    assert all(isinstance(upload.exception(), UploadsFullError) for upload in refused)
    if tenant:
        assert await reader.read({}, whole(LIMIT), "alice") == b"x" * LIMIT
        with pytest.raises(UploadsFullError):
            await reader.read({}, whole(LIMIT), tenant)
    for upload in uploads:
        upload.cancel()
    await asyncio.gather(*uploads, return_exceptions=True)
    assert reader.room == 32 * LIMIT
    assert await reader.read({}, whole(LIMIT), tenant) == b"x" * LIMIT

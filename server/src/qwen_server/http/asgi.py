"""ASGI types, and helpers that send a complete response without a framework."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, Final

from qwen_server.http.error_bodies import HttpError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
RawHeaders = list[tuple[bytes, bytes]]


# The least log probability in the answers of vLLM and of OpenAI.
_LOWEST: Final = -9999.0
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


async def send_json(
    send: Send, status: int, body: Mapping[str, Any], headers: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    """Sends a complete JSON response. JSON has neither infinity nor NaN: see `_finite`."""
    try:
        text = _encode(body)
    except ValueError:
        text = _encode(_finite(body))
    await send_content(send, status, text.encode(), headers)


async def send_content(send: Send, status: int, content: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    """Sends a complete JSON response that is already encoded."""
    fixed = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*fixed, *headers]})
    await send({"type": "http.response.body", "body": content})


async def send_error(send: Send, error: HttpError) -> None:
    """Sends an error as a complete response."""
    headers = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    await send_json(send, error.status, error.body, headers)


def _finite(value: Any) -> Any:
    """The value with the lowest number for an infinite log probability, else null."""
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return _LOWEST if value < 0 else None
    return value

"""Reads what the API server sends, however deep it is nested and however long its lines are.

The limits of the API server are wide: 10,000 levels and some megabytes. Those of Python's JSON
decoder (about 1,000 levels) and of aiohttp's `readline` (128 KiB) are not, and an object that
exceeds them would stop the watch for all others.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, Final

MAX_DEPTH: Final = 200
"""Levels that are kept of an object that the decoder cannot take as a whole."""

_TOKENS: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]')


def read_json(text: bytes) -> Any:
    """The value of a JSON text. What is nested too deep for the decoder is null.

    Raises ValueError if the text is not JSON.
    """
    try:
        return json.loads(text)
    except RecursionError:
        return json.loads(prune(text, MAX_DEPTH))


def prune(text: bytes, depth: int) -> bytes:
    """A JSON text with null in place of each list and object below `depth` levels."""
    kept, level, start = bytearray(), 0, 0
    for token in _TOKENS.finditer(text):
        sign = text[token.start()]
        if sign in b"[{":
            if level == depth:
                kept += text[start : token.start()] + b"null"
            level += 1
        elif sign in b"]}":
            level -= 1
            if level == depth:
                start = token.end()
    return bytes(kept + text[start:])


async def read_body(chunks: AsyncIterable[bytes], most: int | None) -> bytes | None:
    """All bytes of a stream; None if there are more than `most`, of which no more are read."""
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if most is not None and len(body) > most:
            return None
    return bytes(body)


async def lines(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The lines of a stream, of any length, without the empty ones."""
    parts: list[bytes] = []
    async for chunk in chunks:
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            parts.append(end)
            line = b"".join(parts)
            parts = []
            if line:
                yield line
        parts.append(rest)
    if line := b"".join(parts):
        yield line

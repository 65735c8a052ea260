"""Reads and parses the JSON body of a request. A bad body is a 4xx before it costs much."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, NoReturn

from qwen_server.http.asgi import Receive
from qwen_server.http.error_bodies import ClientDisconnectedError, client_error, invalid
from qwen_server.http.structure import check_structure

MAX_DEPTH = 64
_UPLOADS = 32  # bodies of the maximum size that may be in transit at a time
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # some clients for Windows begin their files and texts with it
_CONTAINERS = frozenset({dict, list})
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class UploadsFullError(Exception):
    """The bodies in transit have used up their shared memory."""


class BodyReader:
    """Reads bodies of at most `limit` bytes, each within `seconds`.

    All bodies in transit share a bounded amount of memory. A tenant has at most as much of it as is
    left for the others.
    """

    def __init__(self, limit: int, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        self._room = _UPLOADS * limit
        self._held: Counter[str] = Counter()

    @property
    def room(self) -> int:
        """Bytes that may still be uploaded now."""
        return self._room

    async def read(self, headers: Mapping[str, str], receive: Receive, tenant: str = "") -> bytes:
        """Returns the complete body. Without a `tenant`, the client has no key.

        Raises HttpError (408 too late, 413 too large, 415 compressed or not JSON),
        UploadsFullError and ClientDisconnectedError.
        """
        _check_content_type(headers.get("content-type"))
        _check_coding(headers.get("content-encoding"))
        declared = headers.get("content-length")
        if declared is not None and declared.isdecimal() and int(declared[:20]) > self._limit:
            raise _too_large(self._limit)
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnectedError
                    part = message.get("body", b"")
                    self._room -= len(part)
                    self._held[tenant] += len(part)
                    size += len(part)
                    if size > self._limit:
                        raise _too_large(self._limit)
                    if self._room < (self._held[tenant] if tenant else 0):
                        raise UploadsFullError
                    parts.append(part)
                    more = message.get("more_body", False)
        except TimeoutError:
            text = f"the body did not arrive within {self._seconds:g} s"
            raise client_error(408, text, headers={"Connection": "close"}) from None
        finally:
            self._room += size
            self._held[tenant] -= size
            if not self._held[tenant]:
                del self._held[tenant]
        return b"".join(parts)


def parse_object(raw: bytes) -> dict[str, Any]:
    """Returns the JSON object in `raw`.

    Raises HttpError 400 for anything else, including NaN, infinities, deep nesting and too many
    values.
    """
    check_structure(raw)
    raw = raw.removeprefix(_BYTE_ORDER_MARK)
    if not raw:
        raise invalid("the body is empty; it must be a JSON object")
    try:
        value = _DECODER.decode(raw.decode())
    except UnicodeDecodeError as error:
        raise invalid(f"the body is not valid UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError as error:
        raise invalid(f"the body is not valid JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except ValueError as error:  # a number that has too many digits or is not finite
        raise invalid(f"the body is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise invalid("the body must be a JSON object")
    # A body with few brackets cannot be too deep, so most bodies need no traversal.
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and _depth_exceeds(value, MAX_DEPTH):
        raise _too_deep()
    if _ESCAPED_SURROGATE.search(raw):
        _refuse_lone_surrogates(value)
    return value


def _check_content_type(content_type: str | None) -> None:
    if content_type is None:
        return
    media = content_type.partition(";")[0].strip().lower()
    if media != "application/json" and not (media.startswith("application/") and media.endswith("+json")):
        raise client_error(415, f"the content type must be application/json, not {media[:100]!r}")


def _check_coding(coding: str | None) -> None:
    if coding is not None and coding.strip().lower() not in ("", "identity"):
        raise client_error(
            415,
            f"the body must not be compressed, but its Content-Encoding is {coding[:100]!r}",
            headers={"Accept-Encoding": "identity"},
        )


def _too_large(limit: int) -> Exception:
    return client_error(413, f"the body is larger than the limit of {limit} bytes", code="body_too_large")


def _too_deep() -> Exception:
    return invalid(f"the body is nested more than {MAX_DEPTH} levels deep")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


# One for all bodies: json.loads would make one for each.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


def _depth_exceeds(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        # The parser creates exact types only, and comparing them is faster than isinstance. A body
        # may hold a million values.
        level = [
            child
            for item in level
            for child in (item.values() if type(item) is dict else item)
            if type(child) in _CONTAINERS
        ]
        if not level:
            return False
    return True


def _refuse_lone_surrogates(value: dict[str, Any]) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise invalid("the body contains an unpaired surrogate, which is not a character") from None

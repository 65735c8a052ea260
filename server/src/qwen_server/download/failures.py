"""Why a download fails, in words that tell what to do, and whether waiting may help.

The operator knows the causes by these words (`status/exits.py`).
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

EXIT_TEMPORARY: Final = 75
"""The exit code for what may go away (`EX_TEMPFAIL`).

Other failures exit as a wrong setting does.
"""

_MAX_TEXT: Final = 400
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
# By name, because the hubs' libraries raise the classes of httpx, httpx2, requests and urllib3.
_UNREACHABLE: Final = {
    *("ConnectionError", "NetworkError", "ProxyError", "SSLError"),
    *("Timeout", "TimeoutError", "TransportError", "gaierror"),
}
_OFFLINE: Final = "OfflineModeIsEnabled"
# Too slow, a range that does not exist (the file has changed), too early, too many requests.
_TEMPORARY_STATUS: Final = (408, 416, 425, 429)
_MISTAKES: Final = (
    *(ValueError, TypeError, LookupError, AttributeError, AssertionError, ImportError),
    PermissionError,
)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a download failed.

    cause: one line.
    permanent: whether it fails again until somebody changes something.
    retry_after: after how many seconds the hub wants the next try; None if it does not say.
    """

    cause: str
    permanent: bool
    retry_after: float | None = None


def explain(error: BaseException) -> Failure:
    """The failure that an exception stands for. The most telling one of its causes counts."""
    chain = list(_chain(error))
    text = _one_line(str(error) or type(error).__name__)
    if any(isinstance(item, OSError) and item.errno in _FULL for item in chain) or "No space left" in text:
        return Failure(f"the disk is full (No space left on device): {text}", permanent=True)
    for item in chain:
        status = _status(item)
        if status is not None:
            return _of_status(status, text, _retry_after(item))
    names = {base.__name__ for item in chain for base in type(item).__mro__}
    if _OFFLINE in names:
        return Failure(f"HF_HUB_OFFLINE is set: {text}", permanent=True)
    if names & _UNREACHABLE:
        return Failure(f"the hub cannot be reached: {text}", permanent=False)
    return Failure(text, permanent=isinstance(error, _MISTAKES))


def _of_status(status: int, text: str, retry_after: float | None) -> Failure:
    if status in (401, 403):
        return Failure(f"the hub denies access (HTTP {status}): {text}", permanent=True)
    if status in (404, 410):
        return Failure(f"the hub does not have it (HTTP {status}): {text}", permanent=True)
    if status in _TEMPORARY_STATUS or status >= 500:
        what = "limits the number of requests" if status == 429 else "has an error"
        return Failure(f"the hub {what} (HTTP {status}): {text}", permanent=False, retry_after=retry_after)
    return Failure(f"the hub refuses the request (HTTP {status}): {text}", permanent=True)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and what it was raised for, at most ten."""
    current: BaseException | None = error
    for _ in range(10):
        if current is None:
            return
        yield current
        current = current.__cause__ or current.__context__


def _status(error: BaseException) -> int | None:
    """The HTTP status that an exception of a hub's library carries."""
    for holder in (error, getattr(error, "response", None)):
        status = getattr(holder, "status_code", None)
        if isinstance(status, int) and status >= 400:
            return status
    return None


def _retry_after(error: BaseException) -> float | None:
    """Seconds, from the header Retry-After or, as Hugging Face has it, RateLimit."""
    response: Any = getattr(error, "response", None)
    headers = {} if response is None else response.headers
    told = getattr(error, "retry_after", None) or headers.get("Retry-After")
    if told is None and (reset := re.search(r"\bt=(\d+)", headers.get("RateLimit") or "")):
        told = reset[1]
    try:
        return None if told is None else max(0.0, float(told))
    except ValueError:  # a date
        return None


def _one_line(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _MAX_TEXT else flat[: _MAX_TEXT - 3] + "..."

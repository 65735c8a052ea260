"""Who may call /v1, and how often: API keys from a mounted folder, and a limit on the rate of requests."""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

from qwen_server.errors import HttpError, client_error
from qwen_server.values import RateLimit

_log = logging.getLogger(__name__)
_MAX_CALLERS = 4096


class ApiKeys:
    """The keys of a folder, one a file. Names that begin with a dot are the kubelet's own. Polled for changes."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._seen: object = None
        self._keys: tuple[bytes, ...] = ()
        self.poll()

    def poll(self) -> None:
        """Reads the folder again if one of its files has changed; a failure keeps the earlier keys."""
        if self._folder is None:
            return
        try:
            files = sorted(path for path in self._folder.iterdir() if not path.name.startswith(".") and path.is_file())
            seen = [(path.name, path.stat().st_mtime_ns, path.stat().st_ino) for path in files]
            if seen == self._seen:
                return
            texts = [path.read_text(encoding="utf-8").strip() for path in files]
        except (OSError, UnicodeDecodeError) as error:
            if self._seen != str(error):
                self._seen = str(error)
                _log.error("cannot read the API keys in %s: %s", self._folder, error)
            return
        self._seen = seen
        self._keys = tuple(hashlib.sha256(text.encode()).digest() for text in texts if text)
        _log.info("%d API key(s) read from %s", len(self._keys), self._folder)

    def caller(self, headers: Mapping[str, str]) -> str:
        """An opaque name of the caller. Raises HttpError 401; without a folder everyone is the same caller."""
        if self._folder is None:
            return ""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        # Headers are decoded as Latin-1, whatever their bytes are; keys are UTF-8.
        given = hashlib.sha256(token.strip().encode("latin-1", "replace")).digest()
        # Every key is compared, so that the time tells nothing about which of them is close.
        matches = [hmac.compare_digest(given, key) for key in self._keys]
        if scheme.lower() != "bearer" or not any(matches):
            raise client_error(
                401, "a valid API key is required", code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"}
            )
        return given.hex()


class RateLimiter:
    """A generic cell rate algorithm: a caller may use its whole allowance at once, then regains it evenly."""

    def __init__(self, limit: RateLimit | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._due: OrderedDict[str, float] = OrderedDict()

    def check(self, caller: str) -> None:
        """Counts a request of `caller`. Raises HttpError 429 with Retry-After."""
        if self._limit is None:
            return
        now = self._clock()
        interval = self._limit.seconds / self._limit.requests
        due = max(self._due.pop(caller, now), now)
        wait = due + interval - now - self._limit.seconds
        if wait > 1e-9:
            self._due[caller] = due
            raise self._refusal(wait)
        self._due[caller] = due + interval
        if len(self._due) > _MAX_CALLERS:
            self._due.popitem(last=False)

    def _refusal(self, wait: float) -> HttpError:
        text = self._limit.text if self._limit is not None else ""
        return client_error(
            429,
            f"rate limit of {text} reached",
            code="rate_limit_exceeded",
            headers={"Retry-After": str(max(1, math.ceil(wait)))},
        )

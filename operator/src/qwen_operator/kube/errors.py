"""Errors of calls to the Kubernetes API.

KubeError                 any failed call; `status` is 0 if there was no answer
├── NotFoundError         404
├── ForbiddenError        401, 403
│   ├── NamespaceEndingError  the namespace is being deleted: no object can be created in it
│   └── RefusedError      the cluster refuses the object: a quota, Pod Security or a policy
├── ConflictError         409: another resourceVersion, another UID, or the object exists already
├── GoneError             the resourceVersion to watch from is too old (410), or newer than any
│                         (504: etcd was restored from a backup)
├── InvalidError          400, 413, 422: the object is not valid, or too large; 500: it has a field
│                         that the API server does not know
├── TooManyRequestsError  429: throttled, or a PodDisruptionBudget forbids the eviction
└── TooLargeError         the answer is larger than it may be
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from qwen_operator.kube.reading import read_json

MAX_MESSAGE: Final = 4096
"""Characters of a message. The API server repeats in it what it was sent."""

# What the API server says of an object that is too large for its database, with the status 500.
_TOO_LARGE: Final = "etcdserver: request is too large"
# What it says of a field that it does not know, with the status 500.
_UNDECLARED: Final = "field not declared in schema"
# What the API server says if the operator itself lacks a right.
_LACKS_RIGHT: Final = re.compile(r'User "[^"]{1,300}" cannot [a-z]{1,30} ')


class KubeError(Exception):
    """A failed call. `status` is the HTTP status, or 0 if there was no answer.

    `retry_after` is the number of seconds after which the API server wants the next try, or 0.
    """

    def __init__(self, status: int, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after


class NotFoundError(KubeError):
    """404."""


class ForbiddenError(KubeError):
    """401 or 403."""


class NamespaceEndingError(ForbiddenError):
    """403, because the namespace is being deleted."""


class RefusedError(ForbiddenError):
    """403, because of what the namespace may have, not because of the operator's rights."""


class ConflictError(KubeError):
    """409."""


class GoneError(KubeError):
    """410, or 504 for a resourceVersion that does not exist yet."""


class InvalidError(KubeError):
    """400, 413, 422, or a 500 of that kind. The message names the field that is not valid."""


class TooManyRequestsError(KubeError):
    """429."""


class TooLargeError(KubeError):
    """The answer has more bytes than the caller reads."""


_ERRORS: Final[Mapping[int, type[KubeError]]] = {
    400: InvalidError,
    401: ForbiddenError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    413: InvalidError,
    422: InvalidError,
    429: TooManyRequestsError,
}


def error_of(status: int, body: bytes) -> KubeError:
    """The exception for an answer."""
    kind = _ERRORS.get(status, KubeError)
    retry_after = 0.0
    try:
        answer = read_json(body)
        message = str(answer.get("message") or answer)
        details = answer.get("details") or {}
        retry_after = float(details.get("retryAfterSeconds") or 0)
        reasons = {cause.get("reason") for cause in details.get("causes") or ()}
        if "NamespaceTerminating" in reasons:
            kind = NamespaceEndingError
        elif "ResourceVersionTooLarge" in reasons:
            kind = GoneError
    except (ValueError, AttributeError, TypeError):
        message = body.decode(errors="replace")[:500]
    if status >= 500 and (_TOO_LARGE in message or _UNDECLARED in message):
        kind = InvalidError
    if status == 403 and kind is ForbiddenError and not _LACKS_RIGHT.search(message):
        kind = RefusedError
    return kind(status, _cut(message) or f"HTTP {status}", retry_after)


def worse(one: KubeError | None, other: KubeError | None) -> KubeError | None:
    """The error that matters more: what the cluster refuses is not the fault of the operator."""
    return other if one is None or (isinstance(one, RefusedError) and other is not None) else one


def _cut(message: str) -> str:
    """The message without its middle if it is too long: the end says why."""
    if len(message) <= MAX_MESSAGE:
        return message
    half = (MAX_MESSAGE - 5) // 2
    return f"{message[:half]} ... {message[-half:]}"

"""Errors of calls to the Kubernetes API.

KubeError                 any failed call; `status` is 0 if there was no answer
├── NotFoundError         404
├── ForbiddenError        401, 403
│   └── NamespaceEndingError  the namespace is being deleted: no object can be created in it
├── ConflictError         409: another resourceVersion, another UID, or the object exists already
├── GoneError             410: the resourceVersion to watch from is too old
├── InvalidError          400, 422: the object is not valid; the message names the field
└── TooManyRequestsError  429: throttled, or a PodDisruptionBudget forbids the eviction
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final


class KubeError(Exception):
    """A failed call. `status` is the HTTP status, or 0 if there was no answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class NotFoundError(KubeError):
    """404."""


class ForbiddenError(KubeError):
    """401 or 403."""


class NamespaceEndingError(ForbiddenError):
    """403, because the namespace is being deleted."""


class ConflictError(KubeError):
    """409."""


class GoneError(KubeError):
    """410."""


class InvalidError(KubeError):
    """400 or 422."""


class TooManyRequestsError(KubeError):
    """429."""


_ERRORS: Final[Mapping[int, type[KubeError]]] = {
    400: InvalidError,
    401: ForbiddenError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    422: InvalidError,
    429: TooManyRequestsError,
}


def error_of(status: int, body: bytes) -> KubeError:
    """The exception for an answer."""

    try:
        answer = json.loads(body)
        message = str(answer.get("message") or answer)
        causes = (answer.get("details") or {}).get("causes") or ()
        if any(cause.get("reason") == "NamespaceTerminating" for cause in causes):
            return NamespaceEndingError(status, message)
    except (ValueError, AttributeError):
        message = body.decode(errors="replace")[:500]
    return _ERRORS.get(status, KubeError)(status, message or f"HTTP {status}")

"""What the Kubernetes API answers when it does not do what it was asked.

KubeError                 anything that did not work; `status` is 0 when no answer came
├── NotFoundError         404
├── ForbiddenError        401, 403
│   └── NamespaceEndingError  nothing can be created in a namespace that is being deleted
├── ConflictError         409: another resourceVersion, another UID, or it exists already
├── GoneError             410: the resourceVersion to watch from is too old
├── InvalidError          400, 422: the API server refuses the object; the message names the field
└── TooManyRequestsError  429: throttled, or an eviction that a PodDisruptionBudget holds back
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final


class KubeError(Exception):
    """The API did not do what was asked; `status` is the HTTP status, 0 when there was no answer."""

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
    """The error that an answer stands for."""
    try:
        answer = json.loads(body)
        message = str(answer.get("message") or answer)
        causes = (answer.get("details") or {}).get("causes") or ()
        if any(cause.get("reason") == "NamespaceTerminating" for cause in causes):
            return NamespaceEndingError(status, message)
    except (ValueError, AttributeError):
        message = body.decode(errors="replace")[:500]
    return _ERRORS.get(status, KubeError)(status, message or f"HTTP {status}")

"""What clients are told when something goes wrong: three shapes of JSON, and never a traceback.

The specification's own bodies serve overload (503) and engine failure (500): `{"error": "<text>", ...}`. Everything
that the client can mend is OpenAI's `{"error": {"message", "type", "param", "code"}}`, which SDKs turn into exceptions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from qwen_server.control.refusals import Refusal

INTERNAL_TEXT = "internal server error"

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    500: "internal_error",
    503: "service_unavailable_error",
}
# What the log calls a client's mistake; most are `invalid_request`.
_KINDS = {
    401: "unauthorized",
    404: "not_found",
    408: "late_request",
    413: "too_large",
    429: "rate_limited",
}


class HttpError(Exception):
    """An answer other than success. `kind` names it in the counters; `body` is sent as JSON with `status`."""

    def __init__(
        self, status: int, body: Mapping[str, Any], *, kind: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(kind)
        self.status = status
        self.body = body
        self.kind = kind
        self.headers = dict(headers or {})

    @property
    def text(self) -> str:
        """The message alone, for logs and for the event inside a stream."""
        error = self.body.get("error")
        return str(error.get("message")) if isinstance(error, Mapping) else str(error)


class ClientDisconnectedError(Exception):
    """The client went away before its answer was complete; nobody is left to be told."""


def openai_body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """OpenAI's error object; the type follows from the status."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "internal_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def client_error(
    status: int,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> HttpError:
    """A mistake that the client can mend; `param` names the parameter."""
    kind = _KINDS.get(status, "invalid_request")
    return HttpError(status, openai_body(status, message, param, code), kind=kind, headers=headers)


def invalid(message: str, param: str | None = None, code: str | None = None) -> HttpError:
    """A 400 that names the parameter."""
    return client_error(400, message, param=param, code=code)


def refused(refusal: Refusal) -> HttpError:
    """The specification's 503 with Retry-After, or its 500 where no retry can help."""
    if refusal.retry_after is None:
        return engine_failure(refusal.text)
    body = {"error": refusal.text, "queue_size": refusal.waiting, "max_queue_size": refusal.queue_limit}
    return HttpError(503, body, kind=refusal.kind, headers={"Retry-After": str(refusal.retry_after)})


def engine_failure(text: str) -> HttpError:
    """A 500 in the specification's shape."""
    return HttpError(500, {"error": text or INTERNAL_TEXT}, kind=failure_kind(text))


def failure_kind(text: str) -> str:
    """The name under which `errors.by_type` counts a failure of the engine."""
    lowered = text.lower()
    if "out of memory" in lowered:
        return "out_of_memory"
    if "dead" in lowered or "died" in lowered:
        return "engine_dead"
    return "engine_error"


def stream_event(error: HttpError) -> bytes:
    """The event that ends a stream which has already begun; no `[DONE]` follows."""
    body = error.body if isinstance(error.body.get("error"), Mapping) else openai_body(error.status, error.text)
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"

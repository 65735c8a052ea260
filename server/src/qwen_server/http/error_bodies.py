"""Error responses: three JSON formats, and never a traceback.

Overload (503) and engine failures (500) have the specification's bodies, which are
`{"error": "<text>", ...}`. Errors that the client can fix have OpenAI's body, which SDKs turn into
exceptions: `{"error": {"message", "type", "param", "code"}}`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from qwen_server.control.refusals import Refusal
from qwen_server.engine.base import not_served

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
    501: "invalid_request_error",
    503: "service_unavailable_error",
    505: "invalid_request_error",
}
# The names of client errors in the log. All others are `invalid_request`.
_KINDS = {
    401: "unauthorized",
    404: "not_found",
    408: "late_request",
    413: "too_large",
    429: "rate_limited",
}


class HttpError(Exception):
    """An error response. `body` is sent as JSON with `status`; `kind` names it in the counters."""

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
        """The message alone, for logs and for error events in streams."""
        error = self.body.get("error")
        return str(error.get("message")) if isinstance(error, Mapping) else str(error)

    @property
    def param(self) -> str | None:
        """The place of the parameter that is wrong, if the error names one."""
        error = self.body.get("error")
        return error.get("param") if isinstance(error, Mapping) else None


class ClientDisconnectedError(Exception):
    """The client disconnected before its answer was complete."""


def openai_body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """Returns OpenAI's error object. The type follows from the status."""
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
    """Returns an error that the client can fix. `param` names the parameter."""
    kind = _KINDS.get(status, "invalid_request")
    return HttpError(status, openai_body(status, message, param, code), kind=kind, headers=headers)


def invalid(message: str, param: str | None = None, code: str | None = None) -> HttpError:
    """Returns a 400 that names the parameter."""
    return client_error(400, message, param=param, code=code)


def model_not_found(name: str, why: str | None = None) -> HttpError:
    """Returns a 404 for a model that is not served; `why` if it is an adapter that should be."""
    return client_error(404, not_served(name, why), param="model", code="model_not_found")


def refused(refusal: Refusal) -> HttpError:
    """Returns the specification's 503 with Retry-After, or its 500 if no retry can help."""
    if refusal.retry_after is None:
        return engine_failure(refusal.text)
    body = {"error": refusal.text, "queue_size": refusal.waiting, "max_queue_size": refusal.queue_limit}
    return HttpError(503, body, kind=refusal.kind, headers={"Retry-After": str(refusal.retry_after)})


def engine_failure(text: str) -> HttpError:
    """Returns a 500 in the specification's format."""
    return HttpError(500, {"error": text or INTERNAL_TEXT}, kind=failure_kind(text))


def interrupted(text: str) -> HttpError:
    """Returns the error of an answer that a restart of the engine has ended."""
    body = openai_body(503, text, code="engine_restarted")
    return HttpError(503, body, kind="engine_restarted", headers={"Retry-After": "1"})


def failure_kind(text: str) -> str:
    """Returns the name under which `errors.by_type` counts an engine failure."""
    lowered = text.lower()
    if "out of memory" in lowered:
        return "out_of_memory"
    if "dead" in lowered or "died" in lowered:
        return "engine_dead"
    return "engine_error"


def stream_event(error: HttpError) -> bytes:
    """Returns the error event that ends a stream. No `[DONE]` follows."""
    body = error.body if isinstance(error.body.get("error"), Mapping) else openai_body(error.status, error.text)
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"

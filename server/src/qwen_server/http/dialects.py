"""How the APIs differ: ID prefixes, the end of a stream, and the format of errors.

Overload (503) and engine failures (500) have the specification's body in every API, because SDKs
look at the status.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from qwen_server.engine.base import Kind
from qwen_server.http.error_bodies import HttpError, stream_event

KEEP_ALIVE = b": keep-alive\n\n"  # a comment: every parser of server-sent events skips it
_ANTHROPIC_PATH = "/v1/messages"
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
}
# An error event in a stream has no status, so its type says what happened.
_ANTHROPIC_FAILURES = {500: "api_error", 503: "overloaded_error"}


@dataclass(frozen=True, slots=True)
class Dialect:
    """One API. `ending` is how the last event of a complete stream begins, or may begin.

    `whole` formats an error that is a response of its own. `event` formats an error that ends a
    stream; its second argument is the number of events sent before. `keep_alive` is what a stream
    sends between two events if it has nothing to say.
    """

    id_prefix: str
    ending: str | tuple[str, ...]
    whole: Callable[[HttpError], HttpError] = lambda error: error
    event: Callable[[HttpError, int], bytes] = lambda error, _: stream_event(error)
    keep_alive: bytes = KEEP_ALIVE


def _details(error: HttpError) -> tuple[str, str | None, str | None]:
    """Returns the message, the parameter and the code of an error."""
    inner = error.body.get("error")
    if not isinstance(inner, Mapping):
        return error.text, None, None
    return error.text, inner.get("param"), inner.get("code")


def _anthropic_body(error: HttpError, types: Mapping[int, str]) -> dict[str, Any]:
    message, param, _ = _details(error)
    if param is not None and param.partition("[")[0].partition(".")[0] not in message:
        message = f"{param}: {message}"  # the format has no field for the parameter
    kind = types.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}}


def _anthropic(error: HttpError) -> HttpError:
    if error.status >= 500:
        return error
    body = _anthropic_body(error, _ANTHROPIC_TYPES)
    return HttpError(error.status, body, kind=error.kind, headers=error.headers)


def _anthropic_event(error: HttpError, _: int) -> bytes:
    return _event("error", _anthropic_body(error, _ANTHROPIC_TYPES | _ANTHROPIC_FAILURES))


def _responses_event(error: HttpError, events: int) -> bytes:
    message, param, code = _details(error)
    body = {"type": "error", "code": code or error.kind, "message": message, "param": param, "sequence_number": events}
    return _event("error", body)


def _event(name: str, body: Mapping[str, Any]) -> bytes:
    return f"event: {name}\ndata: ".encode() + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


_DONE = "data: [DONE]"
# Anthropic's API has an event for it, which its SDKs leave out.
_PING = _event("ping", {"type": "ping"})
_ANTHROPIC = Dialect("msg_", "event: message_stop", _anthropic, _anthropic_event, _PING)
DIALECTS: Mapping[Kind, Dialect] = {
    "chat": Dialect("chatcmpl-", _DONE),
    "completion": Dialect("cmpl-", _DONE),
    "responses": Dialect("resp_", ("event: response.completed", "event: response.incomplete"), event=_responses_event),
    "messages": _ANTHROPIC,
    "embeddings": Dialect("embd-", _DONE),
    "pooling": Dialect("pooling-", _DONE),
    "score": Dialect("score-", _DONE),
    "rerank": Dialect("score-", _DONE),
    "classify": Dialect("classify-", _DONE),
    "count_tokens": _ANTHROPIC,
    "tokenize": Dialect("tokenize-", _DONE),
    "detokenize": Dialect("tokenize-", _DONE),
}


def worded_for(path: str, error: HttpError) -> HttpError:
    """Returns the error in the format of the API that `path` belongs to.

    For errors that occur before the kind of the request is known.
    """
    if path == _ANTHROPIC_PATH or path.startswith(_ANTHROPIC_PATH + "/"):
        return _anthropic(error)
    return error

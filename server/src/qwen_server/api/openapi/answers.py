"""Building blocks with which the routes describe their requests and responses.

These are references to schemas, the specification's examples, and headers. A route names its status
codes; each error response is described once, here.
"""

from __future__ import annotations

from typing import Any

from qwen_server.http.dialects import worded_for
from qwen_server.http.error_bodies import HttpError

Answers = dict[int | str, dict[str, Any]]

_RETRY_AFTER = {
    "Retry-After": {
        "description": "seconds to wait before a retry",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    }
}
_CHALLENGE = {"WWW-Authenticate": {"required": True, "schema": {"type": "string", "const": "Bearer"}}}
_TIMING = {
    "Server-Timing": {
        "description": "milliseconds in the queue, from there to the first token, and from there to the end",
        "schema": {"type": "string"},
    }
}


def reference(schema: str) -> dict[str, str]:
    """Returns a reference to a model in `schemas`, by its class name."""
    return {"$ref": f"#/components/schemas/{schema}"}


def succeeds(answer: dict[str, Any]) -> Answers:
    """Returns `answer` as the response with status 200."""
    return {200: answer}


def json_answer(description: str, schema: str, example: str) -> dict[str, Any]:
    """Returns a JSON response. `example` is a name in `examples.EXAMPLES`."""
    return {"description": description, "content": {"application/json": _media(reference(schema), example)}}


def text_answer(description: str, media: str, example: str) -> dict[str, Any]:
    """Returns a text response. `example` is a name in `examples.EXAMPLES`."""
    return {"description": description, "content": {media: _media({"type": "string"}, example)}}


def generated(
    description: str, *, body: str, event: str, stream: str, typed: bool = False, anthropic: bool = False
) -> Answers:
    """Returns all responses of a path that generates text.

    Success is a `body`, or a stream whose events contain `event`. `stream` is the name of the
    stream's example; the body's example has the name of its schema. `typed` events have names, and
    an error is one of them. Otherwise a stream ends with `[DONE]`.
    """
    answers = computed(description, body, anthropic=anthropic)
    answers[200]["content"]["text/event-stream"] = _media(_typed_event(event) if typed else _event(event), stream)
    return answers


def computed(description: str, body: str, *, anthropic: bool = False) -> Answers:
    """Returns all responses of a path that goes through admission.

    With `anthropic`, client errors have the format of Anthropic's API.
    """
    answer = json_answer(description, body, body)
    answer["headers"] = _TIMING
    return {200: answer} | errors(400, 401, 404, 408, 413, 415, 429, 500, 503, anthropic=anthropic)


def request_body(schema: str, *, example: str) -> dict[str, Any]:
    """Returns the `openapi_extra` of a route that reads its JSON body itself."""
    return {"requestBody": {"required": True, "content": {"application/json": _media(reference(schema), example)}}}


def errors(*statuses: int, anthropic: bool = False) -> Answers:
    """Returns the error responses by status, as references to `ERROR_ANSWERS`."""
    return {status: {"$ref": f"#/components/responses/{_name(status, anthropic)}"} for status in statuses}


def _name(status: int, anthropic: bool) -> str:
    return "Anthropic" + _NAMES[status] if anthropic and status < 500 else _NAMES[status]


def _event(schema: str) -> dict[str, Any]:
    """Returns the schema of the events in a stream.

    OpenAI's own document describes `text/event-stream` this way, and most tools understand it.
    """
    content = {"anyOf": [reference(schema), reference("ClientError")]}
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": content}
    return {
        "type": "object",
        "description": "an event of the stream; the last one is [DONE] or an error",
        "required": ["data"],
        "properties": {"data": {"anyOf": [{"const": "[DONE]"}, data]}},
    }


def _typed_event(schema: str) -> dict[str, Any]:
    """Returns the schema of events that have a name, which their data repeats as `type`."""
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": reference(schema)}
    return {
        "type": "object",
        "description": "an event of the stream; an event named error is the last one",
        "required": ["event", "data"],
        "properties": {"event": {"type": "string"}, "data": data},
    }


def _media(schema: dict[str, Any], example: str) -> dict[str, Any]:
    # A reference, because FastAPI would drop the nulls of an inline example.
    return {"schema": schema, "examples": {example: {"$ref": f"#/components/examples/{example}"}}}


def _mistake(description: str, message: str, kind: str, param: str | None = None, code: str | None = None) -> Any:
    example = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    content = {"application/json": {"schema": reference("ClientError"), "example": example}}
    return {"description": description, "content": content}


_NAMES = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    408: "RequestTimeout",
    413: "ContentTooLarge",
    415: "UnsupportedMediaType",
    429: "TooManyRequests",
    500: "InternalServerError",
    503: "ServiceUnavailable",
}
_INVALID = "invalid_request_error"
_ERRORS: Answers = {
    400: _mistake(
        "参数错误 (invalid parameter, named in the error)",
        "max_tokens must be between 1 and 512, not 513 (set by --max-tokens-limit)",
        _INVALID,
        param="max_tokens",
    ),
    401: _mistake(
        "缺少或错误的 API 密钥 (missing or invalid API key)",
        "a valid API key is required",
        "authentication_error",
        code="invalid_api_key",
    )
    | {"headers": _CHALLENGE},
    403: _mistake(
        "不是管理员的密钥 (not the key of an administrator)",
        "this path requires the key of an administrator",
        "permission_error",
        code="admin_key_required",
    ),
    404: _mistake(
        "模型不存在 (unknown model)",
        "The model `gpt-4o` does not exist.",
        "not_found_error",
        param="model",
        code="model_not_found",
    ),
    408: _mistake("请求体超时 (the body arrived too late)", "the body did not arrive within 30 s", "timeout_error"),
    413: _mistake(
        "请求体过大 (the body is too large)",
        "the body is larger than the limit of 4194304 bytes",
        _INVALID,
        code="body_too_large",
    ),
    415: _mistake(
        "请求体不是 JSON (the body is not JSON)",
        "the content type must be application/json, not 'text/plain'",
        _INVALID,
    ),
    429: _mistake(
        "超出速率限制 (rate limit exceeded)",
        "rate limit of 600/minute reached",
        "rate_limit_error",
        code="rate_limit_exceeded",
    )
    | {"headers": _RETRY_AFTER},
    500: json_answer("内部错误 (engine failure)", "EngineFailure", "OutOfMemory"),
    503: json_answer(
        "队列已满 (the queue is full; also while starting, draining or unresponsive, and after a timeout)",
        "Unavailable",
        "QueueFull",
    )
    | {"headers": _RETRY_AFTER},
}


def _in_anthropics_words(status: int, answer: dict[str, Any]) -> dict[str, Any]:
    """Returns the same error in the format of Anthropic's paths."""
    openai = HttpError(status, answer["content"]["application/json"]["example"], kind="invalid_request")
    example = dict(worded_for("/v1/messages", openai).body)
    return answer | {"content": {"application/json": {"schema": reference("AnthropicError"), "example": example}}}


ERROR_ANSWERS = {_NAMES[int(status)]: answer for status, answer in _ERRORS.items()} | {
    _name(int(status), anthropic=True): _in_anthropics_words(int(status), answer)
    for status, answer in _ERRORS.items()
    if int(status) < 500
}

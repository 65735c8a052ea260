"""What the routes say of their requests and answers: references to the schemas, the specification's examples, headers.

A route names its statuses; what an error looks like is known here once.
"""

from __future__ import annotations

from typing import Any

from qwen_server.http.dialects import worded_for
from qwen_server.http.error_bodies import HttpError

Answers = dict[int | str, dict[str, Any]]

_RETRY_AFTER = {
    "Retry-After": {
        "description": "seconds after which a retry is sensible",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    }
}
_CHALLENGE = {"WWW-Authenticate": {"required": True, "schema": {"type": "string", "const": "Bearer"}}}
_TIMING = {
    "Server-Timing": {
        "description": "milliseconds in the queue, until the first token, and from there to the end",
        "schema": {"type": "string"},
    }
}


def reference(schema: str) -> dict[str, str]:
    """A reference to one of the models in `schemas`, by its class's name."""
    return {"$ref": f"#/components/schemas/{schema}"}


def succeeds(answer: dict[str, Any]) -> Answers:
    """An answer as the one of status 200."""
    return {200: answer}


def json_answer(description: str, schema: str, example: str) -> dict[str, Any]:
    """An answer in JSON; `example` is a name in `examples.EXAMPLES`."""
    return {"description": description, "content": {"application/json": _media(reference(schema), example)}}


def text_answer(description: str, media: str, example: str) -> dict[str, Any]:
    """An answer in text; `example` as above."""
    return {"description": description, "content": {media: _media({"type": "string"}, example)}}


def generated(
    description: str, *, body: str, event: str, stream: str, typed: bool = False, anthropic: bool = False
) -> Answers:
    """All answers of a generating path; success is one `body`, or a stream whose events carry `event`.

    `stream` is the example of a stream; that of a body has the schema's name. `typed` events have names, and errors
    among them; else a stream ends with `[DONE]`.
    """
    answers = computed(description, body, anthropic=anthropic)
    answers[200]["content"]["text/event-stream"] = _media(_typed_event(event) if typed else _event(event), stream)
    return answers


def computed(description: str, body: str, *, anthropic: bool = False) -> Answers:
    """All answers of a path that takes its turn in the queue; `anthropic` words the client's errors as its API does."""
    answer = json_answer(description, body, body)
    answer["headers"] = _TIMING
    return {200: answer} | errors(400, 401, 404, 408, 413, 415, 429, 500, 503, anthropic=anthropic)


def request_body(schema: str, *, example: str) -> dict[str, Any]:
    """The `openapi_extra` of a route that reads its JSON body itself."""
    return {"requestBody": {"required": True, "content": {"application/json": _media(reference(schema), example)}}}


def errors(*statuses: int, anthropic: bool = False) -> Answers:
    """The answers other than success, by their status, as references to `ERROR_ANSWERS`."""
    return {status: {"$ref": f"#/components/responses/{_name(status, anthropic)}"} for status in statuses}


def _name(status: int, anthropic: bool) -> str:
    return "Anthropic" + _NAMES[status] if anthropic and status < 500 else _NAMES[status]


def _event(schema: str) -> dict[str, Any]:
    """The schema of each event of a stream, as OpenAI's own description and most tools read `text/event-stream`."""
    content = {"anyOf": [reference(schema), reference("ClientError")]}
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": content}
    return {
        "type": "object",
        "description": "each event of the stream; the last is [DONE], or an error after which nothing follows",
        "required": ["data"],
        "properties": {"data": {"anyOf": [{"const": "[DONE]"}, data]}},
    }


def _typed_event(schema: str) -> dict[str, Any]:
    """The same for events with a name, which their data repeats as their type."""
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": reference(schema)}
    return {
        "type": "object",
        "description": "each event of the stream; one called error is the last",
        "required": ["event", "data"],
        "properties": {"event": {"type": "string"}, "data": data},
    }


def _media(schema: dict[str, Any], example: str) -> dict[str, Any]:
    # By reference: FastAPI would drop the nulls of an example in its place.
    return {"schema": schema, "examples": {example: {"$ref": f"#/components/examples/{example}"}}}


def _mistake(description: str, message: str, kind: str, param: str | None = None, code: str | None = None) -> Any:
    example = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    content = {"application/json": {"schema": reference("ClientError"), "example": example}}
    return {"description": description, "content": content}


_NAMES = {
    400: "BadRequest",
    401: "Unauthorized",
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
        "参数错误 (a parameter is wrong; the error names it)",
        "max_tokens must be between 1 and 512, not 513",
        _INVALID,
        param="max_tokens",
    ),
    401: _mistake(
        "缺少或错误的 API 密钥 (the API key is missing or wrong)",
        "a valid API key is required",
        "authentication_error",
        code="invalid_api_key",
    )
    | {"headers": _CHALLENGE},
    404: _mistake(
        "模型不存在 (there is no such model)",
        "The model `gpt-4o` does not exist.",
        "not_found_error",
        param="model",
        code="model_not_found",
    ),
    408: _mistake("请求体超时 (the body took too long)", "the body did not arrive within 30 s", "timeout_error"),
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
        "超出速率限制 (above the rate limit)",
        "rate limit of 600/minute reached",
        "rate_limit_error",
        code="rate_limit_exceeded",
    )
    | {"headers": _RETRY_AFTER},
    500: json_answer("内部错误 (the engine failed)", "EngineFailure", "OutOfMemory"),
    503: json_answer(
        "队列已满 (the queue is full; also while starting, stopping, unresponsive, or when the time is over)",
        "Unavailable",
        "QueueFull",
    )
    | {"headers": _RETRY_AFTER},
}


def _in_anthropics_words(status: int, answer: dict[str, Any]) -> dict[str, Any]:
    """The same mistake as the server words it on Anthropic's paths."""
    openai = HttpError(status, answer["content"]["application/json"]["example"], kind="invalid_request")
    example = dict(worded_for("/v1/messages", openai).body)
    return answer | {"content": {"application/json": {"schema": reference("AnthropicError"), "example": example}}}


ERROR_ANSWERS = {_NAMES[int(status)]: answer for status, answer in _ERRORS.items()} | {
    _name(int(status), anthropic=True): _in_anthropics_words(int(status), answer)
    for status, answer in _ERRORS.items()
    if int(status) < 500
}

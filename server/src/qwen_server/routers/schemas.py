"""The OpenAPI description of the generation requests, with the specification's examples."""

from __future__ import annotations

from typing import Any

_COMMON: dict[str, Any] = {
    "model": {"type": "string", "description": "the served model; may be left out"},
    "max_tokens": {"type": "integer", "minimum": 1, "description": "100 unless given; at most 512 by default"},
    "temperature": {"type": "number", "minimum": 0, "description": "0.7 unless given; at most 1 by default"},
    "n": {"type": "integer", "minimum": 1},
    "seed": {"type": "integer"},
    "stop": {
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "maxItems": 4}],
        "description": "strings that end the answer",
    },
    "stream": {"type": "boolean", "description": "server-sent events instead of one body"},
    "stream_options": {"type": "object", "properties": {"include_usage": {"type": "boolean"}}},
}


def _request(required: str, properties: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "required": [required], "properties": properties | _COMMON}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}}


CHAT = _request(
    "messages",
    {
        "messages": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["role"],
                "properties": {"role": {"type": "string"}, "content": {"type": "string"}},
            },
        }
    },
    {
        "messages": [{"role": "user", "content": "请分类这条新闻：央行宣布降息25个基点"}],
        "max_tokens": 100,
        "temperature": 0.3,
    },
)
COMPLETION = _request(
    "prompt",
    {
        "prompt": {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}},
                {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
            ]
        }
    },
    {"prompt": "请分类：苹果发布新款iPhone\n类别：", "max_tokens": 50, "temperature": 0.3},
)

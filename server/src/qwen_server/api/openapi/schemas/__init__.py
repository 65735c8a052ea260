"""Every body of the API as a pydantic model, for its schema alone. A new one is entered in `_MODELS`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema

from qwen_server.api.openapi.schemas import (
    errors,
    generation,
    health,
    messages,
    metrics,
    models,
    responses,
    tokenization,
)

_MODELS: Final[Mapping[JsonSchemaMode, tuple[type[BaseModel], ...]]] = {
    "validation": (
        generation.ChatRequest,
        generation.CompletionRequest,
        responses.ResponsesRequest,
        messages.MessagesRequest,
        messages.CountTokensRequest,
        tokenization.TokenizeRequest,
        tokenization.DetokenizeRequest,
    ),
    "serialization": (
        generation.ChatAnswer,
        generation.ChatChunk,
        generation.CompletionAnswer,
        generation.CompletionChunk,
        responses.ResponsesAnswer,
        responses.ResponsesEvent,
        messages.MessagesAnswer,
        messages.MessagesEvent,
        messages.CountTokensAnswer,
        tokenization.TokenizeAnswer,
        tokenization.DetokenizeAnswer,
        models.Model,
        models.ModelList,
        health.Health,
        health.Probe,
        metrics.Metrics,
        errors.ClientError,
        errors.Unavailable,
        errors.EngineFailure,
        messages.AnthropicError,
    ),
}


class _Untitled(GenerateJsonSchema):
    """Leaves out the titles, which only repeat the names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schemas() -> dict[str, dict[str, Any]]:
    """The schemas of all models and of what they are made of, by the classes' names."""
    inputs = [(model, mode) for mode, models in _MODELS.items() for model in models]
    _, described = models_json_schema(inputs, ref_template="#/components/schemas/{model}", schema_generator=_Untitled)
    found: dict[str, dict[str, Any]] = described["$defs"]
    for schema in found.values():
        schema.pop("title", None)
        for field in schema.get("properties", {}).values():
            if field.get("default", ...) is None:
                del field["default"]
    return dict(sorted(found.items()))

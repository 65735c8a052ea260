"""The schemas of every body: requests as they are declared and checked, and answers.

A new answer is entered here.
"""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import core_schema

from qwen_server.api.bodies.checking import DECLARATIONS
from qwen_server.api.bodies.limits import Limits
from qwen_server.api.openapi.schemas import (
    adapters,
    errors,
    generation,
    health,
    messages,
    metrics,
    models,
    responses,
    tokenization,
)

_ANSWERS: Final[tuple[type[BaseModel], ...]] = (
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
)

# Requests of administrators, which the limits do not concern.
_FORMS: Final[tuple[type[BaseModel], ...]] = (adapters.LoadAdapterRequest, adapters.UnloadAdapterRequest)


class _Generator(GenerateJsonSchema):
    """Leaves out the titles, which only repeat the names, and knows no member of a union better
    than another.
    """

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        members = [self.generate_inner(member) for member in schema["choices"].values()]
        return {"anyOf": members}


def schemas(limits: Limits) -> dict[str, dict[str, Any]]:
    """The schemas of all bodies and of what they are made of, by the classes' names, with `limits`
    filled in.
    """
    inputs: list[tuple[str, JsonSchemaMode, TypeAdapter[Any]]] = []
    inputs += [(name, "validation", TypeAdapter(declaration)) for name, declaration in DECLARATIONS.items()]
    inputs += [(form.__name__, "validation", TypeAdapter(form)) for form in _FORMS]
    inputs += [(answer.__name__, "serialization", TypeAdapter(answer)) for answer in _ANSWERS]
    of_inputs, described = TypeAdapter.json_schemas(
        inputs, ref_template="#/components/schemas/{model}", schema_generator=_Generator
    )
    found: dict[str, dict[str, Any]] = described["$defs"]
    for (name, _), schema in of_inputs.items():
        found.setdefault(name, schema)  # a union has no class, and so no name of its own
    for schema in found.values():
        schema.pop("title", None)
        for field in schema.get("properties", {}).values():
            if field.get("default", ...) is None:
                del field["default"]
    for name in DECLARATIONS:
        limits.describe(found[name])
    return dict(sorted(found.items()))

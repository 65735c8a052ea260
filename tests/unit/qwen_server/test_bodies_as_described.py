"""What one declaration is for: a body is accepted where the API's description says so, and refused
where not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import jsonschema
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from qwen_server.api.bodies.checking import DECLARATIONS, Bodies
from qwen_server.api.bodies.limits import Limits
from qwen_server.api.openapi.schemas import schemas
from qwen_server.engine.base import Kind
from qwen_server.http.error_bodies import HttpError
from tests.unit.qwen_server.serving import make_settings

SETTINGS = make_settings(max_prompts=3, max_stops=3, max_inputs=3)
BODIES = Bodies(SETTINGS)
SCHEMAS = schemas(Limits(SETTINGS))
KINDS: Final[Mapping[Kind, str]] = {
    "chat": "ChatRequest",
    "completion": "CompletionRequest",
    "responses": "ResponsesRequest",
    "messages": "MessagesRequest",
    "count_tokens": "CountTokensRequest",
    "tokenize": "TokenizeRequest",
    "detokenize": "DetokenizeRequest",
    "embeddings": "EmbeddingsRequest",
    "pooling": "PoolingRequest",
    "rerank": "RerankRequest",
    "score": "ScoreRequest",
    "classify": "ClassifyRequest",
}
# What a schema cannot say: rules about two fields, the name of the model, values counted over all
# levels.
RULES: Final = (
    "top_logprobs needs logprobs to be true",
    "The model `",
    " was removed; use",
    " is not supported: ",
    "max_tokens must be at least 1, unless echo is true",
    "tool_choice needs tools",
    " holds more than ",
    "of at most 1024 values",
    "with at most 1024 values",
    "tool_choice forces a call",
    " names a tool that this server does not run",
    "input holds nothing but tools",
    " must be one text, or as many as ",
    ".source must be an object with the data of an image",
    "n must be 1 when temperature is 0",
    " must have a min_count of at least 2",
    " must have a min_pattern_size of at most its max_pattern_size",
)
# Of a schema, 1.0 is an integer. Of this API and of OpenAI's, it is none.
_Base = jsonschema.Draft202012Validator
_Validator: Any = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
    _Base, type_checker=_Base.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
)
# `$` of Python's expressions allows a line break after it, that of JSON Schema does not.
TEXT = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.just("type"), inner, max_size=3),
    max_leaves=6,
)


VALIDATORS: Final = {
    kind: _Validator({"$ref": f"#/components/schemas/{name}", "components": {"schemas": SCHEMAS}})
    for kind, name in KINDS.items()
}


def refusal(kind: Kind, body: dict[str, Any]) -> HttpError | None:
    """The error that the server refuses `body` with; any other exception is a fault."""
    try:
        assert BODIES.check(kind, body).kind == kind
    except HttpError as error:
        return error
    return None


def resolved(schema: Any) -> Any:
    return SCHEMAS[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def values(schema: Any, wrong: int = 8) -> st.SearchStrategy[Any]:
    """Values of `schema` and of its edges; one of `wrong` is anything at all, at every level."""
    right = _right(resolved(schema), wrong)
    return st.integers(1, wrong).flatmap(lambda chance: JSON if chance == wrong else right)


def _right(schema: Any, wrong: int) -> st.SearchStrategy[Any]:
    if "anyOf" in schema:
        return st.one_of([values(member, wrong) for member in schema["anyOf"]])
    if named := schema.get("enum", [schema["const"]] if "const" in schema else []):
        return st.sampled_from(named)
    simple = {"boolean": st.booleans(), "null": st.none(), "string": TEXT | st.just("text")}
    made = {"integer": _numbers, "number": _numbers, "array": _arrays, "object": _objects}
    kind = schema.get("type")
    return made[kind](schema, wrong) if kind in made else simple.get(kind, JSON)


def _arrays(schema: Any, wrong: int) -> st.SearchStrategy[Any]:
    most = min(schema.get("maxItems", 3) + 1, 6)
    return st.lists(values(schema.get("items", {}), wrong), min_size=schema.get("minItems", 0), max_size=most)


def _numbers(schema: Any, _: int) -> st.SearchStrategy[Any]:
    low = schema.get("minimum", schema.get("exclusiveMinimum", -5))
    high = schema.get("maximum", schema.get("exclusiveMaximum", 5))
    edges = [low - 1, low, high, high + 1, 10**400, float(low), True]
    if schema["type"] == "number":
        return st.floats(low, high) | st.sampled_from([int(low), int(high), *edges])
    return st.integers(low, high) | st.sampled_from(edges)


def _objects(schema: Any, wrong: int) -> st.SearchStrategy[dict[str, Any]]:
    named = {name: values(inner, wrong) for name, inner in schema.get("properties", {}).items()}
    patterns = schema.get("patternProperties", {}).items()
    others = [
        st.dictionaries(st.from_regex(name, fullmatch=True), values(inner, wrong), max_size=3)
        for name, inner in patterns
    ]
    required = schema.get("required", ())
    optional = sorted(named.keys() - set(required))

    @st.composite
    def objects(draw: st.DrawFn) -> dict[str, Any]:
        made = {name: draw(named[name]) for name in required}
        for name in draw(st.lists(st.sampled_from(optional), max_size=3, unique=True)) if optional else ():
            made[name] = draw(named[name])
        for other in others:
            made |= draw(other)
        oddity = draw(st.integers(1, wrong))
        if oddity == wrong:
            made |= draw(st.dictionaries(TEXT, JSON, max_size=2))
        elif oddity == wrong - 1 and required:
            del made[required[-1]]
        return made

    return objects()


def members_of(kind: Kind) -> list[Any]:
    """The schemas of a body, of which there are two where it may be of two kinds."""
    schema = SCHEMAS[KINDS[kind]]
    members: list[Any] = schema.get("anyOf", [schema])
    return members


def bodies(kind: Kind, wrong: int) -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of([_objects(resolved(member), wrong) for member in members_of(kind)])


BODIES_OF: Final = {kind: bodies(kind, 20) for kind in KINDS}
GOOD_BODIES_OF: Final = {kind: bodies(kind, 10_000) for kind in KINDS}


def test_every_declaration_is_tested() -> None:
    assert set(KINDS.values()) == set(DECLARATIONS)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, suppress_health_check=list(HealthCheck), deadline=None)
@given(data=st.data())
def test_the_description_and_the_server_agree(kind: Kind, data: st.DataObject) -> None:
    body = data.draw(BODIES_OF[kind])
    error = refusal(kind, body)
    if error is None:
        assert VALIDATORS[kind].is_valid(body)
        return
    assert error.status in (400, 404)
    assert error.text
    if not any(rule in error.text for rule in RULES):
        assert not VALIDATORS[kind].is_valid(body), error.text


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, suppress_health_check=list(HealthCheck), deadline=None)
@given(data=st.data())
def test_what_is_accepted_is_passed_on_as_it_is(kind: Kind, data: st.DataObject) -> None:
    body = data.draw(GOOD_BODIES_OF[kind])
    assume(refusal(kind, body) is None)
    for name, value in BODIES.check(kind, body).fields.items():
        assert value is not None
        if name in ("tools", "input") and kind in ("responses", "messages", "count_tokens"):
            continue  # see the tests of tools that do not run here, and of those among the items
        assert body.get(name) in (None, value)
        assert any(name in resolved(member)["properties"] for member in members_of(kind))

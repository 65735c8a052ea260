"""The base class, the scalar types of Kubernetes APIs, and validation rules between fields.

A `ValidationRule` is declared once and checked twice: by the API server as CEL when an object is
written, and by the operator when it reads one, because an older CRD may have let it through.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

# The numbers are short, so that no sum of them overflows a datetime.
DURATION_PATTERN = r"^([0-9]{1,7}(ms|s|m)|[0-9]{1,5}h){1,4}$"
WINDOW_PATTERN = r"^([7-9]|[1-8][0-9]|90)d$"
PERCENT_PATTERN = r"^(100|[1-9]?[0-9])%$"
QUANTITY_PATTERN = r"^[0-9]{1,20}(\.[0-9]{1,20})?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][0-9]{1,2})?$"
NAME_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
WORD_PATTERN = r"^[^\s\x00-\x1f\x7f]+$"
KEY_PATTERN = r"^[-._a-zA-Z0-9]+$"
LABEL_VALUE_PATTERN = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"

MAX_DURATION = timedelta(days=100_000)

_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_QUANTITY_FACTOR = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate("kMGTPE", start=1)},
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", start=1)},
}


def parse_duration(text: str | timedelta) -> timedelta:
    """Reads `30s`, `5m`, `1h30m`, `500ms` or `30d`; ValueError for anything else."""
    if isinstance(text, timedelta):
        return text
    parts = re.findall(r"([0-9]+)(ms|s|m|h|d)", str(text))
    if not parts or "".join(number + unit for number, unit in parts) != str(text):
        raise ValueError(f"{text!r} is not a duration such as 30s, 5m or 1h30m")
    try:
        value = timedelta(milliseconds=sum(int(number) * _UNIT_MS[unit] for number, unit in parts))
    except OverflowError:
        value = timedelta.max
    if value > MAX_DURATION:
        raise ValueError(f"{str(text)[:40]!r} is too long: at most {MAX_DURATION.days} days")
    return value


def format_duration(value: timedelta) -> str:
    """Formats a duration for the server's flags: with one unit, in seconds if they are whole."""
    milliseconds = round(value.total_seconds() * 1000)
    return f"{milliseconds}ms" if milliseconds % 1000 else f"{milliseconds // 1000}s"


def _window(value: Any) -> timedelta:
    if isinstance(value, str) and not re.fullmatch(WINDOW_PATTERN, value):
        raise ValueError(f"{value!r} is not a number of days from 7d to 90d")
    return parse_duration(value)


def parse_quantity(text: str) -> Decimal:
    """Reads a Kubernetes quantity (`500m`, `16Gi`, `2`) as a number of its base unit."""
    match = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)([0-9]*)", text)
    if match is None or not re.fullmatch(QUANTITY_PATTERN, text):
        raise ValueError(f"{text!r} is not a quantity such as 500m, 2 or 16Gi")
    number, suffix, exponent = match.groups()
    return Decimal(f"{number}e{exponent}") if exponent else Decimal(number) * _QUANTITY_FACTOR[suffix]


def _quantity(value: Any) -> str:
    text = str(value)
    parse_quantity(text)
    return text


def _int_or(pattern: str, example: str) -> Callable[[Any], Any]:
    def validate(value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, str) and re.fullmatch(pattern, value):
            return value
        raise ValueError(f"{value!r} is neither a number nor {example}")

    return validate


def _int_or_string(pattern: str, **extra: object) -> WithJsonSchema:
    either = [{"type": "integer"}, {"type": "string"}]
    return WithJsonSchema({"anyOf": either, "x-kubernetes-int-or-string": True, "pattern": pattern, **extra})


@dataclass(frozen=True)
class ValidationRule:
    """A rule as CEL (API server) and as a predicate (operator).

    It is one of the `checks` of an object, or stands in the `Annotated` type of a value. `field` is
    the path of the field that the error names, relative to the object with the rule. An empty path
    names the object or the value itself.
    """

    cel: str
    message: str
    holds: Callable[[Any], bool]
    field: str = ""

    def schema(self) -> dict[str, str]:
        """The entry of `x-kubernetes-validations`."""
        entry = {"rule": self.cel, "message": self.message}
        return {**entry, "fieldPath": f".{self.field}"} if self.field else entry

    def check(self, value: Any) -> Any:
        """Returns the value, or raises the error that pydantic reports."""
        if not self.holds(value):
            raise PydanticCustomError("rule", "{message}", {"message": self.message, "field": self.field})
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        found = handler(schema)
        return {**found, "x-kubernetes-validations": [*found.get("x-kubernetes-validations", ()), self.schema()]}


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN, "maxLength": 32}),
]
Window = Annotated[
    timedelta,
    BeforeValidator(_window),
    PlainSerializer(lambda window: f"{window.days}d", return_type=str),
    WithJsonSchema({"type": "string", "pattern": WINDOW_PATTERN, "maxLength": 16}),
]
Quantity = Annotated[str, BeforeValidator(_quantity), _int_or_string(QUANTITY_PATTERN)]
CountOrAuto = Annotated[int | str, BeforeValidator(_int_or("^auto$", "auto")), _int_or_string("^auto$", minimum=0)]
IntOrPercent = Annotated[
    int | str,
    BeforeValidator(_int_or(PERCENT_PATTERN, "a percentage such as 50%")),
    _int_or_string(PERCENT_PATTERN, minimum=0),
]
ObjectName = Annotated[str, Field(max_length=253, pattern=NAME_PATTERN)]
OptionalName = Annotated[str, Field(max_length=253, pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$")]
ShortText = Annotated[str, Field(max_length=253)]
Word = Annotated[str, Field(min_length=1, max_length=253, pattern=WORD_PATTERN)]
DataKey = Annotated[str, Field(min_length=1, max_length=253, pattern=KEY_PATTERN)]
LabelValue = Annotated[str, Field(max_length=63, pattern=LABEL_VALUE_PATTERN)]


def from_to(low: str, high: str | None = None) -> ValidationRule:
    """The rule that a `Duration` is at least `low` and at most `high`."""
    lowest, highest = parse_duration(low), MAX_DURATION if high is None else parse_duration(high)
    cel = f"duration(self) >= duration('{low}')"
    message = f"must be at least {low}"
    if high is not None:
        cel, message = f"{cel} && duration(self) <= duration('{high}')", f"must be from {low} to {high}"
    return ValidationRule(cel, message, lambda value: lowest <= value <= highest)


class ApiObject(BaseModel):
    """An object of the API: camelCase in JSON, immutable.

    Unknown fields are ignored: the API server refuses those that no definition has, and a newer
    definition has fields that this operator does not know.
    """

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)
    checks: ClassVar[tuple[ValidationRule, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        # The API server does the same for fields that are optional or have a default.
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        for rule in self.checks:
            rule.check(self)
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core_schema))
        if cls.checks:
            schema["x-kubernetes-validations"] = [rule.schema() for rule in cls.checks]
        return schema

    def to_dict(self) -> dict[str, Any]:
        """The object as it is written to the API: camelCase, JSON values, no nulls."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def duration_field(default: str, description: str) -> Any:
    """A `Duration` or `Window` whose default appears in the CRD as it is written here."""
    return Field(default=parse_duration(default), description=description, json_schema_extra={"default": default})


def section(model: type[ApiObject], description: str) -> Any:
    """An optional section of the spec.

    The API server fills in `{}` and then the section's defaults.
    """
    return Field(default_factory=model, description=description, json_schema_extra={"default": {}})


def map_list(keys: list[str], description: str, max_items: int, alias: str | None = None) -> Any:
    """A list whose items are identified by `keys`.

    The API server rejects duplicates, and server-side apply merges item by item.
    """

    extra: dict[str, Any] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys}
    return Field(
        default_factory=list, description=description, max_length=max_items, alias=alias, json_schema_extra=extra
    )

"""The parts of declarations: checks of objects, bounds and error texts.

An error names the parameter by its place in the body, and `Must` ends that place: whatever is wrong
inside is an error of the whole, or of one entry. In a union the first member's error counts, so
that the usual member comes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    with_config,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from qwen_server.http.error_bodies import invalid

MAX_ENTRIES: Final = 4096  # of a conversation, or a choice
MAX_VALUES: Final = 1024
# Begins the names of a union's members, which an error's place holds beside the body's own names.
TAG: Final = "="

# Chooses the member of a union by the type of the value, so that an error in an array names the
# entry.
STRING_OR_ARRAY: Final = Discriminator(lambda value: "=array" if isinstance(value, list) else "=string")

# Other fields of an object are accepted here. Which of them are passed on is decided elsewhere.
declared = with_config(ConfigDict(strict=True, json_schema_extra={"additionalProperties": True}))


@dataclass(frozen=True, slots=True)
class Must:
    """One text for whatever is wrong with a value: `<parameter> must <text>`.

    If only an entry of an array or object is wrong, `entry` is the text, and the place names the
    entry. `key` is the text for a wrong name in an object.
    """

    text: str
    entry: str | None = None
    key: str | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        inner = handler(source)
        if self.entry is None:
            return core_schema.custom_error_schema(
                inner, custom_error_type="refused", custom_error_message=f"must {self.text}"
            )
        return core_schema.no_info_wrap_validator_function(self._check, inner)

    def _check(self, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            for detail in error.errors(include_url=False, include_context=False, include_input=False):
                entry = _entry_of(value, detail["loc"])
                if entry is not None:
                    text = self.key if detail["loc"][-1] == _KEY else self.entry
                    raise error_at(entry, f"must {text or self.entry}", value) from None
            raise PydanticCustomError("refused", "must {text}", {"text": self.text}) from None


_KEY: Final = "[key]"  # pydantic's last step to a wrong name in an object


def _entry_of(value: Any, steps: Sequence[int | str]) -> int | str | None:
    """The index or name of the entry of `value` that pydantic blames; None for the whole."""
    if isinstance(value, list):
        return next((step for step in steps if isinstance(step, int)), None)
    return next((step for step in steps if step in value), None) if isinstance(value, dict) else None


def error_at(entry: int | str, text: str, value: Any) -> ValidationError:
    """The error of one entry of an array or object."""
    refusal = PydanticCustomError("refused", "{text}", {"text": text})
    return ValidationError.from_exception_data("body", [{"type": refusal, "loc": (entry,), "input": value}])


@dataclass(frozen=True, slots=True)
class Entries:
    """How many entries an array or object may have; checked before the entries.

    An array is read up to its first wrong entry.
    """

    most: int | None = None
    least: int = 0

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        inner: Any = handler(source)
        inner |= _lengths(self.least, self.most) | ({"fail_fast": True} if inner["type"] == "list" else {})
        return core_schema.no_info_before_validator_function(self._count, inner)

    def _count(self, value: Any) -> Any:
        if isinstance(value, list | dict):
            if not value and self.least:
                raise PydanticCustomError("refused", "must not be empty")
            if self.most is not None and len(value) > self.most:
                raise too_many(value, self.most)
        return value


@dataclass(frozen=True, slots=True)
class TokenArray:
    """Marks an array of token ids, which is checked by hand.

    There may be a million of them, and pydantic takes a third longer.
    """

    most: int | None = None
    least: int = 1

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        described: Any = handler(source)
        described |= _lengths(self.least, self.most)
        return core_schema.no_info_plain_validator_function(self._check, json_schema_input_schema=described)

    def _check(self, value: Any) -> Any:
        if not isinstance(value, list) or len(value) < self.least:
            raise PydanticCustomError("refused", "must be {what} of token ids", {"what": self._what})
        if self.most is not None and len(value) > self.most:
            raise too_many(value, self.most)
        if value and not are_tokens(value):
            wrong = next(index for index, entry in enumerate(value) if not are_tokens([entry]))
            raise error_at(wrong, "must be a token id", value)
        return value

    @property
    def _what(self) -> str:
        return "a non-empty array" if self.least else "an array"


def _lengths(least: int, most: int | None) -> dict[str, int]:
    return ({"min_length": least} if least else {}) | ({"max_length": most} if most is not None else {})


def are_tokens(values: list[Any]) -> bool:
    """Whether these are token ids, and at least one."""
    return set(map(type, values)) == {int} and min(values) >= 0 and max(values) < 1 << 31


def too_many(value: Sized, most: int) -> PydanticCustomError:
    """The error of an array or object with more than `most` entries."""
    return PydanticCustomError(
        "refused", "has {count} entries, the limit is {most}", {"count": len(value), "most": most}
    )


def check_parts(param: str, turns: Sequence[Mapping[str, Any]]) -> None:
    """Raises HttpError 400 if all turns together hold more than MAX_ENTRIES parts and calls.

    By hand, because no schema bounds several arrays together.
    """
    parts = sum(len(value) for turn in turns for value in turn.values() if type(value) is list)
    if parts > MAX_ENTRIES:
        raise invalid(f"{param} holds {parts} parts and calls of tools, the limit is {MAX_ENTRIES}", param)


def few_values(value: Any) -> None:
    """Raises PydanticCustomError for an object with more than MAX_VALUES values.

    vLLM's models list everything that is wrong with one, which takes long.

    By hand, because no schema bounds the values of all levels together.
    """
    level = [value]
    for item in level:
        kind = type(item)
        if kind is dict:
            level += item.values()
        elif kind is list:
            level += item
        else:
            continue
        if len(level) > 1 + MAX_VALUES:
            raise PydanticCustomError("refused", "holds more than {most} values", {"most": MAX_VALUES})


def _few(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    handler(value)
    few_values(value)
    return value


FEW_VALUES: Final = WrapValidator(_few)


def other_than(*names: str) -> AfterValidator:
    """Refuses the names that another member of the union is for."""

    def check(value: str) -> str:
        if value in names:
            raise PydanticCustomError("refused", "must be another")
        return value

    return AfterValidator(check)


def exactly(kind: type) -> BeforeValidator:
    """Refuses what equals a literal but has another type: to Python, 1 is True and 1.0."""

    def check(value: Any) -> Any:
        if type(value) is not kind:
            raise PydanticCustomError("refused", "must be of another type")
        return value

    return BeforeValidator(check)


Int64 = Annotated[int, Field(ge=-(1 << 63), le=(1 << 63) - 1)]
Int31 = Annotated[int, Field(ge=-1, le=1 << 31)]
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
Name = Annotated[str, Field(min_length=1)]

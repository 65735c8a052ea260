"""Equal parts of cached objects are kept once, which halves the memory of a large fleet.

Thousands of objects have the same keys, phases, labels and images, and the records of who set their
fields are equal for all objects that came from one builder. Nothing that is cached is ever changed
in place.
"""

from __future__ import annotations

import json
from hashlib import blake2b
from sys import intern
from typing import Any, Final
from weakref import WeakValueDictionary

_MAX_LEVELS: Final = 50
_MAX_LETTERS: Final = 40
"""Longer texts are rarely equal."""
_METADATA: Final = "f:metadata"


class _Record(dict[str, Any]):
    """A dict to which there can be weak references."""

    __slots__ = ("__weakref__",)


_records: Final[WeakValueDictionary[bytes, _Record]] = WeakValueDictionary()


def shared(value: Any, levels: int = _MAX_LEVELS) -> Any:
    """A JSON value whose keys and short texts are those of all other shared values."""
    kind = type(value)
    if kind is str:
        return intern(value) if len(value) <= _MAX_LETTERS else value
    if levels == 0 or kind not in (dict, list):
        return value
    if kind is list:
        return [shared(item, levels - 1) for item in value]
    return {intern(name): shared(item, levels - 1) for name, item in value.items()}


def shared_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields of an object (FieldsV1), of which equal parts are the same dicts.

    The metadata of each child has the UID of its owner: only the parts of it are equal.
    """
    return {
        name: {part: shared_record(below) for part, below in value.items()}
        if name == _METADATA and isinstance(value, dict)
        else shared_record(value)
        for name, value in fields.items()
    }


def shared_record(fields: Any) -> Any:
    """A part of the fields: the same dict for all that are equal, while one is in use."""
    if not isinstance(fields, dict):
        return fields
    try:
        text = json.dumps(fields, separators=(",", ":"))
    except RecursionError:  # nobody else's are like these
        return fields
    digest = blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
    known = _records.get(digest)
    if known is None:
        known = _records[digest] = _Record(shared(fields))
    return known

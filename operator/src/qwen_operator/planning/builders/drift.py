"""What somebody else changed in a child, and who it was. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from qwen_operator.api.names import FIELD_MANAGER
from qwen_operator.api.objects import Object
from qwen_operator.planning.builders.list_items import ListItems
from qwen_operator.planning.builders.ownership import applied_fields, applied_value

MAX_NAMED: Final = 3
"""Fields that are named. Of more only the number is reported."""

_Fields = Mapping[str, Any]


class Drift(NamedTuple):
    """A field that is no longer ours.

    `change` says from what to what a number or a switch was changed. Without it, and without a
    manager, nobody has the field: it was removed.
    """

    field: str
    manager: str
    change: str = ""

    def __str__(self) -> str:
        if self.change and not self.manager:
            return f"{self.field} (changed{self.change} by an unknown field manager)"
        return f"{self.field} (changed{self.change} by {self.manager})" if self.manager else f"{self.field} (removed)"


def drift_of(child: Object, live: Mapping[str, Any]) -> list[Drift]:
    """The fields of a child that others have changed or removed since it was applied.

    The API server records in `managedFields` who set each field.
    """
    others = [
        (str(entry.get("manager") or "unknown"), entry.get("fieldsV1") or {})
        for entry in live["metadata"].get("managedFields") or ()
        if entry.get("manager") != FIELD_MANAGER
    ]
    value = applied_value(child)
    found = [list(_lost(value, live, fields, others, "")) for fields in applied_fields(live) or [{}]]
    return min(found, key=len)


def describe(drift: Sequence[Drift]) -> str:
    """The fields with their managers, as a part of a sentence.

    It is the same for the same fields, so that repeated Events become a series.
    """
    named = [str(item) for item in sorted(drift)[:MAX_NAMED]]
    more = len(drift) - len(named)
    if not named:
        return "fields that it sets"
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")


def managers(drift: Sequence[Drift]) -> str:
    """Who changed the fields; empty if nobody knows."""
    return ", ".join(sorted({item.manager for item in drift if item.manager}))


def _lost(value: Any, live: Any, mine: _Fields, others: Sequence[tuple[str, _Fields]], path: str) -> Iterator[Drift]:
    """The parts of a value that are not among our fields (FieldsV1), with those who have them."""
    for name, part, find in _parts(value, [mine, *(fields for _, fields in others)]):
        where = f"{path}{name}" if name.startswith("[") or not path else f"{path}.{name}"
        below = find(mine)
        theirs = [(manager, node) for manager, fields in others if (node := find(fields)) is not None]
        if below is None:
            change = _change(part, _part_of(live, name))
            yield Drift(where, ", ".join(sorted({manager for manager, _ in theirs})), change)
        elif below:  # without further fields it is a single value, or is set as a whole
            yield from _lost(part, _part_of(live, name), below, theirs, where)


def _part_of(live: Any, name: str) -> Any:
    """The part of a live value of this name, as `_parts` names it; None if it has none."""
    if isinstance(live, Mapping):
        return live.get(name)
    items = live if isinstance(live, list) else ()
    return next((item for item in items if f"[{_label(item)}]" == name), None)


def _change(wanted: Any, live: Any) -> str:
    """From what to what a number or a switch was changed. Texts may be secret."""
    if not isinstance(wanted, int) or not isinstance(live, int) or wanted == live:
        return ""
    return f" from {json.dumps(wanted)} to {json.dumps(live)}"


def _parts(value: Any, known: Sequence[_Fields]) -> Iterator[tuple[str, Any, Callable[[_Fields], _Fields | None]]]:
    """The parts of a value: name, value, and where it is among the fields of a manager."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            if part is not None and part not in ({}, []):
                yield name, part, _by_token(f"f:{name}")
    elif isinstance(value, list):
        lists = [ListItems(fields) for fields in known]
        for item in value:
            tokens = {token for items in lists for token in items.names_of(item)[:1]}
            yield f"[{_label(item)}]", item, _by_tokens(tokens)


def _by_token(token: str) -> Callable[[_Fields], _Fields | None]:
    return lambda fields: fields.get(token)


def _by_tokens(tokens: set[str]) -> Callable[[_Fields], _Fields | None]:
    return lambda fields: next((fields[token] for token in tokens if token in fields), None)


def _label(item: Any) -> str:
    """How an item of a list is named: by its name, or its first value."""
    if not isinstance(item, Mapping):
        return str(item)
    names = ("name", "mountPath", "containerPort", "port", "uid")
    return str(next((item[name] for name in names if name in item), next(iter(item.values()), "")))

"""The items of a list in `managedFields`, found by their keys. Pure.

The API server names an item `k:` and its keys, such as `k:{"name":"server"}`, or `v:` and its value
if it has none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final

_Texts = tuple[str, ...]

# A list of the API has one set of one to three keys. Others are in records that somebody has made.
_MAX_KEY_SETS: Final = 4
_MAX_KEYS: Final = 4
_MAX_NAMES: Final = 8
"""Names of one item with a set of keys. Without one of its keys it may have several."""


class ListItems:
    """The items of one list, from its part of FieldsV1.

    Each name is decoded once, so that a list of any length is compared in a single pass.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields
        self._indexes: dict[tuple[_Texts, _Texts], dict[_Texts, list[str]]] = {}

    def names_of(self, item: Any) -> list[str]:
        """The names that an item may have: usually one, none if it is not among the items.

        A key that the item does not set has the API server's default, which may be any.
        """
        if not isinstance(item, Mapping):
            name = f"v:{json.dumps(item, separators=(',', ':'))}"
            return [name] if name in self._fields else []
        found: list[str] = []
        for keys in self._by_keys:
            given = tuple(key for key in keys if key in item)
            if given:
                found += self._index(keys, given).get(_values(item, given), [])[:_MAX_NAMES]
        return found

    @cached_property
    def _by_keys(self) -> dict[_Texts, list[tuple[str, Mapping[str, Any]]]]:
        """The names and what they hold, by their sets of keys."""
        groups: dict[_Texts, list[tuple[str, Mapping[str, Any]]]] = {}
        for name in self._fields:
            held = _decoded(name)
            keys = tuple(sorted(held))
            if 0 < len(keys) <= _MAX_KEYS and (keys in groups or len(groups) < _MAX_KEY_SETS):
                groups.setdefault(keys, []).append((name, held))
        return groups

    def _index(self, keys: _Texts, given: _Texts) -> dict[_Texts, list[str]]:
        """The names with these keys, by the values of those that are given."""
        if (keys, given) not in self._indexes:
            index: dict[_Texts, list[str]] = {}
            for name, held in self._by_keys[keys]:
                index.setdefault(_values(held, given), []).append(name)
            self._indexes[(keys, given)] = index
        return self._indexes[(keys, given)]


def _decoded(name: str) -> Mapping[str, Any]:
    """The keys in the name of an item; empty if it has none."""
    if not name.startswith("k:"):
        return {}
    try:
        held = json.loads(name[2:])
    except (ValueError, RecursionError):  # whoever may write the object may write its records, too
        return {}
    return held if isinstance(held, dict) else {}


def _values(item: Mapping[str, Any], keys: _Texts) -> _Texts:
    # As text, because a free-form part of a spec may have an object where a name belongs.
    return tuple(json.dumps(item[key], sort_keys=True) for key in keys)

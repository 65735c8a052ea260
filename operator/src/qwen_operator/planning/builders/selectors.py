"""Label selectors, evaluated as the API server evaluates them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def selects(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector matches these labels.

    None matches nothing, an empty one everything.
    """

    if selector is None:
        return False
    equal = all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items())
    return equal and all(_holds(entry, labels) for entry in selector.get("matchExpressions") or ())


def _holds(entry: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value = labels.get(entry["key"])
    values = entry.get("values") or ()
    match entry["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case _:
            return value is None

"""How much a part of a spec may hold. Pure.

The API server accepts objects of megabytes. Whatever the operator does with one must take no time
that the services of others would miss.
"""

from __future__ import annotations

from typing import Any, Final

MAX_NESTING: Final = 64
"""Levels of a field of the spec. A pod template has less than 20."""
MAX_VALUES: Final = 10_000
"""Values in a field of the spec: objects, lists and what they hold. An environment variable has
three."""


def excess(value: Any) -> str | None:
    """What a value has too much of; None if it is within bounds."""
    level, count = [value], 1
    for _ in range(MAX_NESTING):
        level = [
            child
            for parent in level
            if isinstance(parent, (dict, list))
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
        count += len(level)
        if count > MAX_VALUES:
            return f"it has more than {MAX_VALUES} values"
        if not level:
            return None
    return f"it is nested deeper than {MAX_NESTING} levels"

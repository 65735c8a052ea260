"""Bounds on what a JSON body consists of, checked before it is parsed.

A parser holds the interpreter until it has finished, and each value costs it far more than a
character of a text. Whatever works on the parsed body later takes its time per value, too.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from qwen_server.http.error_bodies import invalid

# About what each of these can cost is in docs/decisions/0013. A prompt of token ids needs as many
# values as it has tokens, and no context is longer. Hundreds of tools with dozens of properties, or
# thousands of messages with parts, stay below the other two.
MAX_VALUES: Final = 1 << 18
MAX_STRINGS: Final = 1 << 16
MAX_CONTAINERS: Final = 1 << 14

_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)  # also without an end


class _Count(NamedTuple):
    values: int
    strings: int
    containers: int

    def with_more(self, between: _Count, strings: int = 0) -> _Count:
        """Adds what is between two strings, and `strings`."""
        return _Count(self.values + between.values, self.strings + strings, self.containers + between.containers)

    @property
    def excess(self) -> str | None:
        """What there is too much of, and the bound."""
        if self.values > MAX_VALUES:
            return f"more than {MAX_VALUES} values"
        if self.strings > MAX_STRINGS:
            return f"more than {MAX_STRINGS} strings and names"
        if self.containers > MAX_CONTAINERS:
            return f"more than {MAX_CONTAINERS} objects and arrays"
        return None


def check_structure(raw: bytes) -> None:
    """Raises HttpError 400 for a body of too many values, strings, or objects and arrays.

    What is inside of strings does not count.
    """
    if _upper_bound(raw).excess is None:
        return
    count, end = _Count(0, 0, 0), 0
    for string in _STRING.finditer(raw):
        count = count.with_more(_upper_bound(raw[end : string.start()]), strings=1)
        end = string.end()
        if count.excess is not None:
            break
    else:
        count = count.with_more(_upper_bound(raw[end:]))
    if count.excess is not None:
        raise invalid(f"the body has {count.excess}; no request needs that many")


def _upper_bound(raw: bytes) -> _Count:
    """Counts also what is inside of strings."""
    # Each value is after a comma or the first one of an object or array.
    containers = raw.count(b"[") + raw.count(b"{")
    return _Count(raw.count(b",") + containers, raw.count(b'"') // 2, containers)

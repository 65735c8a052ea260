"""Garbage collection in a process that keeps many objects for long."""

from __future__ import annotations

import gc
from typing import Final

# A start makes millions of objects that stay. With Python's thresholds (700, 10, 10), the collector
# looks at them again and again and finds next to nothing: requests leave little garbage in cycles.
THRESHOLDS: Final = (50_000, 10, 10)


def spare_collections() -> None:
    """Leaves what is imported out of all collections, and makes them rarer."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)

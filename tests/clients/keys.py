"""API keys of the server: one for each use, so that each has a rate limit of its own."""

from __future__ import annotations

KEYS = [f"key-{number}" for number in range(1000)]
_unused = iter(KEYS)


def new_key() -> str:
    """A key that nobody else uses."""
    return next(_unused)

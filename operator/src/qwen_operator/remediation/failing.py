"""Rounds of remediation that fail. It is an error of the operator, and people must know of it."""

from __future__ import annotations

from typing import Final

from qwen_operator.api.objects import Key
from qwen_operator.status.conditions import Suspension

ENOUGH: Final = 3
"""Rounds in a row that fail before the status says it."""


class FailingRounds:
    """The services whose rounds fail, and why."""

    def __init__(self) -> None:
        self._failures: dict[Key, int] = {}
        self._suspended: dict[Key, Suspension] = {}

    def of(self, key: Key) -> Suspension | None:
        """Why remediation of a service is suspended; None while its rounds succeed."""
        return self._suspended.get(key)

    def failed(self, key: Key, error: Exception) -> bool:
        """Counts a round that has failed. Returns True if the service is suspended from now on."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        if failures < ENOUGH or key in self._suspended:
            return False
        self._suspended[key] = Suspension(
            "InternalError",
            f"Remediation of this service fails in every round ({type(error).__name__}), so it takes out, lets back "
            "and restarts no pod. This is an error of the operator: its log says more. Revert the last change of the "
            "service or of the operator.",
        )
        return True

    def succeeded(self, key: Key) -> bool:
        """Notes a round that has not failed. Returns True if that ends the suspension."""
        self._failures.pop(key, None)
        return self._suspended.pop(key, None) is not None

    def forget(self, key: Key) -> None:
        """Drops what is known about a service."""
        self._failures.pop(key, None)
        self._suspended.pop(key, None)

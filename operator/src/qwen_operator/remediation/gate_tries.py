"""When a gate may be written again whose last write failed."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Final

from qwen_operator.kube.workqueue import backoff

LONGEST_SECONDS: Final = 30.0
"""Seconds between two tries at most, also if the API server asks for more."""


class GateTries:
    """The back-off of each pod of a service, by its UID."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: dict[str, tuple[int, float]] = {}

    def may(self, uid: str) -> bool:
        """Whether the gate of a pod may be written now."""
        return uid not in self._failed or self._clock() >= self._failed[uid][1]

    def failed(self, uid: str, retry_after: float) -> None:
        """Records a write that failed, and the seconds that the API server asks to wait."""
        failures = self._failed[uid][0] + 1 if uid in self._failed else 1
        pause = min(LONGEST_SECONDS, max(backoff(failures), retry_after))
        self._failed[uid] = (failures, self._clock() + pause)

    def done(self, uid: str) -> None:
        """Records a write that succeeded."""
        self._failed.pop(uid, None)

    def keep(self, uids: Collection[str]) -> None:
        """Forgets all other pods."""
        self._failed = {uid: known for uid, known in self._failed.items() if uid in uids}

"""Whether the operator is alive and ready, for the kubelet's probes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Health:
    """Liveness by heartbeats: each part of the operator has a deadline for its next beat.

    A process on standby has no such parts. It is alive as long as its event loop answers.
    """

    clock: Callable[[], float] = time.monotonic
    ready: bool = False
    _due: dict[str, float] = field(default_factory=dict)

    def beat(self, part: str, within: float) -> None:
        """Records a beat of a part, whose next beat is due within so many seconds."""
        self._due[part] = self.clock() + within

    def forget(self, part: str) -> None:
        """Removes a part that has stopped on purpose."""

        self._due.pop(part, None)

    def overdue(self) -> list[str]:
        """The parts that missed their deadline."""
        now = self.clock()
        return sorted(part for part, due in self._due.items() if due < now)

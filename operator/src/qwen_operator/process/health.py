"""Whether the operator is alive and ready, as the kubelet's probes ask."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Health:
    """Whether the operator is alive: every part that should beat has a deadline for its next beat.

    A process that only stands by has no beats, so it is healthy as long as its loop answers.
    """

    clock: Callable[[], float] = time.monotonic
    ready: bool = False
    _due: dict[str, float] = field(default_factory=dict)

    def beat(self, part: str, within: float) -> None:
        """A part says that it lives and promises its next beat within so many seconds."""
        self._due[part] = self.clock() + within

    def forget(self, part: str) -> None:
        """A part that has ended on purpose."""
        self._due.pop(part, None)

    def overdue(self) -> list[str]:
        """The parts that missed their deadline."""
        now = self.clock()
        return sorted(part for part, due in self._due.items() if due < now)

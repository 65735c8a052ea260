"""When a child may be written again: after a write failed, and while somebody else changes it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from qwen_operator.kube.workqueue import backoff

N = TypeVar("N")
Place = tuple[str, str]
"""Kind and name of a child."""

CHANGED_SECONDS: Final = 5.0
"""Another wish than the one that failed is tried so many seconds after it."""
FREE_REPAIRS: Final = 3
"""Repairs in a row that are made at once. A child that needs more is fought over."""
REPAIR_BASE: Final = 5.0
REPAIR_MAX: Final = 300.0
_CALM_SECONDS: Final = 60.0


def repair_pause(repairs: int) -> float:
    """Seconds between a repair and the next one, after this number of repairs."""
    return 0.0 if repairs < FREE_REPAIRS else min(REPAIR_MAX, REPAIR_BASE * 2.0 ** min(repairs - FREE_REPAIRS, 20))


@dataclass
class _Writes(Generic[N]):
    """The writes of one child.

    Attributes:
        wish: the hash of what was last tried.
        written: whether that was successful.
        until: when it may be tried again.
        note: what is reported until then.
        repairs: how often somebody changed the child soon after a repair.
    """

    note: N
    wish: str = ""
    written: bool = False
    tried_at: float = -math.inf
    until: float = -math.inf
    failures: int = 0
    repairs: int = 0
    repaired_at: float = -math.inf

    @property
    def calm_at(self) -> float:
        """When a fight over the child counts as over, if nobody changes it until then."""
        return self.repaired_at + max(_CALM_SECONDS, 2 * repair_pause(self.repairs))


class Pacing(Generic[N]):
    """The pace of the writes to the children of one service.

    Each child has a back-off of its own. A note of type N says why it must wait; `nothing` is the
    note of a child that need not.
    """

    def __init__(self, nothing: N, clock: Callable[[], float] = time.monotonic) -> None:
        self._nothing = nothing
        self._clock = clock
        self._writes: dict[Place, _Writes[N]] = {}

    def left(self, place: Place, wish: str) -> float:
        """Seconds until a child may be written; 0 if it may be now."""
        known = self._writes.get(place)
        if known is None:
            return 0.0
        until = known.until if wish == known.wish else min(known.until, known.tried_at + CHANGED_SECONDS)
        return max(0.0, until - self._clock())

    def note(self, place: Place) -> N:
        """Why a child must wait."""
        known = self._writes.get(place)
        return self._nothing if known is None else known.note

    def is_written(self, place: Place, wish: str) -> bool:
        """Whether exactly this was written, and nothing else since."""
        known = self._writes.get(place)
        return known is not None and known.written and known.wish == wish

    def failed(self, place: Place, wish: str, note: N, seconds: float | None = None) -> float:
        """Records a write that failed.

        Returns the seconds until the next one, by default a back-off.
        """
        known = self._tried(place, wish, note)
        known.written = False
        known.failures += 1
        pause = backoff(known.failures) if seconds is None else seconds
        known.until = known.tried_at + pause
        return pause

    def wrote(self, place: Place, wish: str) -> None:
        """Records a write of something new."""
        known = self._tried(place, wish, self._nothing)
        known.written, known.failures, known.until = True, 0, -math.inf

    def repaired(self, place: Place, wish: str) -> tuple[int, float]:
        """Records a write after somebody else had changed the child.

        Returns the number of such repairs in a row, and the seconds until the next may follow.
        """
        known = self._tried(place, wish, self._nothing)
        known.written, known.failures = True, 0
        known.repairs = 1 if known.tried_at > known.calm_at else known.repairs + 1
        known.repaired_at = known.tried_at
        pause = repair_pause(known.repairs)
        known.until = known.repaired_at + pause
        return known.repairs, pause

    def fight(self, place: Place, note: N) -> None:
        """Records what is reported while a child is fought over."""
        if (known := self._writes.get(place)) is not None:
            known.note = note

    def fight_left(self, place: Place) -> float:
        """Seconds until a child that was fought over counts as left alone; 0 if it does."""
        known = self._writes.get(place)
        if known is None or known.repairs < FREE_REPAIRS:
            return 0.0
        return max(0.0, known.calm_at - self._clock())

    def forget_written(self, kind: str, names: Collection[str]) -> None:
        """Drops what is known about the children of a kind, except these and failed writes."""
        for place in [place for place, known in self._writes.items() if place[0] == kind and known.written]:
            if place[1] not in names:
                del self._writes[place]

    def forget(self, place: Place) -> None:
        """Drops what is known about a child."""
        self._writes.pop(place, None)

    def _tried(self, place: Place, wish: str, note: N) -> _Writes[N]:
        known = self._writes.setdefault(place, _Writes(note))
        known.wish, known.tried_at, known.note = wish, self._clock(), note
        return known

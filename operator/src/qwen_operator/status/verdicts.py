"""Makes conditions of verdicts. Pure; the clock is passed in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from qwen_operator.api import Condition, ServiceStatus

MAX_MESSAGE: Final = 1024


@dataclass(frozen=True)
class Verdict:
    """A condition before it is compared with the one in the status."""

    type: str
    holds: bool
    reason: str
    message: str = ""


def stamp(verdicts: Sequence[Verdict], status: ServiceStatus, generation: int, now: datetime) -> list[Condition]:
    """The conditions. One keeps its lastTransitionTime until its status changes."""
    moment = now.astimezone(UTC).replace(microsecond=0)
    conditions = []
    for verdict in verdicts:
        holds: Any = "True" if verdict.holds else "False"
        before = status.condition(verdict.type)
        since = before.last_transition_time if before is not None and before.status == holds else moment
        conditions.append(
            Condition(
                type=verdict.type,
                status=holds,
                reason=verdict.reason,
                message=_clip(verdict.message),
                observed_generation=generation,
                last_transition_time=since,
            )
        )
    return conditions


def _clip(message: str) -> str:
    """At most MAX_MESSAGE characters. The middle is cut: the start says what, the end says why."""

    if len(message) <= MAX_MESSAGE:
        return message
    half = (MAX_MESSAGE - 5) // 2
    return f"{message[:half]} ... {message[-half:]}"

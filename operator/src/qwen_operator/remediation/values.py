"""What remediation looks at: pods, their evidence, a rollout and a round of polling. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


@dataclass(frozen=True)
class Instant:
    """One moment on both clocks; `wall` is in UTC."""

    mono: float
    wall: datetime


class Gate(StrEnum):
    """The readiness gate of a pod."""

    MISSING = "Missing"
    """The pod's template has no such gate."""
    UNSET = "Unset"
    """Nobody has written the condition yet: a new pod."""
    OPEN = "Open"
    CLOSED = "Closed"


@dataclass(frozen=True)
class Pod:
    """A pod as the API shows it.

    Attributes:
        ready: the kubelet's whole verdict, containers and gates.
        running: level 1 says that the containers serve (ContainersReady).
        closed_for, closed_since: the alert and the time that the closed gate's condition carries.
        newest: whether it is of the Deployment's newest revision.
        restarts: how often the server's container was restarted.
        exit_code: that of the container's last end, None when it never ended.
        restart_id: the value of the annotation that asks for an in-place restart.
    """

    uid: str
    name: str
    gate: Gate = Gate.OPEN
    ready: bool = True
    running: bool = True
    deleting: bool = False
    node: str = ""
    node_ready: bool = True
    newest: bool = True
    restarts: int = 0
    exit_code: int | None = None
    restart_id: str = ""
    closed_for: str = ""
    closed_since: datetime | None = None


@dataclass(frozen=True)
class Evidence:
    """What a pod said about itself: `uptime` in seconds, its active alerts by name, requests running or waiting."""

    uptime: float
    alerts: frozenset[str] = frozenset()
    busy: int = 0
    raw: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Rollout:
    """Whether the Deployment replaces its pods now, and whether it gave up doing so."""

    under_way: bool = False
    stalled: bool = False


@dataclass(frozen=True)
class Round:
    """What one round of polling found.

    `evidence` has an entry for each pod that was asked, None when it gave no valid answer; `proofs` has the generations
    that ended since the last round.
    """

    pods: tuple[Pod, ...]
    evidence: Mapping[str, Evidence | None]
    desired: int
    proofs: Mapping[str, bool] = field(default_factory=dict)
    rollout: Rollout = Rollout()
    reset: str = ""
    """The value of the annotation that resets the budget."""

"""The values that remediation thinks with. Times called `mono` are seconds on the operator's monotonic clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from qwen_operator.api import RestartIntent
from qwen_operator.status.conditions import Suspension

PROOFS: Final = 3
"""Successful generations that prove the health of a pod."""
FAILURES: Final = 2
"""Failed generations in a row after which a pod without an alert counts as sick all the same."""
FAIL_OPEN_SECONDS: Final = 60.0
"""A closed gate without fresh evidence for so long opens again: the kubelet's probes still guard the pod."""
DEAD: Final = "EngineDead"
"""The alert of an engine that died; hardly anybody sees it, because the process ends: the exit code tells."""
DEATH_EXIT_CODE: Final = 70
MAX_DEATHS: Final = 3
"""A pod whose engine died so often without getting ready is evicted; until then the kubelet restarts it."""
REPEAT_SECONDS: Final = 600.0
"""A pod that is taken out twice within so many seconds is restarted directly."""


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


@dataclass(frozen=True)
class Streak:
    """An alert that was seen in a row: in how many polls, over how many seconds, last at which time."""

    polls: int
    seconds: float
    at: float


@dataclass(frozen=True)
class Latch:
    """A pod that is (or, without a gate or below minReadyReplicas, should be) out of rotation.

    Attributes:
        since: when that was first wanted; the `for` of Restart counts from here.
        held_back: the guards keep it in rotation for now.
        repeated: it was out before, not long ago.
        released: why it may go back; the gate is being opened.
    """

    alert: str
    since: float
    held_back: bool = False
    repeated: bool = False
    released: str = ""


@dataclass(frozen=True)
class PodMemory:
    """What is remembered of a pod between rounds; an operator that starts anew can do without.

    Attributes:
        fresh: whether the last round brought fresh evidence; `fresh_at` is the last one that did.
        quiet_since: since when fresh evidence shows no alert that takes a pod out.
        proofs: when the successful generations in a row were asked for.
        failures: the generations in a row that failed.
        probing_since: a generation is under way since then.
        idle_polls: polls in a row without a request, a while after the gate was seen closed.
        restarts_seen: the restart count of the last round.
        deaths: how often the engine died since the pod was last ready.
        notified: alerts that an Event was written for.
        reported: steps that a dry run has reported.
    """

    first_seen: float
    uptime: float | None = None
    fresh: bool = False
    fresh_at: float | None = None
    streaks: Mapping[str, Streak] = field(default_factory=dict)
    quiet_since: float | None = None
    latch: Latch | None = None
    last_latch: float | None = None
    proofs: tuple[float, ...] = ()
    failures: int = 0
    probing_since: float | None = None
    closed_since: float | None = None
    idle_polls: int = 0
    restarts_seen: int | None = None
    deaths: int = 0
    notified: frozenset[str] = frozenset()
    reported: frozenset[str] = frozenset()


Memory = Mapping[str, PodMemory]
"""By pod UID."""


@dataclass(frozen=True)
class OpenGate:
    """Lets a pod into rotation, as far as the operator is concerned."""

    pod: Pod
    reason: str
    alert: str = ""


@dataclass(frozen=True)
class CloseGate:
    """Takes a pod out of rotation."""

    pod: Pod
    alert: str


@dataclass(frozen=True)
class BeginRestart:
    """Writes down that a pod will be restarted; nothing happens to it before that."""

    pod: Pod
    intent: RestartIntent


@dataclass(frozen=True)
class ExecuteRestart:
    """Restarts the pod of an intent; a hung one gets no time to finish what it cannot finish."""

    pod: Pod
    intent: RestartIntent
    hung: bool


@dataclass(frozen=True)
class FinishRestart:
    """Closes an intent.

    `outcome` is Recovered, NotCured, ReplacementPending, NotRestarted, Unattended (it goes on, and nobody waits for it)
    or Cancelled (which is refunded).
    """

    intent: RestartIntent
    outcome: str


@dataclass(frozen=True)
class Prove:
    """Asks a pod to generate a token."""

    pod: Pod


@dataclass(frozen=True)
class Report:
    """Tells people about an alert that changes nothing, or about a step that is held back."""

    pod: Pod
    alert: str
    reason: str
    message: str


@dataclass(frozen=True)
class Died:
    """Tells people that a pod's engine died and that the kubelet restarts the container."""

    pod: Pod


@dataclass(frozen=True)
class WouldDo:
    """A step that a dry run did not take."""

    action: CloseGate | BeginRestart


@dataclass(frozen=True)
class ResetBudget:
    """Forgets past restarts, because somebody asked for it with a new value of the annotation."""

    value: str


Action = (
    OpenGate | CloseGate | BeginRestart | ExecuteRestart | FinishRestart | Prove | Report | Died | WouldDo | ResetBudget
)


@dataclass(frozen=True)
class Decisions:
    """What to do now, what to remember, and why nothing is done where something should be."""

    actions: tuple[Action, ...]
    memory: Memory
    suspended: Suspension | None = None

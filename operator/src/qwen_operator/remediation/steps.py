"""The steps of a decision. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from qwen_operator.api import HardwareReplacement, RestartIntent
from qwen_operator.remediation.memory import Memory
from qwen_operator.remediation.values import Evidence, Pod
from qwen_operator.status.conditions import Suspension


@dataclass(frozen=True)
class OpenGate:
    """Lets a pod into rotation. The kubelet's probes may still keep it out."""

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
    """Records the intent to restart a pod. Nothing is done to the pod before that.

    Attributes:
        based_on: the restart times of the ledger that the decision is based on. If it has others,
            the decision does not hold.
        counted: those of them that still count against the budget.
        hardware: what the pod leaves behind, if it is replaced for that.
        beside: the restarts in progress: evictions whose replacement finds no node.
    """

    pod: Pod
    intent: RestartIntent
    based_on: tuple[datetime, ...] = ()
    counted: tuple[datetime, ...] = ()
    hardware: HardwareReplacement | None = None
    beside: tuple[RestartIntent, ...] = ()


@dataclass(frozen=True)
class ExecuteRestart:
    """Restarts the pod of an intent. A hung one gets only a short grace period."""

    pod: Pod
    intent: RestartIntent
    hung: bool


@dataclass(frozen=True)
class FinishRestart:
    """Removes an intent.

    `outcome` is Recovered, NotCured, ReplacementPending, NotRestarted, Unattended (the restart
    continues, but its end is not awaited) or Cancelled (the budget is refunded; `why` says why).
    """

    intent: RestartIntent
    outcome: str
    why: str = ""


@dataclass(frozen=True)
class Prove:
    """Requests a test generation of one token from a pod."""

    pod: Pod


@dataclass(frozen=True)
class Report:
    """Reports an alert without other consequences, a step that the guards prevent, or silence."""

    pod: Pod
    alert: str
    reason: str
    message: str


@dataclass(frozen=True)
class Died:
    """Reports that a pod's engine died, or was killed. The kubelet restarts the container.

    `last` is what it said last, if that is known.
    """

    pod: Pod
    last: Evidence | None = field(default=None, compare=False)


@dataclass(frozen=True)
class WouldDo:
    """A step that a dry run did not take."""

    step: CloseGate | BeginRestart


@dataclass(frozen=True)
class ResetBudget:
    """Resets the restart budget, as requested by a new value of the annotation."""

    value: str


@dataclass(frozen=True)
class Recount:
    """Corrects the number of restarts in the window, which falls as time passes.

    `based_on` are the restart times of the ledger that it was counted from.
    """

    count: int
    based_on: tuple[datetime, ...]


Step = (
    OpenGate
    | CloseGate
    | BeginRestart
    | ExecuteRestart
    | FinishRestart
    | Prove
    | Report
    | Died
    | WouldDo
    | ResetBudget
    | Recount
)


@dataclass(frozen=True)
class Decisions:
    """The steps to perform, the memory for the next round, and why remediation is suspended."""

    steps: tuple[Step, ...]
    memory: Memory
    suspended: Suspension | None = None

    @property
    def go_on(self) -> bool:
        """Whether the next round should follow at once, because a restart has begun."""
        return any(isinstance(step, BeginRestart) for step in self.steps)

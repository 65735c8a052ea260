"""The steps that a decision may consist of. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from qwen_operator.api import RestartIntent
from qwen_operator.remediation.memory import Memory
from qwen_operator.remediation.values import Pod
from qwen_operator.status.conditions import Suspension


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

    step: CloseGate | BeginRestart


@dataclass(frozen=True)
class ResetBudget:
    """Forgets past restarts, because somebody asked for it with a new value of the annotation."""

    value: str


Step = (
    OpenGate | CloseGate | BeginRestart | ExecuteRestart | FinishRestart | Prove | Report | Died | WouldDo | ResetBudget
)


@dataclass(frozen=True)
class Decisions:
    """What to do now, what to remember, and why nothing is done where something should be."""

    steps: tuple[Step, ...]
    memory: Memory
    suspended: Suspension | None = None

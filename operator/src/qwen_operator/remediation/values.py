"""The inputs of remediation: pods, their evidence, a rollout, a round of polling. Pure.

Times called `mono` are seconds on the operator's monotonic clock.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from qwen_operator.api import MAX_EVIDENCE
from qwen_operator.status.adapters import AdapterReport

_EXCERPT: Final = ("status", "alerts", "requests", "uptime", "errors", "engine", "gpu")
"""The parts of a pod's metrics that explain an action."""


@dataclass(frozen=True)
class Instant:
    """A point in time on both clocks; `wall` is in UTC."""

    mono: float
    wall: datetime


class Gate(StrEnum):
    """The readiness gate of a pod."""

    MISSING = "Missing"
    """The pod template has no such gate."""
    UNSET = "Unset"
    """The condition was never written: the pod is new."""
    OPEN = "Open"
    CLOSED = "Closed"


@dataclass(frozen=True)
class Pod:
    """A pod, from its object in the API.

    Attributes:
        ready: the condition Ready: containers and gates.
        running: the condition ContainersReady: level 1 of readiness.
        closed_for, closed_since: the alert and the time in the condition of a closed gate.
        newest: whether it belongs to the newest revision of the Deployment.
        restarts: the restart count of the server's container.
        exit_code: the exit code of its last termination, None if it never terminated.
        out_of_memory: whether it was killed then for lack of memory.
        restart_id: the value of the annotation that requests a restart in place.
        engine_restart_id: the value of the one that requests a restart of the engine.
        created: when the pod was created, by the clock of the API server.
        unschedulable: whether the scheduler finds no node for it.
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
    out_of_memory: bool = False
    restart_id: str = ""
    engine_restart_id: str = ""
    closed_for: str = ""
    closed_since: datetime | None = None
    created: datetime | None = None
    unschedulable: bool = False


@dataclass(frozen=True)
class Evidence:
    """What a pod reports: uptime in seconds, active alerts, requests running or waiting.

    `gpus` are the UUIDs of its GPUs. `active_for` says for how many seconds an alert has been
    active, by the clock of the pod; it lacks those of which the pod does not say it. `asked_at` is
    when the pod was asked: an answer says nothing about later. None means just now. `adapters` are
    its LoRA adapters by name. `engine_restarts` is how often the server has restarted its engine,
    `engine_restarts_left` how often it may now, and `restarting` whether it does. A server that
    says nothing of it cannot.
    """

    uptime: float
    alerts: frozenset[str] = frozenset()
    busy: int = 0
    gpus: tuple[str, ...] = ()
    active_for: Mapping[str, float] = field(default_factory=dict, compare=False)
    adapters: Mapping[str, AdapterReport] = field(default_factory=dict, compare=False)
    engine_restarts: int = 0
    engine_restarts_left: int = 0
    restarting: bool = False
    body: bytes = field(default=b"{}", compare=False)
    asked_at: float | None = field(default=None, compare=False)

    @property
    def raw(self) -> dict[str, Any]:
        """The whole answer; empty if it cannot be read.

        It is kept as text and read again where something happens: the objects would take several
        times the memory, for each pod.
        """
        try:
            answer = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return answer if isinstance(answer, dict) else {}

    @property
    def excerpt(self) -> str:
        """The parts that explain an action, as JSON; empty if that is not possible.

        A pod may answer anything: text that is no Unicode, or lists a thousand deep.
        """
        answer = self.raw
        kept = {name: answer[name] for name in _EXCERPT if name in answer}
        try:
            text = json.dumps(kept, ensure_ascii=False) if kept else ""
        except (ValueError, TypeError, RecursionError):
            return ""
        return text[:MAX_EVIDENCE].encode(errors="replace").decode()


@dataclass(frozen=True)
class Rollout:
    """Whether the Deployment is replacing its pods, and whether its progress deadline passed."""

    under_way: bool = False
    stalled: bool = False


@dataclass(frozen=True)
class Round:
    """The result of one round of polling.

    `evidence` has an entry for each pod that was polled, None if it gave no valid answer; those in
    `garbled` gave an answer that is not valid. `proofs` has the results of the test generations
    that ended since the last round.
    """

    pods: tuple[Pod, ...]
    evidence: Mapping[str, Evidence | None]
    desired: int
    proofs: Mapping[str, bool] = field(default_factory=dict)
    rollout: Rollout = Rollout()
    reset: str = ""
    """The value of the annotation that resets the budget."""
    garbled: frozenset[str] = frozenset()

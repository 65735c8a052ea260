"""Decides which pod to restart, when and how, and tracks the progress of a restart. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final, Literal

from qwen_operator.api import RestartIntent, format_time
from qwen_operator.api.catalogue import AlertClass
from qwen_operator.remediation import ledger as ledgers
from qwen_operator.remediation.state import State
from qwen_operator.remediation.steps import BeginRestart, ExecuteRestart, FinishRestart, Step
from qwen_operator.remediation.values import Gate, Instant, Pod
from qwen_operator.status.conditions import Suspension

DEAD: Final = "EngineDead"
"""The alert of a dead engine.

Polls rarely see it, because the process exits: the exit code reveals it.
"""
MAX_DEATHS: Final = 3
"""Deaths of the engine, without becoming ready in between, after which a pod is evicted."""
MAX_FAILED_PROOFS: Final = 2
"""Consecutive failed test generations after which a pod without an alert counts as unhealthy."""
_RESTART_SECONDS: Final = 60.0
"""Seconds after which a container that was asked to restart has ignored the request."""


def restart_id(intent: RestartIntent) -> str:
    """The value of the annotation that requests this restart."""
    return format_time(intent.time)


def acted(intent: RestartIntent, pod: Pod) -> bool:
    """Whether the restart of an intent was already triggered."""
    # The kubelet restarts a dying container repeatedly. That is not the eviction of this intent.
    restarted = pod.restarts > intent.restart_count and intent.alert != DEAD
    return pod.restart_id == restart_id(intent) or restarted or pod.deleting


def call_off(state: State) -> list[FinishRestart]:
    """Ends the restarts in progress, because remediation is not enforced.

    A restart that was already triggered still counts against the budget.
    """
    pods = {pod.uid: pod for pod in state.seen.pods}
    return [
        FinishRestart(
            intent,
            "Cancelled" if intent.pod_uid in pods and not acted(intent, pods[intent.pod_uid]) else "Unattended",
        )
        for intent in state.ledger.intents
    ]


def next_steps(state: State) -> tuple[Sequence[Step], Suspension | None]:
    """Continues the restart in progress or begins one.

    Also returns why none begins although one is due.
    """
    if state.ledger.intents:
        return [step for intent in state.ledger.intents for step in _go_on(state, intent)], None
    return _begin(state)


def _go_on(state: State, intent: RestartIntent) -> list[Step]:
    pod = next((pod for pod in state.seen.pods if pod.uid == intent.pod_uid), None)
    age = _age(intent, state.now)
    if pod is not None and not acted(intent, pod) and age <= state.policy.drain + state.policy.startup:
        return _execute(state, intent, pod, age)
    outcome = _outcome(state, intent, pod, age)
    return [FinishRestart(intent, outcome)] if outcome else []


def _outcome(state: State, intent: RestartIntent, pod: Pod | None, age: float) -> str:
    """The outcome of a restart that was triggered; empty while it is in progress."""
    if age > state.policy.drain + state.policy.startup:
        return "ReplacementPending"
    if pod is None or pod.deleting:
        return _replaced(state)
    if pod.restarts > intent.restart_count:
        not_cured = pod.running and _due(state, pod)
        return "Recovered" if pod.ready else "NotCured" if not_cured else ""
    return "NotRestarted" if intent.method == "InPlace" and age > state.policy.drain + _RESTART_SECONDS else ""


def _replaced(state: State) -> str:
    """The outcome of the eviction of a pod that is gone; empty while its replacement starts."""
    members = state.members
    if sum(pod.ready for pod in members) >= state.seen.desired:
        return "Recovered"
    all_run = sum(pod.running for pod in members) >= state.seen.desired
    return "NotCured" if all_run and any(_due(state, pod) for pod in members) else ""


def _execute(state: State, intent: RestartIntent, pod: Pod, age: float) -> list[Step]:
    hung = state.policy.kind(intent.alert) is AlertClass.ZERO_WORK
    if not state.may_leave(pod):
        # Other pods became unhealthy since. Without a gate this one still serves.
        return [FinishRestart(intent, "Cancelled")] if age > state.policy.drain else []
    shut = pod.gate in (Gate.CLOSED, Gate.MISSING) or not pod.running
    drained = hung or pod.gate is Gate.MISSING or not pod.running or state.memory[pod.uid].idle_polls >= 2
    if (shut and drained) or age >= state.policy.drain:
        return [ExecuteRestart(pod, intent, hung)]
    return []


def _begin(state: State) -> tuple[Sequence[Step], Suspension | None]:
    due = [pod for pod in state.members if _due(state, pod) or _keeps_dying(state, pod)]
    allowed = [pod for pod in due if state.may_leave(pod) and _rollout_allows(state, pod)]
    systemic = [pod for pod in allowed if _systemic(state, pod)]
    candidates = [pod for pod in allowed if pod not in systemic and _has_peer(state, pod)]
    if not candidates:
        if not systemic:
            return [], None
        return [], Suspension("SystemicErrors", "More than half of the pods have the alert: a restart would not help.")
    if not ledgers.budget_left(state.ledger, state.policy, state.now.wall):
        return [], Suspension(
            "BudgetExhausted",
            f"The budget of {state.policy.max_restarts} restarts within {state.policy.window:g} s is exhausted. "
            "To reset it, change the value of the annotation qwen-vllm.io/reset-restart-budget.",
        )
    if ledgers.backoff_left(state.ledger, state.policy, state.now.wall) > 0:
        return [], None
    pod = min(candidates, key=lambda pod: (_latch_since(state, pod), pod.name))
    intent = RestartIntent(
        pod_uid=pod.uid,
        pod=pod.name,
        alert=_cause(state, pod),
        method=_method(state, pod),
        time=ledgers.whole_second(state.now.wall),
        restart_count=pod.restarts,
    )
    return [BeginRestart(pod, intent)], None


def _due(state: State, pod: Pod) -> bool:
    """Whether a pod has been out of rotation long enough without recovering, by fresh evidence."""
    memory = state.memory[pod.uid]
    latch = memory.latch
    if latch is None or latch.released or not memory.fresh or not pod.node_ready:
        return False
    policy = state.policy.alerts.get(latch.alert)
    if policy is None or policy.restart_after is None:
        return False
    unhealthy = memory.quiet_since is None or memory.failures >= MAX_FAILED_PROOFS
    return unhealthy and state.now.mono - latch.since >= (0.0 if latch.repeated else policy.restart_after)


def _keeps_dying(state: State, pod: Pod) -> bool:
    """Whether restarts by the kubelet have not helped. Another node or GPU may."""
    rule = state.policy.alerts.get(DEAD)
    return rule is not None and pod.node_ready and not pod.ready and state.memory[pod.uid].deaths >= MAX_DEATHS


def _cause(state: State, pod: Pod) -> str:
    """The alert that a restart would be a response to."""
    latch = state.memory[pod.uid].latch
    return latch.alert if latch is not None and _due(state, pod) else DEAD


def _rollout_allows(state: State, pod: Pod) -> bool:
    rollout = state.seen.rollout
    if rollout.stalled and pod.newest:
        return False
    if rollout.under_way:
        return not pod.newest and _kind(state, pod) is AlertClass.ZERO_WORK
    return True


def _systemic(state: State, pod: Pod) -> bool:
    return _kind(state, pod) is AlertClass.RELATIVE and state.systemic(_cause(state, pod))


def _has_peer(state: State, pod: Pod) -> bool:
    """Whether another pod serves. A relative alert is meaningful only compared with a peer."""

    if _kind(state, pod) is not AlertClass.RELATIVE:
        return True
    return any(other.uid != pod.uid and state.in_rotation(other) for other in state.members)


def _kind(state: State, pod: Pod) -> AlertClass | None:
    return state.policy.kind(_cause(state, pod))


def _latch_since(state: State, pod: Pod) -> float:
    latch = state.memory[pod.uid].latch
    return latch.since if latch else state.now.mono


def _method(state: State, pod: Pod) -> Literal["InPlace", "Evict"]:
    if _kind(state, pod) in (AlertClass.BROKEN_HARDWARE, AlertClass.DEATH):
        return "Evict"
    if state.policy.method != "Auto":
        return state.policy.method
    start = state.now.wall - timedelta(seconds=state.policy.window)
    tried = any(
        entry.pod_uid == pod.uid and entry.action == "InPlace" and not entry.dry_run and entry.time > start
        for entry in state.ledger.history
    )
    return "Evict" if tried else "InPlace"


def _age(intent: RestartIntent, now: Instant) -> float:
    return max(0.0, (now.wall - intent.time).total_seconds())

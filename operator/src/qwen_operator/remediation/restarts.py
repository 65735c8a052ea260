"""Decides which pod to restart, when and how, and tracks the progress of a restart. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, Literal

from qwen_operator.api import RestartIntent, format_time
from qwen_operator.api.catalogue import AlertClass
from qwen_operator.remediation import hardware
from qwen_operator.remediation import ledger as ledgers
from qwen_operator.remediation.memory import MAX_FAILED_PROOFS
from qwen_operator.remediation.state import State
from qwen_operator.remediation.steps import BeginRestart, ExecuteRestart, FinishRestart, Step
from qwen_operator.remediation.values import Gate, Pod
from qwen_operator.status.conditions import Suspension

DEAD: Final = "EngineDead"
"""The alert of a dead engine.

Polls rarely see it, because the process exits: the exit code reveals it.
"""
MAX_DEATHS: Final = 3
"""Deaths of the engine, without becoming ready in between, after which a pod is evicted."""
SILENT_SECONDS: Final = 60.0
"""Seconds without fresh evidence after which a closed gate opens and a restart is cancelled.

A service that is polled rarely has longer: see `silent`.
"""
_RESTART_SECONDS: Final = 60.0
"""Seconds after which a container that was asked to restart has ignored the request."""
PLACE_SECONDS: Final = 30.0
"""Seconds that the replacement of an evicted pod has to get a node.

After them, the engines and containers of hung pods are restarted beside it: that needs no node.
"""
_CLOCKS: Final = timedelta(seconds=2)
"""By how much two times may differ by rounding, or by the clocks of operator and API server."""


def restart_id(intent: RestartIntent) -> str:
    """The value of the annotation that requests this restart."""
    return format_time(intent.time)


def acted(intent: RestartIntent, pod: Pod) -> bool:
    """Whether the restart of an intent was already triggered."""
    # The kubelet restarts a dying container repeatedly. That is not the eviction of this intent.
    restarted = pod.restarts > intent.restart_count and intent.alert != DEAD
    requested = restart_id(intent) in (pod.restart_id, pod.engine_restart_id)
    return requested or restarted or pod.deleting


def call_off(state: State) -> list[FinishRestart]:
    """Ends the restarts in progress, because remediation is not enforced.

    A restart that was already triggered still counts against the budget.
    """
    pods = {pod.uid: pod for pod in state.seen.pods}
    return [
        FinishRestart(intent, "Cancelled", "remediation is not enforced")
        if _waits(intent, pods)
        else FinishRestart(intent, "Unattended")
        for intent in state.ledger.intents
    ]


def next_steps(state: State) -> tuple[Sequence[Step], Suspension | None]:
    """Continues the restart in progress or begins one.

    Also returns why one that is due does not begin. While the replacement of an evicted pod finds
    no node, hung pods are restarted without an eviction all the same, one at a time.
    """
    steps: list[Step] = []
    pods = {pod.uid: pod for pod in state.seen.pods}
    going = False
    for intent in sorted(state.ledger.intents, key=lambda intent: (_waits(intent, pods), intent.time)):
        pod = pods.get(intent.pod_uid)
        if pod is None or acted(intent, pod):
            outcome = _outcome(state, intent, pod)
            steps += [FinishRestart(intent, outcome)] if outcome else []
            going = going or bool(outcome) or not waits_for_node(state, intent)
        elif going:
            steps.append(FinishRestart(intent, "Cancelled", "another restart is in progress"))
        else:
            steps += _examine(state, intent, pod)
            going = True
    if going:
        return steps, None
    begun, suspended = _begin(state)
    return [*steps, *begun], suspended


def waits_for_node(state: State, intent: RestartIntent) -> bool:
    """Whether a pod was evicted, and its replacement finds no node or cannot be created."""
    pod = next((pod for pod in state.seen.pods if pod.uid == intent.pod_uid), None)
    if intent.method != "Evict" or (pod is not None and not pod.deleting):
        return False
    late = state.age(intent) > state.policy.drain + PLACE_SECONDS
    return late and all(new.unschedulable for new in state.members if _is_new(state, intent, new))


def _waits(intent: RestartIntent, pods: Mapping[str, Pod]) -> bool:
    return intent.pod_uid in pods and not acted(intent, pods[intent.pod_uid])


def _outcome(state: State, intent: RestartIntent, pod: Pod | None) -> str:
    """The outcome of a restart that was triggered; empty while it is in progress."""
    age = state.age(intent)
    if age > state.policy.drain + state.policy.startup:
        return "ReplacementPending"
    if pod is None or pod.deleting:
        return _replaced(state, intent)
    if state.memory[pod.uid].restarting:
        return ""
    if pod.restarts > intent.restart_count or engine_restarted(state, intent, pod):
        not_cured = pod.running and due(state, pod)
        return "Recovered" if pod.ready else "NotCured" if not_cured else ""
    return "NotRestarted" if intent.method != "Evict" and age > state.policy.drain + _RESTART_SECONDS else ""


def engine_restarted(state: State, intent: RestartIntent, pod: Pod) -> bool:
    """Whether the server has restarted its engine since the restart was decided."""
    restarts = state.memory[pod.uid].engine_restarts
    return intent.method == "Engine" and restarts is not None and restarts > intent.engine_restarts


def _replaced(state: State, intent: RestartIntent) -> str:
    """The outcome of the eviction of a pod that is gone; empty while its replacement starts.

    Other pods may have been missing before. They are not waited for.
    """
    members = state.members
    new = [pod for pod in members if _is_new(state, intent, pod)]
    if any(pod.ready for pod in new) or sum(pod.ready for pod in members) >= state.seen.desired:
        return "Recovered"
    runs = any(pod.running for pod in new) or sum(pod.running for pod in members) >= state.seen.desired
    return "NotCured" if runs and any(due(state, pod) for pod in new or members) else ""


def _is_new(state: State, intent: RestartIntent, pod: Pod) -> bool:
    """Whether a pod was made after a restart was decided.

    A process that has looked at the service since before that knows. Another one compares the time
    of the API server with that of the operator, and their clocks may differ.
    """
    age = state.age(intent) + _CLOCKS.total_seconds()
    if state.now.mono - state.began > age:
        return state.now.mono - state.memory[pod.uid].first_seen <= age
    begun = state.ahead.get(intent.time, intent.time) - _CLOCKS
    return pod.created is not None and pod.created >= begun


def _examine(state: State, intent: RestartIntent, pod: Pod) -> list[Step]:
    """Executes a restart that was decided, if current evidence still asks for it.

    Much may have changed since, above all if the operator was away.
    """
    why_not = _obsolete(state, intent, pod)
    if why_not:
        return [FinishRestart(intent, "Cancelled", why_not)]
    age = state.age(intent)
    if not _still_right(state, intent, pod):
        # After a start of the operator, two polls must show the state of the pod first.
        watched = state.now.mono - state.memory[pod.uid].first_seen > state.policy.current_for
        # A poll may have been missed, however rare polls are.
        too_late = watched and age > max(state.policy.drain, state.policy.current_for)
        return [FinishRestart(intent, "Cancelled", "it could not be restarted in time")] if too_late else []
    hung = state.policy.kind(intent.alert) is AlertClass.ZERO_WORK
    shut = pod.gate in (Gate.CLOSED, Gate.MISSING) or not pod.running
    drained = hung or pod.gate is Gate.MISSING or not pod.running or state.memory[pod.uid].idle_polls >= 2
    return [ExecuteRestart(pod, intent, hung)] if (shut and drained) or age >= state.policy.drain else []


def _obsolete(state: State, intent: RestartIntent, pod: Pod) -> str:
    """Why a restart that was decided is no longer wanted; empty if it is."""
    memory = state.memory[pod.uid]
    if intent.alert == DEAD:
        return "its engine works again" if pod.running else ""
    if state.current(pod) and memory.quiet_polls >= 2 and memory.failures < MAX_FAILED_PROOFS:
        return "its alert has ended"
    if silent(state, pod):
        return "there is no evidence of its state"
    return ""


def _still_right(state: State, intent: RestartIntent, pod: Pod) -> bool:
    """Whether the restart of an intent may be executed now, by fresh evidence."""
    alert = intent.alert
    if not state.may_leave(pod) or not _rollout_allows(state, pod, alert) or not pod.node_ready:
        return False
    if alert == DEAD:
        return state.age(intent) <= state.policy.drain or _keeps_dying(state, pod)
    if state.policy.kind(alert) is AlertClass.RELATIVE and (state.systemic(alert, pod) or not state.others_serve(pod)):
        return False
    return state.memory[pod.uid].fresh and unhealthy(state, pod)


def _begin(state: State) -> tuple[Sequence[Step], Suspension | None]:
    candidates, suspended = _candidates(state)
    if not candidates:
        return [], suspended
    if not ledgers.budget_left(state.ledger, state.policy, state.now.wall):
        return [], budget_exhausted(state)
    now = [
        pod
        for pod in candidates
        if (state.memory[pod.uid].fresh or cause(state, pod) == DEAD)
        and ledgers.paused_until(state.ledger, state.policy, pod.uid, state.now.wall) is None
    ]
    if not now:
        return [], suspended
    pod = min(now, key=lambda pod: _turn(state, pod))
    alert = cause(state, pod)
    intent = RestartIntent(
        pod_uid=pod.uid,
        pod=pod.name,
        alert=alert,
        method=_method(state, pod, alert),
        # The later of both clocks: a restart must not look older than it is to the next process.
        time=ledgers.whole_second(max(state.now.wall, state.wall)),
        restart_count=pod.restarts,
        engine_restarts=state.memory[pod.uid].engine_restarts or 0,
    )
    left = hardware.left_behind(state, pod, intent) if hardware.blamed(state, alert) else None
    beside = tuple(state.ledger.intents)
    return [BeginRestart(pod, intent, state.restart_times, _counted(state), left, beside)], suspended


def budget_exhausted(state: State) -> Suspension:
    """The suspension while a restart is due that the budget does not allow."""
    remedy = " To reset it, change the value of the annotation qwen-vllm.io/reset-restart-budget."
    return Suspension("BudgetExhausted", f"{spent(state)}{remedy if state.policy.max_restarts else ''}")


def spent(state: State) -> str:
    """That the budget is exhausted, and when it allows the next restart."""
    if not state.policy.max_restarts:
        return "remediation.restartBudget.maxRestarts is 0, which allows no restart. Raise it."
    policy, free = state.policy, ledgers.free_at(state.ledger, state.policy, state.now.wall)
    text = f"The budget of {policy.max_restarts} restarts within {policy.window:g} s is exhausted."
    return text if free is None else f"{text} The next restart is possible at {format_time(free)}."


def _counted(state: State) -> tuple[datetime, ...]:
    """The restart times of the ledger in the API that count against the budget."""
    start = state.now.wall - timedelta(seconds=state.policy.window)
    return tuple(time for time in state.restart_times if state.ahead.get(time, time) > start)


def _candidates(state: State) -> tuple[list[Pod], Suspension | None]:
    """The pods that may be restarted, and why others that are due may not."""
    candidates: list[Pod] = []
    suspended = None
    for pod in state.members:
        if pod.uid in state.reported or not (due(state, pod) or _keeps_dying(state, pod)):
            continue
        alert = cause(state, pod)
        if not state.may_leave(pod) or not _rollout_allows(state, pod, alert):
            continue
        if state.policy.kind(alert) is AlertClass.RELATIVE:
            if state.systemic(alert, pod):
                suspended = suspended or systemic_errors(alert)
                continue
            if not state.others_serve(pod):
                continue  # the alert is meaningful only compared with a peer
        if hardware.blamed(state, alert) and hardware.tried_enough(state, pod):
            suspended = hardware.suspension(state, pod, alert)
            continue
        if state.ledger.intents and not needs_no_node(state, pod, alert):
            continue
        candidates.append(pod)
    return candidates, suspended


def needs_no_node(state: State, pod: Pod, alert: str) -> bool:
    """Whether a pod is hung and is restarted without an eviction, so that it keeps its node."""
    return state.policy.kind(alert) is AlertClass.ZERO_WORK and _method(state, pod, alert) != "Evict"


def systemic_errors(alert: str) -> Suspension:
    """The suspension while more than half of the pods have the same alert."""
    return Suspension("SystemicErrors", f"More than half of the pods have {alert}: a restart would not help.")


def unhealthy(state: State, pod: Pod) -> bool:
    """Whether two polls, one of them recent, or two test generations found the pod unhealthy."""
    memory = state.memory[pod.uid]
    sick = any(streak.polls >= 2 and state.policy.takes_out(alert) for alert, streak in memory.streaks.items())
    return state.current(pod) and (sick or memory.failures >= MAX_FAILED_PROOFS)


def due(state: State, pod: Pod) -> bool:
    """Whether a pod has been out of rotation long enough without recovering."""
    latch = state.memory[pod.uid].latch
    if latch is None or latch.released or not pod.node_ready or not unhealthy(state, pod):
        return False
    policy = state.policy.alerts.get(latch.alert)
    if policy is None or policy.restart_after is None:
        return False
    wait = 0.0 if latch.repeated else policy.restart_after
    if state.surely_dead(pod) and policy.restart_in_outage is not None and _nobody_serves(state):
        wait = min(wait, policy.restart_in_outage)
    return state.now.mono - latch.since >= wait


def _nobody_serves(state: State) -> bool:
    return not any(state.in_rotation(pod) for pod in state.members)


def silent_for(state: State, pod: Pod) -> float:
    """Seconds without fresh evidence."""
    memory = state.memory[pod.uid]
    return state.now.mono - max(memory.first_seen, memory.fresh_at if memory.fresh_at is not None else 0.0)


def silent(state: State, pod: Pod) -> bool:
    """Whether there was no fresh evidence for a minute, or for three polls if they take longer."""
    return silent_for(state, pod) >= max(SILENT_SECONDS, state.policy.current_for)


def _keeps_dying(state: State, pod: Pod) -> bool:
    """Whether restarts by the kubelet have not helped. Another node or GPU may."""
    rule, memory = state.policy.alerts.get(DEAD), state.memory[pod.uid]
    if rule is None or rule.restart_after is None or memory.dying_since is None:
        return False
    long_enough = state.now.mono - memory.dying_since >= rule.restart_after
    return long_enough and pod.node_ready and not pod.running and memory.deaths >= MAX_DEATHS


def cause(state: State, pod: Pod) -> str:
    """The alert that a restart would be a response to."""
    latch = state.memory[pod.uid].latch
    return latch.alert if latch is not None and due(state, pod) else DEAD


def _rollout_allows(state: State, pod: Pod, alert: str) -> bool:
    rollout = state.seen.rollout
    if rollout.stalled and pod.newest:
        return False
    if rollout.under_way:
        return not pod.newest and state.policy.kind(alert) is AlertClass.ZERO_WORK
    return True


def _turn(state: State, pod: Pod) -> tuple[bool, float, str]:
    """Who is restarted first. A pod whose last restart was not made lets the others go first."""
    latch = state.memory[pod.uid].latch
    again = ledgers.not_made(state.ledger, pod.uid) is not None
    return again, latch.since if latch else state.now.mono, pod.name


def _method(state: State, pod: Pod, alert: str) -> Literal["Engine", "InPlace", "Evict"]:
    """How the pod is restarted: by what loses least, and what was not tried before."""
    if hardware.blamed(state, alert):
        return "Evict"
    method, memory = state.policy.method, state.memory[pod.uid]
    able = alert != DEAD and memory.fresh and memory.engine_restarts_left > 0 and memory.restarting_since is None
    if method == "Engine":
        return "Engine" if able else "InPlace"
    if method != "Auto":
        return method
    start = state.now.wall - timedelta(seconds=state.policy.window)
    if ledgers.tried(state.ledger, "InPlace", pod.uid, start):
        return "Evict"
    return "Engine" if able and not ledgers.tried(state.ledger, "Engine", pod.uid, start) else "InPlace"

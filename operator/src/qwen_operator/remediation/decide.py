"""Decides what to do about the pods of one service: `decide(...)`. Pure; the clock is passed in.

The order in a round: update the memory from the evidence, take unhealthy pods out of rotation, let
recovered ones back in, continue the restart in progress or begin one, report other alerts, request
test generations.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from qwen_operator.api import RemediationStatus
from qwen_operator.api.catalogue import AlertClass
from qwen_operator.remediation import ledger as ledgers
from qwen_operator.remediation import restarts
from qwen_operator.remediation.memory import Memory, PodMemory, observe, take_out
from qwen_operator.remediation.policy import Policy
from qwen_operator.remediation.state import State
from qwen_operator.remediation.steps import (
    BeginRestart,
    CloseGate,
    Decisions,
    Died,
    OpenGate,
    Prove,
    Report,
    ResetBudget,
    Step,
    WouldDo,
)
from qwen_operator.remediation.values import Gate, Instant, Pod, Round
from qwen_operator.status.conditions import Suspension

PROOFS: Final = 3
"""Successful test generations after which a pod counts as healthy."""
FAIL_OPEN_SECONDS: Final = 60.0
"""Seconds without fresh evidence after which a closed gate opens; the kubelet still probes."""
_SEVERITY: Final = {AlertClass.ZERO_WORK: 0, AlertClass.BROKEN_HARDWARE: 1, AlertClass.RELATIVE: 2}


def decide(seen: Round, policy: Policy, ledger: RemediationStatus, memory: Memory, now: Instant) -> Decisions:
    """The steps of one round.

    Args:
        seen: the pods and the result of polling them.
        policy: what the spec allows.
        ledger: the current `status.remediation`.
        memory: the memory that the last decision returned; empty after a start of the operator.
        now: the current time, on both clocks.
    """
    state = State(seen, policy, ledger, observe(memory, seen, policy, now), now)
    steps: list[Step] = _died(state, memory)
    if seen.reset and seen.reset != ledger.handled_reset:
        steps.append(ResetBudget(seen.reset))
        state.ledger = ledgers.reset(ledger, seen.reset)
    if policy.mode == "Off":
        steps += restarts.call_off(state)
        steps += _open_all(state)
        return Decisions(tuple(steps), {uid: replace(m, latch=None) for uid, m in state.memory.items()})
    suspended = _take_out(state)
    if policy.mode == "DryRun":
        return _dry_run(state, steps, suspended)
    steps += _gates(state)
    restart, blocked = restarts.next_steps(state)
    steps += restart
    steps += _reports(state)
    steps += _proofs(state)
    return Decisions(tuple(steps), state.memory, blocked or suspended)


def _died(state: State, before: Memory) -> list[Step]:
    """The pods whose engine died since the last round."""
    return [
        Died(pod)
        for pod in state.members
        if (old := before.get(pod.uid)) is not None and state.memory[pod.uid].deaths > old.deaths
    ]


def _take_out(state: State) -> Suspension | None:
    """Latches the pods that must leave rotation, most urgent first, as far as the guards allow."""
    suspended = None
    wanted = {pod.uid: alert for pod in state.members if (alert := _reason_to_leave(state, pod))}
    for pod in state.members:
        memory = state.memory[pod.uid]
        recovered = pod.uid not in wanted and memory.fresh and memory.quiet_since is not None
        if memory.latch is not None and memory.latch.held_back and recovered:
            state.memory[pod.uid] = replace(memory, latch=None)
    for pod in sorted(state.members, key=lambda pod: _urgency(state, pod, wanted.get(pod.uid, ""))):
        alert = wanted.get(pod.uid)
        if alert is None:
            continue
        _worsen(state, pod, alert)
        latch = state.memory[pod.uid].latch
        if latch is not None and not latch.held_back:
            continue
        if state.policy.kind(alert) is AlertClass.RELATIVE and state.systemic(alert):
            suspended = Suspension(
                "SystemicErrors", f"More than half of the pods have {alert}: a restart would not help."
            )
            continue
        held_back = pod.gate is Gate.MISSING or not state.may_leave(pod)
        state.memory[pod.uid] = take_out(state.memory[pod.uid], alert, state.now, held_back=held_back)
    return suspended


def _worsen(state: State, pod: Pod, alert: str) -> None:
    """Replaces the relative alert of a latch by a more severe one: a restart then needs no peer."""

    memory = state.memory[pod.uid]
    if memory.latch is None or _severity(state, memory.latch.alert) <= max(1, _severity(state, alert)):
        return
    state.memory[pod.uid] = replace(memory, latch=replace(memory.latch, alert=alert, since=state.now.mono))


def _severity(state: State, alert: str) -> int:
    kind = state.policy.kind(alert)
    return 9 if kind is None else _SEVERITY.get(kind, 9)


def _reason_to_leave(state: State, pod: Pod) -> str | None:
    """The most severe alert that was active long enough to take the pod out, by fresh evidence."""
    memory = state.memory[pod.uid]
    if not memory.fresh or not pod.node_ready:
        return None
    due = [
        alert
        for alert, streak in memory.streaks.items()
        if (after := state.policy.alerts[alert].unready_after) is not None
        and streak.polls >= 2
        and streak.seconds >= after
    ]
    return min(due, key=lambda alert: (_SEVERITY[state.policy.alerts[alert].kind], alert), default=None)


def _urgency(state: State, pod: Pod, alert: str) -> tuple[int, float, str]:
    streak = state.memory[pod.uid].streaks.get(alert)
    return (_severity(state, alert), -(streak.seconds if streak else 0.0), pod.name)


def _gates(state: State) -> list[Step]:
    """Opens and closes gates to match the latches."""
    steps: list[Step] = []
    for pod in state.members:
        if pod.gate is Gate.MISSING:
            continue
        latch = state.memory[pod.uid].latch
        if latch is not None and not latch.held_back and not latch.released:
            reason = _reason_to_return(state, pod, state.memory[pod.uid])
            if reason:
                latch = replace(latch, released=reason)
                state.memory[pod.uid] = replace(state.memory[pod.uid], latch=latch)
        if latch is None or latch.held_back:
            if pod.gate is Gate.UNSET and pod.uid in state.seen.evidence:
                steps.append(OpenGate(pod, "NewPod"))
        elif latch.released:
            if pod.gate is not Gate.OPEN:
                steps.append(OpenGate(pod, latch.released, latch.alert))
        elif pod.gate is not Gate.CLOSED:
            steps.append(CloseGate(pod, latch.alert))
    return steps


def _reason_to_return(state: State, pod: Pod, memory: PodMemory) -> str:
    """Why a pod may return to rotation; empty if it may not."""
    intent = state.intent_of(pod)
    proven = len(memory.proofs) >= PROOFS and memory.proofs[-1] - memory.proofs[0] >= state.policy.recover_after
    if proven and memory.quiet_since is not None and (intent is None or restarts.acted(intent, pod)):
        return "Recovered"
    last = max(memory.first_seen, memory.fresh_at if memory.fresh_at is not None else memory.first_seen)
    if intent is None and state.now.mono - last >= FAIL_OPEN_SECONDS:
        return "NoEvidence"
    return ""


def _proofs(state: State) -> list[Step]:
    """Requests the next test generation of pods that are out of rotation and report no alert."""
    steps: list[Step] = []
    for pod in state.members:
        memory = state.memory[pod.uid]
        latch, intent = memory.latch, state.intent_of(pod)
        out = latch is not None and not latch.held_back and not latch.released and pod.gate is not Gate.MISSING
        restarting = intent is not None and not restarts.acted(intent, pod)
        if not out or restarting or not pod.running or not memory.fresh or memory.quiet_since is None:
            continue
        count = len(memory.proofs)
        due = memory.proofs[0] + min(count, PROOFS - 1) * state.policy.recover_after / (PROOFS - 1) if count else 0.0
        if memory.probing_since is None and (not count or state.now.mono >= due):
            state.memory[pod.uid] = replace(memory, probing_since=state.now.mono)
            steps.append(Prove(pod))
    return steps


def _reports(state: State) -> list[Step]:
    """Reports alerts to people, once for each time that they become active."""
    steps: list[Step] = []
    for pod in state.members:
        memory = state.memory[pod.uid]
        notified = set()
        for alert, streak in sorted(memory.streaks.items()):
            after = state.policy.alerts[alert].report_after
            if after is None or alert in memory.notified or streak.polls < 2 or streak.seconds < after:
                continue
            notified.add(alert)
            steps.append(Report(pod, alert, alert, f"{alert} is active on pod {pod.name}"))
        latch = memory.latch
        if (
            latch is not None
            and latch.held_back
            and latch.alert not in memory.notified
            and latch.alert in memory.streaks
        ):
            notified.add(latch.alert)
            steps.append(Report(pod, latch.alert, "KeptInRotation", _held_back_message(state, pod, latch.alert)))
        if notified:
            state.memory[pod.uid] = replace(memory, notified=memory.notified | notified)
    return steps


def _held_back_message(state: State, pod: Pod, alert: str) -> str:
    if pod.gate is Gate.MISSING:
        return f"{alert} is active on pod {pod.name}; it stays in rotation, because it has no readiness gate"
    return (
        f"{alert} is active on pod {pod.name}; it stays in rotation, because otherwise fewer than "
        f"minReadyReplicas ({state.policy.min_ready}) pods would be ready"
    )


def _open_all(state: State) -> list[Step]:
    """Opens all gates: Off and DryRun keep no pod out of rotation."""
    asked = state.seen.evidence
    return [
        OpenGate(pod, "NewPod" if pod.gate is Gate.UNSET else "NotEnforced")
        for pod in state.members
        if pod.gate is Gate.CLOSED or (pod.gate is Gate.UNSET and pod.uid in asked)
    ]


def _dry_run(state: State, steps: list[Step], suspended: Suspension | None) -> Decisions:
    """Reports once what Enforce would do.

    A pod without alerts for recoverAfter counts as recovered.
    """

    steps += restarts.call_off(state)
    state.ledger = state.ledger.model_copy(update={"intents": []})
    for pod in state.members:
        memory = state.memory[pod.uid]
        quiet = memory.quiet_since
        if memory.latch is not None and quiet is not None and state.now.mono - quiet >= state.policy.recover_after:
            state.memory[pod.uid] = replace(memory, latch=None, reported=frozenset())
    restart, blocked = restarts.next_steps(state)
    would: list[CloseGate | BeginRestart] = [step for step in _gates(state) if isinstance(step, CloseGate)] + [
        step for step in restart if isinstance(step, BeginRestart)
    ]
    for step in would:
        memory = state.memory[step.pod.uid]
        kind = type(step).__name__
        if kind not in memory.reported:
            state.memory[step.pod.uid] = replace(memory, reported=memory.reported | {kind})
            steps.append(WouldDo(step))
    steps += _open_all(state)
    steps += _reports(state)
    return Decisions(tuple(steps), state.memory, blocked or suspended)

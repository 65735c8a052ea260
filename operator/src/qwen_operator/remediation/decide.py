"""Decides what to do about the pods of one service: `decide(...)`. Pure; the clock is passed in.

The order in a round: update the memory from the evidence, take unhealthy pods out of rotation, let
recovered ones back in, continue the restart in progress or begin one, report other alerts, request
test generations.
"""

from __future__ import annotations

import math
from typing import Final

from qwen_operator.api import RemediationStatus
from qwen_operator.api.catalogue import AlertClass
from qwen_operator.remediation import engines, recovery, restarts, saturation, silence
from qwen_operator.remediation import ledger as ledgers
from qwen_operator.remediation.copies import replace
from qwen_operator.remediation.dry_run import would_do
from qwen_operator.remediation.memory import Memory, PodMemory, died_since, last_words, observe, take_out
from qwen_operator.remediation.policy import Policy
from qwen_operator.remediation.state import State
from qwen_operator.remediation.steps import Decisions, Died, OpenGate, Recount, Report, ResetBudget, Step
from qwen_operator.remediation.values import Gate, Instant, Pod, Round
from qwen_operator.status.conditions import Suspension

REPORT_AGAIN_SECONDS: Final = 300.0
"""Seconds after its end for which an alert that was reported is not reported again."""

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
    wall, now = now.wall, memory.steady(now)
    steps: list[Step] = []
    if seen.reset and seen.reset != ledger.handled_reset:
        steps.append(ResetBudget(seen.reset))
        ledger = ledgers.reset(ledger, seen.reset)
        memory = replace(memory, suspended=None)
    ahead = ledgers.future_times(ledger, memory.ahead, now.wall)
    state = State(
        seen,
        policy,
        ledgers.clamped(ledger, ahead, policy),
        observe(memory, seen, policy, now),
        now,
        wall,
        ahead,
        tuple(ledger.restart_times),
        began=(memory.start or now).mono,
    )
    steps += [*_recount(state), *_died(state, memory), *engines.restarts(state, memory.pods)]
    if policy.mode == "Off":
        steps += [*restarts.call_off(state), *_open_all(state)]
        state.memory = {uid: replace(pod, latch=None) for uid, pod in state.memory.items()}
        return _decisions(state, steps, replace(memory, suspended=None), None)
    suspended = _take_out(state)
    if policy.mode == "DryRun":
        steps += [*restarts.call_off(state), *would_do(state), *_open_all(state), *_reports(state)]
        return _decisions(state, steps, memory, suspended or silence.suspension(state))
    steps += recovery.gates(state)
    restart, blocked = restarts.next_steps(state)
    steps += [*restart, *_reports(state), *recovery.proofs(state)]
    return _decisions(state, steps, memory, blocked or suspended or silence.suspension(state))


def _decisions(state: State, steps: list[Step], before: Memory, suspended: Suspension | None) -> Decisions:
    """The result of a round. A suspension ends when its reason is gone for three polls."""
    current = None if suspended is None else (suspended, state.now.mono)
    if current is None and before.suspended is not None:
        _, at = before.suspended
        current = before.suspended if state.now.mono - at <= state.policy.current_for else None
    memory = Memory(state.memory, before.start or state.now, state.ahead, current, _saturated_at(state, before))
    return Decisions(tuple(steps), memory, None if current is None else current[0])


def _saturated_at(state: State, before: Memory) -> float | None:
    """When the service was last saturated, unless that is over for three polls."""
    if saturation.is_saturated(state):
        return state.now.mono
    at = before.saturated_at
    return at if at is not None and state.now.mono - at <= state.policy.current_for else None


def _recount(state: State) -> list[Step]:
    """Lowers the number of restarts in the status when the window of one has passed."""
    count = len(ledgers.restarts_in_window(state.ledger, state.policy, state.now.wall))
    return [Recount(count, state.restart_times)] if count < state.ledger.restarts_in_window else []


def _died(state: State, before: Memory) -> list[Step]:
    """The pods whose engine died since the last round."""
    rule = state.policy.alerts.get(restarts.DEAD)
    if rule is None or rule.report_after is None:
        return []
    return [
        Died(pod, last_words(old))
        for pod in state.members
        if (old := before.pods.get(pod.uid)) is not None and died_since(old, state.memory[pod.uid])
    ]


def _take_out(state: State) -> Suspension | None:
    """Latches the pods that must leave rotation, most urgent first, as far as the guards allow."""
    suspended = None
    _reconsider(state)
    wanted = {pod.uid: alert for pod in state.members if (alert := _reason_to_leave(state, pod))}
    for pod in state.members:
        memory = state.memory[pod.uid]
        recovered = pod.uid not in wanted and memory.fresh and memory.quiet_polls >= 2
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
        if state.policy.kind(alert) is AlertClass.RELATIVE and state.systemic(alert, pod):
            suspended = restarts.systemic_errors(alert)
            continue
        if not state.memory[pod.uid].fresh:
            continue  # older evidence is good enough for a condition, not for an action
        held_back = pod.gate is Gate.MISSING or not state.may_leave(pod)
        state.memory[pod.uid] = take_out(state.memory[pod.uid], alert, state.now, held_back=held_back)
    return suspended


def _reconsider(state: State) -> None:
    """Lets the guards decide again about pods whose gate could not be closed yet."""
    for pod in state.members:
        memory = state.memory[pod.uid]
        latch = memory.latch
        still_in = pod.gate in (Gate.OPEN, Gate.UNSET) and state.policy.mode == "Enforce"
        if latch is not None and still_in and not latch.released:
            state.memory[pod.uid] = replace(memory, latch=replace(latch, held_back=True))


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
    """The most severe alert that was active long enough to take the pod out."""
    memory = state.memory[pod.uid]
    if not state.current(pod) or not pod.node_ready:
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


def _reports(state: State) -> list[Step]:
    """Reports alerts to people, once for each time that they become active, but no flapping."""
    steps: list[Step] = []
    for pod in state.members:
        memory = state.memory[pod.uid]
        notified = set()
        for alert, streak in sorted(memory.streaks.items()):
            after = state.policy.alerts[alert].report_after
            if after is None or _was_reported(state, memory, alert) or streak.polls < 2 or streak.seconds < after:
                continue
            notified.add(alert)
            steps.append(Report(pod, alert, alert, f"{alert} is active on pod {pod.name}"))
        latch = memory.latch
        if (
            latch is not None
            and latch.held_back
            and not _was_reported(state, memory, latch.alert)
            and latch.alert in memory.streaks
        ):
            notified.add(latch.alert)
            steps.append(Report(pod, latch.alert, "KeptInRotation", _held_back_message(state, pod, latch.alert)))
        if notified:
            state.memory[pod.uid] = replace(memory, notified=memory.notified | notified)
    return [*steps, *silence.reports(state)]


def _was_reported(state: State, memory: PodMemory, alert: str) -> bool:
    """Whether an alert was reported since it became active, or not long before."""
    ended = state.now.mono - memory.reported_until.get(alert, -math.inf)
    return alert in memory.notified or ended < REPORT_AGAIN_SECONDS


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

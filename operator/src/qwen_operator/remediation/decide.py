"""What to do about the pods of one service: `decide(...)`. Pure; the clock is passed in.

The order within a round: learn from the evidence, take sick pods out, let healthy ones in, go on with the restart that
is under way or begin one, tell people about the rest, ask for proofs of health.
"""

from __future__ import annotations

from dataclasses import replace

from qwen_operator.api import RemediationStatus
from qwen_operator.api.catalogue import AlertClass
from qwen_operator.remediation import restarts
from qwen_operator.remediation.model import (
    FAIL_OPEN_SECONDS,
    PROOFS,
    Action,
    BeginRestart,
    CloseGate,
    Decisions,
    Died,
    Gate,
    Instant,
    Memory,
    OpenGate,
    Pod,
    PodMemory,
    Prove,
    Report,
    ResetBudget,
    Round,
    WouldDo,
)
from qwen_operator.remediation.observe import observe, take_out
from qwen_operator.remediation.policy import Policy
from qwen_operator.remediation.state import State
from qwen_operator.status.conditions import Suspension

_SEVERITY = {AlertClass.ZERO_WORK: 0, AlertClass.BROKEN_HARDWARE: 1, AlertClass.RELATIVE: 2}


def decide(seen: Round, policy: Policy, ledger: RemediationStatus, memory: Memory, now: Instant) -> Decisions:
    """The actions of one round.

    Args:
        seen: the pods and what polling found.
        policy: what the spec allows.
        ledger: `status.remediation` as it is now.
        memory: what the last decision said to remember; empty after a start.
        now: the moment, on both clocks.
    """
    state = State(seen, policy, ledger, observe(memory, seen, policy, now), now)
    actions: list[Action] = _died(state, memory)
    if seen.reset and seen.reset != ledger.handled_reset:
        actions.append(ResetBudget(seen.reset))
        state.ledger = restarts.without_budget_used(ledger, seen.reset)
    if policy.mode == "Off":
        actions += restarts.call_off(state)
        actions += _open_all(state)
        return Decisions(tuple(actions), {uid: replace(m, latch=None) for uid, m in state.memory.items()})
    suspended = _take_out(state)
    if policy.mode == "DryRun":
        return _dry_run(state, actions, suspended)
    actions += _gates(state)
    restart, blocked = restarts.step(state)
    actions += restart
    actions += _reports(state)
    actions += _proofs(state)
    return Decisions(tuple(actions), state.memory, blocked or suspended)


def _died(state: State, before: Memory) -> list[Action]:
    """The pods whose engine died since the last round."""
    return [
        Died(pod)
        for pod in state.members
        if (old := before.get(pod.uid)) is not None and state.memory[pod.uid].deaths > old.deaths
    ]


def _take_out(state: State) -> Suspension | None:
    """Latches the pods that must leave rotation, the sickest first, as far as the guards allow."""
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
                "SystemicErrors", f"more than half of the pods have {alert}: a restart cures nothing"
            )
            continue
        held_back = pod.gate is Gate.MISSING or not state.may_leave(pod)
        state.memory[pod.uid] = take_out(state.memory[pod.uid], alert, state.now, held_back=held_back)
    return suspended


def _worsen(state: State, pod: Pod, alert: str) -> None:
    """A pod that fell ill of something relative, and then of more, is treated for that: it may be restarted alone."""
    memory = state.memory[pod.uid]
    if memory.latch is None or _severity(state, memory.latch.alert) <= max(1, _severity(state, alert)):
        return
    state.memory[pod.uid] = replace(memory, latch=replace(memory.latch, alert=alert, since=state.now.mono))


def _severity(state: State, alert: str) -> int:
    kind = state.policy.kind(alert)
    return 9 if kind is None else _SEVERITY.get(kind, 9)


def _reason_to_leave(state: State, pod: Pod) -> str | None:
    """The worst alert that has been seen long enough to take the pod out, by fresh evidence of this round."""
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


def _gates(state: State) -> list[Action]:
    """Makes the gates what the latches say."""
    actions: list[Action] = []
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
                actions.append(OpenGate(pod, "NewPod"))
        elif latch.released:
            if pod.gate is not Gate.OPEN:
                actions.append(OpenGate(pod, latch.released, latch.alert))
        elif pod.gate is not Gate.CLOSED:
            actions.append(CloseGate(pod, latch.alert))
    return actions


def _reason_to_return(state: State, pod: Pod, memory: PodMemory) -> str:
    """Why a pod that is out may come back; empty when it may not."""
    intent = state.intent_of(pod)
    proven = len(memory.proofs) >= PROOFS and memory.proofs[-1] - memory.proofs[0] >= state.policy.recover_after
    if proven and memory.quiet_since is not None and (intent is None or restarts.acted(intent, pod)):
        return "Recovered"
    last = max(memory.first_seen, memory.fresh_at if memory.fresh_at is not None else memory.first_seen)
    if intent is None and state.now.mono - last >= FAIL_OPEN_SECONDS:
        return "NoEvidence"
    return ""


def _proofs(state: State) -> list[Action]:
    """Asks the pods that are out, and say that they are well, for the next of three generations."""
    actions: list[Action] = []
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
            actions.append(Prove(pod))
    return actions


def _reports(state: State) -> list[Action]:
    """Alerts that people should hear of, once for each time that they come up."""
    actions: list[Action] = []
    for pod in state.members:
        memory = state.memory[pod.uid]
        told = set()
        for alert, streak in sorted(memory.streaks.items()):
            after = state.policy.alerts[alert].report_after
            if after is None or alert in memory.notified or streak.polls < 2 or streak.seconds < after:
                continue
            told.add(alert)
            actions.append(Report(pod, alert, alert, f"{alert} is active on pod {pod.name}"))
        latch = memory.latch
        if (
            latch is not None
            and latch.held_back
            and latch.alert not in memory.notified
            and latch.alert in memory.streaks
        ):
            told.add(latch.alert)
            actions.append(Report(pod, latch.alert, "KeptInRotation", _held_back_message(state, pod, latch.alert)))
        if told:
            state.memory[pod.uid] = replace(memory, notified=memory.notified | told)
    return actions


def _held_back_message(state: State, pod: Pod, alert: str) -> str:
    if pod.gate is Gate.MISSING:
        return f"{alert} is active on pod {pod.name}, which has no readiness gate and so keeps its traffic"
    return (
        f"{alert} is active on pod {pod.name}; it stays in rotation, because fewer than "
        f"minReadyReplicas ({state.policy.min_ready}) would be left"
    )


def _open_all(state: State) -> list[Action]:
    """Off and DryRun keep no pod out."""
    asked = state.seen.evidence
    return [
        OpenGate(pod, "NewPod" if pod.gate is Gate.UNSET else "NotEnforced")
        for pod in state.members
        if pod.gate is Gate.CLOSED or (pod.gate is Gate.UNSET and pod.uid in asked)
    ]


def _dry_run(state: State, actions: list[Action], suspended: Suspension | None) -> Decisions:
    """What Enforce would do is reported once and not done; a pod that stays quiet for recoverAfter counts as back."""
    actions += restarts.call_off(state)
    state.ledger = state.ledger.model_copy(update={"intents": []})
    for pod in state.members:
        memory = state.memory[pod.uid]
        quiet = memory.quiet_since
        if memory.latch is not None and quiet is not None and state.now.mono - quiet >= state.policy.recover_after:
            state.memory[pod.uid] = replace(memory, latch=None, reported=frozenset())
    restart, blocked = restarts.step(state)
    would: list[CloseGate | BeginRestart] = [action for action in _gates(state) if isinstance(action, CloseGate)] + [
        action for action in restart if isinstance(action, BeginRestart)
    ]
    for action in would:
        memory = state.memory[action.pod.uid]
        step = type(action).__name__
        if step not in memory.reported:
            state.memory[action.pod.uid] = replace(memory, reported=memory.reported | {step})
            actions.append(WouldDo(action))
    actions += _open_all(state)
    actions += _reports(state)
    return Decisions(tuple(actions), state.memory, blocked or suspended)

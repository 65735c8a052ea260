"""What the pods' metrics say about their engines, for the status. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from qwen_operator.api import format_time
from qwen_operator.api.catalogue import AlertClass
from qwen_operator.remediation import ledger as ledgers
from qwen_operator.remediation.memory import Memory, PodMemory
from qwen_operator.remediation.state import State
from qwen_operator.remediation.steps import Report, Step
from qwen_operator.remediation.values import Gate, Pod
from qwen_operator.status.diagnosis import EngineReport

PROBED_SECONDS: Final = 15.0
"""Seconds after the restart of an engine within which the kubelet's probe succeeds again."""
RESTARTED: Final = "EngineRestartedByServer"
"""The reason of the Event about an engine that its server has replaced by itself."""


def may_matter(memory: Memory) -> bool:
    """Whether there may be reports: most services have none in most rounds."""
    return any(pod.streaks or pod.restarting_since or pod.engine_back for pod in memory.pods.values())


def engine_reports(state: State, memory: Memory) -> dict[str, EngineReport]:
    """What the status needs to know of the engines of the pods, by UID, after a round."""
    found = {pod.uid: _report(state, memory, pod) for pod in state.members}
    return {uid: report for uid, report in found.items() if report != EngineReport()}


def restarts(state: State, before: Mapping[str, PodMemory]) -> list[Step]:
    """Reports engines that their servers have restarted since the last round by themselves."""
    steps: list[Step] = []
    for pod in state.members:
        old, new = before.get(pod.uid), state.memory[pod.uid]
        if old is None or old.engine_restarts is None or new.engine_restarts is None:
            continue
        intent = state.intent_of(pod)
        asked = intent is not None and intent.method == "Engine"
        if new.engine_restarts > old.engine_restarts and not asked:
            message = f"the server of pod {pod.name} restarts its engine by itself; its log has the cause"
            steps.append(Report(pod, "", RESTARTED, message))
    return steps


def _report(state: State, memory: Memory, pod: Pod) -> EngineReport:
    seen, start, since = state.memory[pod.uid], memory.start or state.now, ""
    if seen.restarting_since is not None:
        begun = start.wall + timedelta(seconds=seen.restarting_since - start.mono)
        since = format_time(ledgers.whole_second(begun))
    back = seen.engine_back is not None and state.now.mono - seen.engine_back < PROBED_SECONDS
    alert = _hung_for(state, pod)
    return EngineReport(since, renewed=back, alert=alert, kept=_kept(state, pod) if alert else "")


def _hung_for(state: State, pod: Pod) -> str:
    """The alert by which a pod answers no requests; empty if it may answer some.

    A pod that is silent for a moment is still what it said last.
    """
    seen, policy = state.memory[pod.uid], state.policy
    if seen.fresh_at is None or state.now.mono - seen.fresh_at > policy.blind_after:
        return ""
    shown = (alert for alert, streak in seen.streaks.items() if streak.polls >= 2)
    return min((alert for alert in shown if policy.kind(alert) is AlertClass.ZERO_WORK), default="")


def _kept(state: State, pod: Pod) -> str:
    """Why a pod that answers no requests stays in rotation; empty if it leaves it."""
    if state.policy.mode != "Enforce":
        return f"remediation.mode is {state.policy.mode}"
    if pod.gate is Gate.MISSING:
        return "it has no readiness gate"
    latch = state.memory[pod.uid].latch
    if latch is None or not latch.held_back:
        return ""
    if not state.others_serve(pod):
        return "no other pod serves"
    return f"otherwise fewer than minReadyReplicas ({state.policy.min_ready}) pods would be ready"

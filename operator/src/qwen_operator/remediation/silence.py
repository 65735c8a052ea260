"""Pods that serve although their metrics cannot be read, and an operator that can read none. Pure.

Neither takes a pod out of rotation, because the kubelet's probes still guard each pod. But people
must know that remediation does not see these pods.
"""

from __future__ import annotations

from typing import Final

from qwen_operator.remediation.copies import replace
from qwen_operator.remediation.policy import POLL_SECONDS
from qwen_operator.remediation.state import State
from qwen_operator.remediation.steps import Report, Step
from qwen_operator.remediation.values import Pod
from qwen_operator.status.conditions import Suspension

UNREADABLE: Final = "MetricsUnreadable"
"""The reason of the Event about a pod that serves although its metrics cannot be read."""


def suspension(state: State) -> Suspension | None:
    """The suspension while pods serve, but the metrics of none could be read for some time."""
    if not any(_unreadable(state, pod) for pod in state.members):
        return None
    read = [at for pod in state.members if (at := state.memory[pod.uid].fresh_at) is not None]
    if read and state.now.mono - max(read) < state.policy.blind_after:
        return None
    return Suspension(
        "PodsUnreachable",
        f"The metrics of no pod could be read for {state.policy.blind_after:g} s. Pods stay in rotation, and new ones "
        "enter it, but none is taken out or restarted. Check that the operator reaches port 8000 of the pods, for "
        "example that no NetworkPolicy prevents it.",
    )


def reports(state: State) -> list[Step]:
    """Reports pods that serve although their metrics cannot be read, each time once.

    If this is so for all of them, the suspension says it.
    """
    if suspension(state) is not None:
        return []
    steps: list[Step] = []
    for pod in state.members:
        memory = state.memory[pod.uid]
        if UNREADABLE in memory.notified or not _unreadable(state, pod):
            continue
        state.memory[pod.uid] = replace(memory, notified=memory.notified | {UNREADABLE})
        message = (
            f"pod {pod.name} is ready, but its metrics cannot be read: {_why(state, pod)}. It stays in rotation, and "
            "remediation does not see its alerts"
        )
        steps.append(Report(pod, "", UNREADABLE, message))
    return steps


def _unreadable(state: State, pod: Pod) -> bool:
    since = state.memory[pod.uid].unread_since
    return since is not None and state.now.mono - since >= state.policy.blind_after


def _why(state: State, pod: Pod) -> str:
    if pod.uid in state.seen.garbled:
        return "its answer is not valid"
    if state.seen.evidence.get(pod.uid) is not None:
        return "its answer does not change"
    return f"it does not answer with status 200 within {POLL_SECONDS:g} s"

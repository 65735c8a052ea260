"""Lets pods back into rotation: proofs of health, and when they suffice. Pure."""

from __future__ import annotations

from typing import Final

from qwen_operator.remediation import restarts
from qwen_operator.remediation.copies import replace
from qwen_operator.remediation.memory import Latch
from qwen_operator.remediation.state import State
from qwen_operator.remediation.steps import CloseGate, OpenGate, Prove, Step
from qwen_operator.remediation.values import Gate, Pod

PROOFS: Final = 3
"""Successful test generations after which a pod counts as healthy, without a restart."""


def gates(state: State) -> list[Step]:
    """Opens and closes gates to match the latches."""
    steps: list[Step] = []
    for pod in state.members:
        if pod.gate is Gate.MISSING:
            continue
        latch = state.memory[pod.uid].latch
        if latch is not None and not latch.held_back and not latch.released:
            reason = _reason_to_return(state, pod, latch)
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


def proofs(state: State) -> list[Step]:
    """Requests the next test generation of pods that are out of rotation and report no alert."""
    steps: list[Step] = []
    for pod in state.members:
        memory = state.memory[pod.uid]
        latch = memory.latch
        if latch is None or latch.held_back or latch.released or pod.gate is Gate.MISSING:
            continue
        if not pod.running or not memory.fresh or memory.quiet_since is None or memory.probing_since is not None:
            continue
        if state.now.mono >= _next_proof(state, memory.proofs):
            state.memory[pod.uid] = replace(memory, probing_since=state.now.mono)
            steps.append(Prove(pod))
    return steps


def _next_proof(state: State, proofs: tuple[float, ...]) -> float:
    """When the next test generation is due: three within recoverAfter, then one each poll."""
    if not proofs:
        return 0.0
    if len(proofs) >= PROOFS and proofs[-1] - proofs[0] >= state.policy.recover_after:
        return proofs[-1] + state.policy.poll  # something else keeps the pod out
    return proofs[0] + min(len(proofs), PROOFS - 1) * state.policy.recover_after / (PROOFS - 1)


def _reason_to_return(state: State, pod: Pod, latch: Latch) -> str:
    """Why a pod may return to rotation; empty if it may not."""
    memory, intent = state.memory[pod.uid], state.intent_of(pod)
    restarted = intent is not None and (
        pod.restarts > intent.restart_count or restarts.engine_restarted(state, intent, pod)
    )
    if memory.quiet_polls >= 2 and memory.proofs and (intent is None or restarts.acted(intent, pod)):
        if latch.renewed or restarted:
            return "Restarted"  # a new engine, which the server has warmed up
        spread = memory.proofs[-1] - memory.proofs[0]
        if len(memory.proofs) >= PROOFS and spread >= state.policy.recover_after:
            return "Recovered"
    if intent is not None and not (restarted and pod.running):
        return ""
    return "NoEvidence" if restarts.silent(state, pod) else ""

"""What Enforce would do: a dry run reports each step of each pod once. Pure."""

from __future__ import annotations

from qwen_operator.remediation import ledger as ledgers
from qwen_operator.remediation import recovery, restarts
from qwen_operator.remediation.copies import replace
from qwen_operator.remediation.state import State
from qwen_operator.remediation.steps import BeginRestart, CloseGate, Step, WouldDo


def would_do(state: State) -> list[Step]:
    """The steps that were not reported yet.

    A pod without alerts for recoverAfter counts as recovered. A restart that was reported counts
    against budget and back-off like a real one, and the pod counts as out of rotation after it, so
    the next pod gets its turn.
    """
    for pod in state.members:
        memory = state.memory[pod.uid]
        quiet = memory.quiet_since
        if memory.latch is not None and quiet is not None and state.now.mono - quiet >= state.policy.recover_after:
            state.memory[pod.uid] = replace(memory, latch=None, would_leave=False, would_restart=None)
    _pretend(state)
    steps: list[Step] = []
    for step in recovery.gates(state):
        if isinstance(step, CloseGate) and not state.memory[step.pod.uid].would_leave:
            state.memory[step.pod.uid] = replace(state.memory[step.pod.uid], would_leave=True)
            steps.append(WouldDo(step))
    restart, _ = restarts.next_steps(state)
    for step in restart:
        if isinstance(step, BeginRestart):
            state.memory[step.pod.uid] = replace(state.memory[step.pod.uid], would_restart=step.intent)
            steps.append(WouldDo(step))
    return steps


def _pretend(state: State) -> None:
    """Enters the restarts that were reported into the ledger of this decision."""
    reported = {uid: memory.would_restart for uid, memory in state.memory.items() if memory.would_restart is not None}
    ledger = state.ledger.model_copy(update={"intents": []})
    for intent in sorted(reported.values(), key=lambda intent: intent.time):
        counted = ledgers.restarts_in_window(ledger, state.policy, state.now.wall)
        ledger = ledgers.finish(ledgers.begin(ledger, intent, state.policy, counted), intent)
    state.ledger, state.reported = ledger, frozenset(reported)

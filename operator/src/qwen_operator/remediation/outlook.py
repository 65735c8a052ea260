"""What remediation does next about each pod that is out of rotation, and what it waits for. Pure.

The times are absolute, so that the texts stay the same until something changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, NamedTuple

from qwen_operator.api import RemediationStatus, RestartIntent, format_time
from qwen_operator.api.catalogue import AlertClass
from qwen_operator.remediation import hardware, restarts
from qwen_operator.remediation import ledger as ledgers
from qwen_operator.remediation.memory import MAX_FAILED_PROOFS, Latch
from qwen_operator.remediation.policy import AlertPolicy, Policy
from qwen_operator.remediation.state import State
from qwen_operator.remediation.steps import BeginRestart, Decisions, FinishRestart, Report
from qwen_operator.remediation.values import Instant, Pod, Round

POSTPONED: Final = "RestartPostponed"
"""The reason of Events about restarts that are due and wait."""


class Outlook(NamedTuple):
    """What is next for a pod, as a sentence or two.

    `waits_for` says in one CamelCase word what holds up a restart that is due; empty if nothing
    does.
    """

    text: str
    waits_for: str = ""


def look_ahead(
    seen: Round, policy: Policy, ledger: RemediationStatus, decisions: Decisions, now: Instant
) -> dict[str, Outlook]:
    """The outlook of each pod that is latched, by its UID, after the decisions of a round."""
    memory = decisions.memory
    if policy.mode != "Enforce" or not any(pod.latch for pod in memory.pods.values()):
        return {}
    state = state_after(seen, policy, ledger, decisions, now)
    view = _View(state, memory.start or now)
    return {
        pod.uid: view.of(pod, latch)
        for pod in state.members
        if pod.uid in memory.pods and (latch := memory.pods[pod.uid].latch) is not None and not latch.released
    }


def state_after(seen: Round, policy: Policy, ledger: RemediationStatus, decisions: Decisions, now: Instant) -> State:
    """The state after the decisions of a round, as if its restarts had begun and ended."""
    memory = decisions.memory
    steady = memory.steady(now)
    done = [step.intent for step in decisions.steps if isinstance(step, FinishRestart)]
    begun = [step.intent for step in decisions.steps if isinstance(step, BeginRestart)]
    intents = [*(intent for intent in ledger.intents if intent not in done), *begun]
    return State(
        seen,
        policy,
        ledgers.clamped(ledger.model_copy(update={"intents": intents}), memory.ahead, policy),
        dict(memory.pods),
        steady,
        now.wall,
        memory.ahead,
        tuple(ledger.restart_times),
        began=(memory.start or steady).mono,
    )


def texts(outlooks: Mapping[str, Outlook]) -> dict[str, str]:
    """The texts by UID."""
    return {uid: outlook.text for uid, outlook in outlooks.items()}


@dataclass(frozen=True)
class _View:
    """A state, and the time from which its monotonic times are converted, which never changes."""

    state: State
    start: Instant

    def of(self, pod: Pod, latch: Latch) -> Outlook:
        """What is next for a latched pod."""
        memory = self.state.memory[pod.uid]
        intent = self.state.intent_of(pod)
        if intent is not None:
            return self._in_progress(pod, intent)
        unknown = self._unknown(pod)
        if unknown is not None:
            return unknown
        if memory.quiet_since is not None and memory.failures < MAX_FAILED_PROOFS:
            return Outlook("Its alert has ended. It returns when it has proved its health.")
        rule = self.state.policy.alerts.get(latch.alert)
        if rule is None or rule.restart_after is None:
            return Outlook(f"It is not restarted for {latch.alert}. It returns when the alert has ended.")
        due = self._due_at(pod, latch, rule, rule.restart_after)
        why = self._held_up(pod, latch.alert)
        if why is not None:
            return why if due <= self.state.now.mono else Outlook(f"A restart is due at {self._time(due)}. {why.text}")
        return self._planned(pod, due)

    def _unknown(self, pod: Pod) -> Outlook | None:
        """What is next for a pod of which nothing is known at the moment; None if it is known."""
        memory, policy = self.state.memory[pod.uid], self.state.policy
        if restarts.silent_for(self.state, pod) > policy.current_for:
            back = (memory.fresh_at if memory.fresh_at is not None else memory.first_seen) + restarts.SILENT_SECONDS
            return Outlook(f"Its metrics cannot be read. If this lasts, it returns at {self._time(back)}.")
        if memory.restarting and memory.restarting_since is not None:
            last = self._time(memory.restarting_since + policy.startup)
            text = "Its server restarts its engine. It returns when a test generation succeeds."
            return Outlook(f"{text} If that lasts until {last}, its alerts count again.")
        return None

    def _in_progress(self, pod: Pod, intent: RestartIntent) -> Outlook:
        policy = self.state.policy
        if restarts.acted(intent, pod):
            last = format_time(intent.time + timedelta(seconds=policy.drain + policy.startup))
            engine = intent.method == "Engine" and pod.restarts == intent.restart_count
            done = "Its server was asked for a new engine." if engine else "It was restarted."
            text = f"{done} It returns when a test generation succeeds, which may take until {last}."
            then = " If the new engine does not help, its container is restarted." if engine else ""
            return Outlook(text + (then if policy.method == "Auto" else ""))
        last = format_time(intent.time + timedelta(seconds=policy.drain))
        return Outlook(f"Its restart begins when it has no more requests, at {last} at the latest.")

    def _planned(self, pod: Pod, due: float) -> Outlook:
        """A restart that nothing but time stands in the way of."""
        ledger, policy, now = self.state.ledger, self.state.policy, self.state.now
        until = ledgers.paused_until(ledger, policy, pod.uid, now.wall)
        if until is not None and (until - now.wall).total_seconds() > due - now.mono:
            waits_for = "BackOff" if due <= now.mono else ""
            text = f"It is restarted at {format_time(until)} unless it recovers (back-off until then)."
            return Outlook(text, waits_for)
        if due <= now.mono:
            return Outlook("It is restarted as soon as its metrics confirm the alert.")
        return Outlook(f"It is restarted at {self._time(due)} unless it recovers.")

    def _held_up(self, pod: Pod, alert: str) -> Outlook | None:
        """What holds up a restart, for other reasons than the time; None if nothing does.

        The order is that of `restarts.next_steps`.
        """
        state, policy = self.state, self.state.policy
        kind, rollout = policy.kind(alert), state.seen.rollout
        free = restarts.needs_no_node(state, pod, alert)
        going = [it for it in state.ledger.intents if not (free and restarts.waits_for_node(state, it))]
        others = ", ".join(intent.pod for intent in going)
        relative = kind is AlertClass.RELATIVE
        replaced = hardware.blamed(state, alert) and hardware.tried_enough(state, pod)
        checks = (
            (bool(others), "OtherRestart", f"It is restarted after {others}: one restart at a time."),
            (not pod.node_ready, "NodeNotReady", "Its node is not ready, so Kubernetes replaces it."),
            # A pod that is hung beyond doubt may leave at any time: see `_due_at`.
            (
                kind is not AlertClass.ZERO_WORK and not state.may_leave(pod),
                "MinReadyReplicas",
                f"It is not restarted as long as fewer than minReadyReplicas ({policy.min_ready}) other pods serve.",
            ),
            (
                rollout.stalled and pod.newest,
                "RolloutStalled",
                "It is not restarted, because the rollout of its revision is stalled.",
            ),
            (
                rollout.under_way and (pod.newest or kind is not AlertClass.ZERO_WORK),
                "RolloutUnderWay",
                "It is not restarted while a rollout is under way.",
            ),
            (
                relative and state.systemic(alert, pod),
                "SystemicErrors",
                f"It is not restarted, because more than half of the pods have {alert}.",
            ),
            (
                relative and not state.others_serve(pod),
                "NoPeer",
                "It is not restarted, because no other pod serves that it can be compared with.",
            ),
            (replaced, "SameGPU", "It is not replaced again: see the condition RemediationSuspended."),
            (
                not ledgers.budget_left(state.ledger, policy, state.now.wall),
                "BudgetExhausted",
                f"It is not restarted. {restarts.spent(state)}",
            ),
        )
        return next((Outlook(text, waits_for) for holds, waits_for, text in checks if holds), None)

    def _due_at(self, pod: Pod, latch: Latch, rule: AlertPolicy, restart_after: float) -> float:
        """When a restart is due, on the monotonic clock, if nothing holds it up."""
        due = latch.since + (0.0 if latch.repeated else restart_after)
        dead = self._dead_at(pod)
        if latch.held_back and math.isfinite(dead):
            due = max(due, dead)  # until then it may not leave
        others = any(self.state.in_rotation(other) for other in self.state.members if other.uid != pod.uid)
        if rule.restart_in_outage is None or others:
            return due
        return min(due, max(latch.since + rule.restart_in_outage, dead))

    def _dead_at(self, pod: Pod) -> float:
        """When the engine is hung beyond doubt (`State.surely_dead`); infinite if it is not."""
        policy = self.state.policy
        return min(
            (
                streak.since + policy.alerts[alert].threshold
                for alert, streak in self.state.memory[pod.uid].streaks.items()
                if policy.kind(alert) is AlertClass.ZERO_WORK
            ),
            default=math.inf,
        )

    def _time(self, mono: float) -> str:
        return format_time(ledgers.whole_second(self.start.wall + timedelta(seconds=mono - self.start.mono)))


def delays(
    seen: Round, decisions: Decisions, before: Mapping[str, Outlook], after: Mapping[str, Outlook]
) -> list[Report]:
    """Reports restarts that are due and wait for something, once for each thing they wait for."""
    reports = []
    for pod in seen.pods:
        outlook, old = after.get(pod.uid), before.get(pod.uid)
        if outlook is None or not outlook.waits_for or (old is not None and old.waits_for == outlook.waits_for):
            continue
        latch = decisions.memory.pods[pod.uid].latch
        alert = "" if latch is None else latch.alert
        reports.append(Report(pod, alert, POSTPONED, f"{alert} persists on pod {pod.name}. {outlook.text}"))
    return reports

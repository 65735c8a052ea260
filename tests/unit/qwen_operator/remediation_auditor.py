"""Checks each step of a generated history against the invariants of remediation.

The auditor keeps its own record of what the pods have answered. It does not look into the memory of
the operator.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from qwen_operator.api import RestartIntent
from qwen_operator.api.catalogue import AlertClass
from qwen_operator.remediation.restarts import DEAD, acted
from qwen_operator.remediation.steps import BeginRestart, CloseGate, Decisions, ExecuteRestart, FinishRestart
from qwen_operator.remediation.values import Gate, Pod
from tests.unit.qwen_operator.remediation_world import ALERTS, World

Answer = tuple[float, frozenset[str], Mapping[str, float]]


@dataclass
class Answers:
    """What a pod has answered since the operator's start.

    `fresh` are those whose uptime differs from the one before: the time, the alerts and their ages.
    """

    uptime: float | None = None
    fresh: list[Answer] = field(default_factory=list)


@dataclass
class Auditor:
    """Checks the invariants (a) to (h) in each round."""

    world: World
    answers: dict[str, Answers] = field(default_factory=dict)
    failed_proofs: dict[str, int] = field(default_factory=dict)
    restarting: dict[str, float] = field(default_factory=dict)
    """Since when servers have said that they restart their engines."""
    begun: list[tuple[float, RestartIntent]] = field(default_factory=list)

    def round(self, perform: int | None = None) -> Decisions:
        """A round of the world, audited."""
        world = self.world
        if world.memory.start is None:
            self.answers, self.failed_proofs, self.restarting = {}, {}, {}
            # A new process knows the age of a restart only by the wall clock.
            ages = [(world.wall - intent.time).total_seconds() for _, intent in self.begun]
            self.begun = [(min(at, world.mono - age), it) for (at, it), age in zip(self.begun, ages, strict=True)]
        for uid, well in world.proofs.items():
            self.failed_proofs[uid] = 0 if well else self.failed_proofs.get(uid, 0) + 1
        if world.reset != world.ledger.handled_reset:
            self.begun = []
        mode, now = world.policy.mode, world.mono
        intents = list(world.ledger.intents)
        decisions = world.round(perform)
        pods = {pod.uid: pod for pod in world.seen.pods}
        self._listen(now)
        acting = [step for step in decisions.steps if isinstance(step, (CloseGate, BeginRestart, ExecuteRestart))]
        if mode != "Enforce":
            assert acting == [], "(h)"
        for step in acting:
            self._check_evidence(step, now)
            self._check_rollout(step)
            elsewhere = {
                item.pod.uid for item in acting if isinstance(item, CloseGate) and item.alert != "HighErrorRate"
            }
            self._check_peers(step, [pod for pod in pods.values() if pod.uid not in elsewhere], now)
        self._check_rotation(acting, pods, now)
        self._check_intents(acting, decisions, intents, pods)
        self._check_budget(decisions, now, perform)
        return decisions

    def _listen(self, now: float) -> None:
        for uid, evidence in self.world.seen.evidence.items():
            known = self.answers.setdefault(uid, Answers())
            if evidence is None or evidence.uptime == known.uptime:
                continue
            if known.uptime is not None and evidence.uptime < known.uptime:
                known.fresh, self.failed_proofs[uid] = [], 0  # a new container
                self.restarting.pop(uid, None)
            known.uptime = evidence.uptime
            known.fresh.append((now, evidence.alerts, evidence.active_for))
            if evidence.restarting:
                self.restarting.setdefault(uid, now)
            else:
                self.restarting.pop(uid, None)

    def _fresh(self, uid: str) -> list[Answer]:
        return self.answers.get(uid, Answers()).fresh

    def _current(self, uid: str, now: float) -> bool:
        """Whether there is evidence from the last three polls, each of which may take a second."""
        fresh = self._fresh(uid)
        return bool(fresh) and now - fresh[-1][0] <= 3 * self.world.policy.poll + 1.0

    def lasted(self, uid: str, alert: str, now: float) -> tuple[int, float]:
        """In how many fresh answers, and for how long, an alert was active without a break.

        It began when the pod says. If its answers differ, the latest time counts. In any case it
        began between the last answer without the alert and the first one with it.
        """
        polls, first, begun, gap = 0, now, -math.inf, 3 * self.world.policy.poll + 1.0
        without: float | None = None
        for at, alerts, ages in reversed(self._fresh(uid)):
            if first - at > gap:
                break
            if alert not in alerts:
                without = at
                break
            polls, first, begun = polls + 1, at, max(begun, at - ages.get(alert, 0.0))
        since = first if without is None else min(first, max(without, begun))
        last = self._fresh(uid)[-1][0] if self._fresh(uid) else now
        return polls, max(0.0, last - since)

    def _hung(self, uid: str, now: float) -> bool:
        """Whether the engine stood still for twice its threshold: the alert lasted for one."""
        return self._current(uid, now) and any(
            polls >= 2 and seconds >= rule.threshold
            for alert, rule in ALERTS.items()
            if rule.kind is AlertClass.ZERO_WORK
            for polls, seconds in [self.lasted(uid, alert, now)]
        )

    def _check_evidence(self, step: CloseGate | BeginRestart | ExecuteRestart, now: float) -> None:
        """(c), (d), (f): two fresh answers, the last one of this round, ask for the step."""
        alert = step.alert if isinstance(step, CloseGate) else step.intent.alert
        if alert == DEAD:
            assert not step.pod.running
            return
        assert step.pod.node_ready, "(d)"
        uid = step.pod.uid
        fresh = self._fresh(uid)
        assert fresh, "(d)"
        assert fresh[-1][0] == now, "(d)"
        active = [
            name
            for name, rule in ALERTS.items()
            if (after := rule.unready_after) is not None
            and self.lasted(uid, name, now)[0] >= 2
            and (not isinstance(step, CloseGate) or self.lasted(uid, name, now)[1] >= after)
        ]
        if isinstance(step, CloseGate):
            assert active, "(c), (f)"
        else:
            stuck = now - self.restarting.get(uid, now) > self.world.policy.startup
            assert active or self.failed_proofs.get(uid, 0) >= 2 or stuck, "(c), (d)"
            assert self.world.policy.kind(alert) not in (None, AlertClass.SATURATION), "(c)"

    def _check_rollout(self, step: CloseGate | BeginRestart | ExecuteRestart) -> None:
        """(e): no restart disturbs a rollout."""
        if isinstance(step, CloseGate):
            return
        rollout = self.world.rollout
        assert not (rollout.stalled and step.pod.newest), "(e)"
        if rollout.under_way:
            assert not step.pod.newest, "(e)"
            assert ALERTS[step.intent.alert].kind is AlertClass.ZERO_WORK, "(e)"

    def _check_peers(self, step: CloseGate | BeginRestart | ExecuteRestart, pods: list[Pod], now: float) -> None:
        """(g): an alert of more than half of the pods is systemic.

        `pods` are without those that leave for another reason.
        """
        alert = step.alert if isinstance(step, CloseGate) else step.intent.alert
        rule = ALERTS.get(alert)
        if rule is None or rule.kind is not AlertClass.RELATIVE:
            return
        within = [pod for pod in pods if pod.ready and pod.node_ready and not self._hung(pod.uid, now)]
        within = [pod for pod in within if pod.gate in (Gate.OPEN, Gate.MISSING) or pod.uid == step.pod.uid]
        have = [pod for pod in within if self._current(pod.uid, now) and alert in self._fresh(pod.uid)[-1][1]]
        assert 2 * len(have) <= max(len(within), 2), "(g)"
        if not isinstance(step, CloseGate):
            assert len([pod for pod in within if pod.uid != step.pod.uid]) >= 1, "(g)"

    def _check_rotation(
        self, acting: list[CloseGate | BeginRestart | ExecuteRestart], pods: dict[str, Pod], now: float
    ) -> None:
        """(a): what the operator does never leaves fewer pods than minReadyReplicas."""
        taken = {step.pod.uid for step in acting if isinstance(step, (CloseGate, ExecuteRestart))}
        if not taken:
            return
        serving = {
            uid
            for uid, pod in pods.items()
            if pod.ready and pod.node_ready and pod.gate in (Gate.OPEN, Gate.MISSING) and not self._hung(uid, now)
        }
        known = {uid for uid in serving if self._current(uid, now)}
        if taken & serving:
            assert len(known - taken) >= self.world.policy.min_ready, "(a)"

    def _check_intents(
        self,
        acting: list[CloseGate | BeginRestart | ExecuteRestart],
        decisions: Decisions,
        intents: list[RestartIntent],
        pods: dict[str, Pod],
    ) -> None:
        """(e): one restart at a time, and each is examined again once it has waited too long.

        Only the restart in place of a hung pod begins beside evictions whose replacement has no
        node.
        """
        begun = [step for step in acting if isinstance(step, BeginRestart)]
        executed = [step for step in acting if isinstance(step, ExecuteRestart)]
        assert len(begun) + len(executed) <= 1, "(e)"
        if begun and intents:
            assert begun[0].intent.method != "Evict", "(e)"
            assert ALERTS[begun[0].intent.alert].kind is AlertClass.ZERO_WORK, "(e)"
            assert all(intent.method == "Evict" and intent.pod_uid not in pods for intent in intents), "(e)"
            since = min(intent.time for intent in intents)
            new = [pod for pod in pods.values() if pod.created is not None and pod.created >= since]
            assert all(pod.unschedulable for pod in new), "(e)"
        finished = {step.intent.pod_uid for step in decisions.steps if isinstance(step, FinishRestart)}
        if executed:
            others = [intent for intent in intents if intent != executed[0].intent]
            under_way = [item for item in others if item.pod_uid in pods and acted(item, pods[item.pod_uid])]
            assert {item.pod_uid for item in under_way} <= finished, "(e)"

    def _check_budget(self, decisions: Decisions, now: float, perform: int | None) -> None:
        """(b): the restarts of any window are within the budget. Refunded ones do not count."""
        rules = self.world.policy
        for number, step in enumerate(decisions.steps):
            if perform is not None and number >= perform:
                break
            if isinstance(step, BeginRestart):
                self.begun.append((now, step.intent))
            elif isinstance(step, FinishRestart) and step.outcome == "Cancelled":
                self.begun = [item for item in self.begun if item[1].time != step.intent.time]
            elif isinstance(step, ExecuteRestart) and step.intent not in self.world.ledger.intents:
                # It was blocked, and so refunded.
                self.begun = [item for item in self.begun if item[1].time != step.intent.time]
        recent = [at for at, _ in self.begun if now - at < rules.window]
        assert len(recent) <= rules.max_restarts, "(b)"

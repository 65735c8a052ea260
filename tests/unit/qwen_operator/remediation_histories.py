"""Generated histories for `decide`: any starting state, any faults, and an auditor of each step.

The auditor keeps its own record of what the pods have answered. It does not look into the memory of
the operator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from random import Random

from qwen_operator.api import HistoryEntry, RemediationStatus, RestartIntent
from qwen_operator.api.catalogue import AlertClass
from qwen_operator.remediation.policy import Policy
from qwen_operator.remediation.restarts import DEAD, acted
from qwen_operator.remediation.steps import BeginRestart, CloseGate, Decisions, ExecuteRestart, FinishRestart
from qwen_operator.remediation.values import Gate, Pod, Rollout
from tests.unit.qwen_operator.remediation_world import ALERTS, EPOCH, TAKING_OUT, World, policy

# Policies and starting states.


def any_policy(random: Random) -> Policy:
    """A policy within the bounds of the spec."""
    return policy(
        min_ready=random.randint(0, 3),
        max_restarts=random.randint(0, 4),
        window=random.choice([60.0, 600.0, 3600.0]),
        backoff_base=random.choice([0.0, 5.0, 30.0]),
        backoff_max=60.0,
        recover_after=random.choice([0.0, 5.0, 30.0]),
        method=random.choice(["Auto", "InPlace", "Evict"]),
        startup=random.choice([30.0, 300.0]),
        drain=random.choice([0.0, 10.0, 60.0]),
        poll=random.choice([0.5, 2.0, 10.0]),
    )


def any_alerts(random: Random) -> frozenset[str]:
    """No alert, one that takes a pod out, or up to three of any kind."""
    kind = random.random()
    if kind < 0.4:
        return frozenset()
    if kind < 0.7:
        return frozenset({random.choice(TAKING_OUT)})
    return frozenset(random.sample(sorted(ALERTS), random.randint(1, 3)))


def any_world(random: Random) -> World:
    """A service as an operator may find it after a start, with whatever an earlier one left."""
    world = World.of(random.randint(1, 4), any_policy(random))
    world.start_seconds = random.choice([6.0, 20.0, 120.0])
    for uid in world.patients:
        gate = random.choice([Gate.OPEN, Gate.OPEN, Gate.CLOSED, Gate.UNSET, Gate.MISSING])
        closed = gate is Gate.CLOSED
        since = world.wall + timedelta(seconds=random.randint(-4000, 100))
        world.change(
            uid,
            gate=gate,
            closed_for=random.choice([*TAKING_OUT, "Unhealthy", ""]) if closed else "",
            closed_since=random.choice([None, since]) if closed else None,
            newest=random.random() < 0.5,
            node=random.choice(["", "n1", "n2"]),
            restarts=random.randint(0, 2),
            restart_id=random.choice(["", "2026-01-01T00:00:00Z"]),
            exit_code=random.choice([None, 70, 78]),
        )
        any_health(world, uid, random)
    world.ledger = any_ledger(world, random)
    return world


def any_ledger(world: World, random: Random) -> RemediationStatus:
    """Restarts in the past and the future, and intents that were never finished."""

    def moment() -> datetime:
        low, high = random.choice([(-4000, 0), (-60, 0), (0, 4000)])
        return EPOCH + timedelta(seconds=random.randint(low, high))

    times = [moment() for _ in range(random.choice([0, 0, 1, 3]))]
    intents = [
        RestartIntent(
            pod_uid=random.choice([*world.patients, "gone"]),
            pod="p",
            alert=random.choice([*TAKING_OUT, DEAD]),
            method=random.choice(["InPlace", "Evict"]),
            time=moment(),
            restart_count=random.randint(0, 2),
        )
        for _ in range(random.choice([0, 0, 1, 1, 2]))
    ]
    times += [intent.time for intent in intents]
    actions = random.choices(["InPlace", "Evict", "Blocked"], k=len(times))
    history = [
        HistoryEntry(time=time, pod="p0", pod_uid="u0", action=action)
        for time, action in zip(times, actions, strict=True)
    ]
    last = max(times, default=None)
    return RemediationStatus(
        intents=intents,
        restart_times=times,
        restarts_in_window=len(times),
        last_restart_time=last,
        backoff_until=None if last is None else last + timedelta(seconds=random.choice([0, 60])),
        history=history,
    )


# Events.


def any_health(world: World, uid: str, random: Random) -> None:
    """Another state of one pod."""
    world.patients[uid] = replace(
        world.patients[uid],
        alerts=any_alerts(random),
        silent=random.random() < 0.2,
        frozen=random.random() < 0.15,
        garbled=random.random() < 0.1,
        generates=random.random() < 0.5,
        busy=random.randint(0, 2),
        gpus=random.choice([(), ("GPU-1",), ("GPU-2",)]),
        cured_by_restart=random.random() < 0.7,
    )


def _change(world: World, random: Random) -> None:
    any_health(world, random.choice(sorted(world.patients)), random)


def _lose_node(world: World, random: Random) -> None:
    """The node is lost. The API calls its pods ready for a while, and learns of the node or not."""
    uid = random.choice(sorted(world.patients))
    world.patients[uid].silent = True
    world.change(uid, node_ready=random.random() < 0.5)


def _find_node(world: World, random: Random) -> None:
    for uid, patient in world.patients.items():
        world.change(uid, node_ready=True)
        patient.silent = patient.silent and random.random() < 0.5


def _die(world: World, random: Random) -> None:
    """The engine dies and the kubelet restarts the container."""
    uid = random.choice(sorted(world.patients))
    world.change(uid, restarts=world[uid].pod.restarts + 1, exit_code=random.choice([70, 78, 137]))
    world[uid].down_until, world[uid].uptime = world.mono + random.choice([4.0, 30.0]), 0.0


def _jump(world: World, random: Random) -> None:
    world.wall += timedelta(seconds=random.choice([-3600, -60, 5, 60, 3600, 86400]))


def _restart_operator(world: World, random: Random) -> None:
    world.forget()
    if random.random() < 0.5:
        world.advance(random.choice([2.0, 60.0, 600.0, 7200.0]))


def _roll_out(world: World, random: Random) -> None:
    world.rollout = random.choice([Rollout(), Rollout(under_way=True), Rollout(stalled=True)])


def _set_mode(world: World, random: Random) -> None:
    world.policy = replace(world.policy, mode=random.choice(["Enforce", "Enforce", "DryRun", "Off"]))


def _reset(world: World, random: Random) -> None:
    world.reset = str(random.random())


def _block_evictions(world: World, random: Random) -> None:
    world.evictions_blocked = random.random() < 0.5


Event = Callable[[World, Random], None]

FAULTS: tuple[tuple[Event, int], ...] = (
    (_change, 8),
    (_jump, 1),
    (_lose_node, 1),
    (_find_node, 1),
    (_die, 1),
    (_roll_out, 1),
)
"""What happens to pods, nodes and clocks, and how often."""
EVENTS: tuple[tuple[Event, int], ...] = (
    *FAULTS,
    (_restart_operator, 2),
    (_set_mode, 1),
    (_reset, 1),
    (_block_evictions, 1),
)
_EVENTS = [event for event, weight in EVENTS for _ in range(weight)]


def play(random: Random) -> tuple[World, Auditor]:
    """Plays a history; each step is audited."""
    world = any_world(random)
    auditor = Auditor(world)
    for _ in range(random.randint(1, 8)):
        random.choice(_EVENTS)(world, random)
        for _ in range(random.choice([1, 2, 3, 10, 40])):
            # The operator may be killed between any two steps.
            killed = random.random() < 0.03
            auditor.round(random.randint(0, 2) if killed else None)
            if killed:
                world.forget()
    return world, auditor


# The auditor.


@dataclass
class Answers:
    """What a pod has answered since the operator's start.

    `fresh` are the times and alerts of the answers whose uptime differs from the one before.
    """

    uptime: float | None = None
    fresh: list[tuple[float, frozenset[str]]] = field(default_factory=list)


@dataclass
class Auditor:
    """Checks the invariants (a) to (h) in each round."""

    world: World
    answers: dict[str, Answers] = field(default_factory=dict)
    failed_proofs: dict[str, int] = field(default_factory=dict)
    begun: list[tuple[float, RestartIntent]] = field(default_factory=list)

    def round(self, perform: int | None = None) -> Decisions:
        """A round of the world, audited."""
        world = self.world
        if world.memory.start is None:
            self.answers, self.failed_proofs = {}, {}
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
            known.uptime = evidence.uptime
            known.fresh.append((now, evidence.alerts))

    def _fresh(self, uid: str) -> list[tuple[float, frozenset[str]]]:
        return self.answers.get(uid, Answers()).fresh

    def _current(self, uid: str, now: float) -> bool:
        """Whether there is evidence from the last three polls, each of which may take a second."""
        fresh = self._fresh(uid)
        return bool(fresh) and now - fresh[-1][0] <= 3 * self.world.policy.poll + 1.0

    def lasted(self, uid: str, alert: str, now: float) -> tuple[int, float]:
        """In how many fresh answers, and for how long, an alert was active without a break."""
        polls, since, gap = 0, now, 3 * self.world.policy.poll + 1.0
        for at, alerts in reversed(self._fresh(uid)):
            if alert not in alerts or since - at > gap:
                break
            polls, since = polls + 1, at
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
            assert active or self.failed_proofs.get(uid, 0) >= 2, "(c), (d)"
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
        serving = {
            uid
            for uid, pod in pods.items()
            if pod.ready and pod.node_ready and pod.gate in (Gate.OPEN, Gate.MISSING) and not self._hung(uid, now)
        }
        lost = {
            step.pod.uid for step in acting if isinstance(step, (CloseGate, ExecuteRestart)) and step.pod.uid in serving
        }
        known = {uid for uid in serving if self._current(uid, now)}
        if lost:
            assert len(known - lost) >= self.world.policy.min_ready, "(a)"

    def _check_intents(
        self,
        acting: list[CloseGate | BeginRestart | ExecuteRestart],
        decisions: Decisions,
        intents: list[RestartIntent],
        pods: dict[str, Pod],
    ) -> None:
        """(e): one restart at a time, and each is examined again once it has waited too long."""
        begun = [step for step in acting if isinstance(step, BeginRestart)]
        executed = [step for step in acting if isinstance(step, ExecuteRestart)]
        assert len(begun) + len(executed) <= 1, "(e)"
        if begun:
            assert intents == [], "(e)"
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

"""A simulation for `decide`: pods that fail and recover, a clock, and a kubelet without delays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from qwen_operator.api import HistoryEntry, QwenServiceSpec, RemediationStatus, RestartIntent
from qwen_operator.api.catalogue import AlertClass
from qwen_operator.planning.alerts import effective_alerts
from qwen_operator.remediation import ledger as ledgers
from qwen_operator.remediation.decide import decide
from qwen_operator.remediation.memory import Memory
from qwen_operator.remediation.policy import Policy, alert_policy
from qwen_operator.remediation.restarts import restart_id
from qwen_operator.remediation.steps import (
    BeginRestart,
    CloseGate,
    Decisions,
    ExecuteRestart,
    FinishRestart,
    OpenGate,
    Prove,
    Recount,
    ResetBudget,
    Step,
)
from qwen_operator.remediation.values import Evidence, Gate, Instant, Pod, Rollout, Round
from qwen_operator.status.conditions import Suspension

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
ALERTS = {alert.name: alert_policy(alert) for alert in effective_alerts("cuda") if alert.active}
ZERO_WORK = sorted(name for name, policy in ALERTS.items() if policy.kind is AlertClass.ZERO_WORK)
SATURATION = sorted(name for name, policy in ALERTS.items() if policy.kind is AlertClass.SATURATION)
TAKING_OUT = sorted(name for name, policy in ALERTS.items() if policy.unready_after is not None)


def policy(**changes: object) -> Policy:
    """The default policy of a service on GPUs, with changes."""
    return replace(Policy(alerts=ALERTS), **changes)  # type: ignore[arg-type]


def spec(**changes: Any) -> QwenServiceSpec:
    """The spec of a service with the built-in model, with changes."""
    return QwenServiceSpec.model_validate({"model": {"source": {"builtin": "news-classifier"}}, **changes})


@dataclass
class Patient:
    """A pod and its health."""

    pod: Pod
    alerts: frozenset[str] = frozenset()
    silent: bool = False
    frozen: bool = False
    """Its metrics answer, but uptime does not advance."""
    garbled: bool = False
    """Its metrics answer something that is not valid."""
    generates: bool = True
    busy: int = 0
    gpus: tuple[str, ...] = ()
    active_for: Mapping[str, float] = field(default_factory=dict)
    """What it says of how long its alerts have been active; nothing of those that are left out."""
    engine_restarts_left: int = 0
    """How often its server may restart its engine."""
    engine_restarts: int = 0
    engine_cures: bool = True
    restarting_until: float = -1.0
    says_restarting: bool = False
    """It says that it restarts its engine, although it is ready and has alerts."""
    uptime: float = 100.0
    down_until: float = -1.0
    cured_by_restart: bool = True


@dataclass
class World:
    """Rounds of polling and their effects."""

    policy: Policy
    patients: dict[str, Patient]
    ledger: RemediationStatus = field(default_factory=RemediationStatus)
    memory: Memory = field(default_factory=Memory)
    mono: float = 1000.0
    wall: datetime = EPOCH
    rollout: Rollout = field(default_factory=Rollout)
    reset: str = ""
    start_seconds: float = 20.0
    proofs: dict[str, bool] = field(default_factory=dict)
    log: list[tuple[float, Step]] = field(default_factory=list)
    suspended: Suspension | None = None
    evicted: int = 0
    evictions_blocked: bool = False
    full: bool = False
    """Whether no node has room for a new pod."""
    ahead: timedelta = timedelta()
    """By how much the operator's clock is ahead of that of the API server."""
    seen: Round = field(default_factory=lambda: Round((), {}, 0))
    """What the last round has seen."""

    @classmethod
    def of(cls, count: int, rules: Policy | None = None, **pod: object) -> World:
        """A world with this number of healthy pods in rotation."""
        pods = [Pod(uid=f"u{number}", name=f"p{number}", **pod) for number in range(count)]  # type: ignore[arg-type]
        return cls(rules or policy(), {item.uid: Patient(item) for item in pods})

    def __getitem__(self, uid: str) -> Patient:
        return self.patients[uid]

    @property
    def now(self) -> Instant:
        """The current time."""
        return Instant(self.mono, self.wall)

    def round(self, perform: int | None = None) -> Decisions:
        """One round: poll, decide, act. Then the clock advances by one poll interval.

        After the beginning of a restart and after a proof, the next round follows at once. Only the
        first steps are performed, `perform` of them, or all.
        """
        self._kubelet()
        decisions = self.look()
        self.memory, self.suspended = decisions.memory, decisions.suspended
        self.proofs = {}
        for number, step in enumerate(decisions.steps):
            self.log.append((self.mono, step))
            if perform is None or number < perform:
                self.act(step)
        self.advance(0.2 if decisions.go_on or self.proofs else self.policy.poll)
        return decisions

    def rounds(self, seconds: float) -> None:
        """Runs rounds for this number of seconds."""
        end = self.mono + seconds
        while self.mono < end:
            self.round()

    def look(self) -> Decisions:
        """What `decide` returns now, without performing it."""
        evidence: dict[str, Evidence | None] = {}
        for uid, patient in self.patients.items():
            if patient.pod.unschedulable:
                continue  # it has no address
            if patient.silent or patient.garbled or self.mono < patient.down_until:
                evidence[uid] = None
            else:
                told = {alert: age for alert, age in patient.active_for.items() if alert in patient.alerts}
                restarting = self.mono < patient.restarting_until
                evidence[uid] = Evidence(
                    patient.uptime,
                    frozenset() if restarting else patient.alerts,
                    patient.busy,
                    patient.gpus,
                    told,
                    engine_restarts=patient.engine_restarts,
                    engine_restarts_left=patient.engine_restarts_left,
                    restarting=restarting or patient.says_restarting,
                )
        pods = tuple(patient.pod for patient in self.patients.values())
        garbled = frozenset(uid for uid, patient in self.patients.items() if patient.garbled)
        self.seen = Round(pods, evidence, len(pods), self.proofs, self.rollout, self.reset, garbled)
        return decide(self.seen, self.policy, self.ledger, self.memory, self.now)

    def advance(self, seconds: float) -> None:
        """Lets time pass."""
        self.mono += seconds
        self.wall += timedelta(seconds=seconds)
        for patient in self.patients.values():
            if not patient.frozen and self.mono >= patient.down_until:
                patient.uptime += seconds
                patient.active_for = {alert: age + seconds for alert, age in patient.active_for.items()}

    def forget(self) -> None:
        """Restarts the operator."""
        self.memory = Memory()
        self.proofs = {}

    def act(self, step: Step) -> None:
        """Performs a step, as the API and the kubelet would."""
        match step:
            case OpenGate():
                self.change(step.pod.uid, gate=Gate.OPEN, closed_for="", closed_since=None)
            case CloseGate():
                self.change(step.pod.uid, gate=Gate.CLOSED, closed_for=step.alert, closed_since=self.wall)
            case BeginRestart():
                self.ledger = ledgers.begin(self.ledger, step.intent, self.policy, step.counted, step.hardware)
            case ExecuteRestart() if self.evictions_blocked and step.intent.method == "Evict":
                entry = HistoryEntry(time=self.wall, pod=step.pod.name, pod_uid=step.pod.uid, action="Blocked")
                self.ledger = ledgers.blocked(self.ledger, step.intent, entry, self.policy)
            case ExecuteRestart():
                self._restart(step.intent)
            case FinishRestart():
                refund = step.outcome == "Cancelled"
                self.ledger = ledgers.finish(self.ledger, step.intent, refund=refund)
            case ResetBudget():
                self.ledger = ledgers.reset(self.ledger, step.value)
            case Recount():
                self.ledger = self.ledger.model_copy(update={"restarts_in_window": step.count})
            case Prove() if step.pod.uid in self.patients:
                patient = self.patients[step.pod.uid]
                self.proofs[step.pod.uid] = patient.generates and self.mono >= max(
                    patient.down_until, patient.restarting_until
                )

    def change(self, uid: str, **changes: object) -> None:
        """Changes a pod in the API."""
        patient = self.patients[uid]
        patient.pod = replace(patient.pod, **changes)  # type: ignore[arg-type]

    def _restart(self, intent: RestartIntent) -> None:
        old = self.patients[intent.pod_uid]
        if intent.method == "Engine":
            self._restart_engine(old, intent)
            return
        if intent.method == "InPlace":
            restarted = replace(old.pod, restart_id=restart_id(intent), restarts=old.pod.restarts + 1)
        else:
            self.evicted += 1
            del self.patients[intent.pod_uid]
            name = f"{old.pod.name}-{self.evicted}"
            restarted = Pod(uid=f"u-{name}", name=name, gate=Gate.UNSET, node=old.pod.node)
            restarted = replace(restarted, created=self.wall - self.ahead, unschedulable=self.full)
        new = Patient(restarted, uptime=0.0, down_until=self.mono + self.start_seconds)
        if not old.cured_by_restart:
            new = replace(new, alerts=old.alerts, generates=old.generates, gpus=old.gpus, cured_by_restart=False)
        self.patients[restarted.uid] = new

    def _restart_engine(self, patient: Patient, intent: RestartIntent) -> None:
        """The server goes on. Without a budget it ignores the request."""
        self.change(patient.pod.uid, engine_restart_id=restart_id(intent))
        if patient.engine_restarts_left > 0:
            patient.engine_restarts += 1
            patient.engine_restarts_left -= 1
            patient.restarting_until = self.mono + self.start_seconds / 4
            if patient.cured_by_restart and patient.engine_cures:
                patient.alerts, patient.generates = frozenset(), True

    def _kubelet(self) -> None:
        """Readiness follows the containers and the gates. A pod starts once it has a node."""
        for uid, patient in self.patients.items():
            if patient.pod.unschedulable:
                patient.down_until = self.mono + self.start_seconds
                self.change(uid, unschedulable=self.full)
            running = self.mono >= max(patient.down_until, patient.restarting_until)
            ready = running and patient.pod.gate in (Gate.OPEN, Gate.MISSING)
            if (patient.pod.running, patient.pod.ready) != (running, ready):
                self.change(uid, running=running, ready=ready)

    def gate(self, uid: str) -> Gate:
        """The gate of a pod."""
        return self.patients[uid].pod.gate

    def steps(self, *kinds: type) -> list[Step]:
        """The steps of some kinds so far."""
        return [step for _, step in self.log if isinstance(step, kinds)]


def until(world: World, kind: type[Step], count: int = 1, seconds: float = 300.0) -> None:
    """Runs rounds until so many steps of a kind were decided."""
    end = world.mono + seconds
    while len(world.steps(kind)) < count:
        assert world.mono < end, f"no {kind.__name__} within {seconds} s"
        world.round()


def outcomes(world: World) -> list[str]:
    """How the restarts ended that are over."""
    return [step.outcome for step in world.steps(FinishRestart) if isinstance(step, FinishRestart)]

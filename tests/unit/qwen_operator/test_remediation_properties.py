"""The invariants of `decide`, called (a) to (j)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_operator.api import RemediationStatus
from qwen_operator.api.catalogue import AlertClass
from qwen_operator.remediation.ledger import restarts_in_window
from qwen_operator.remediation.policy import Policy
from qwen_operator.remediation.steps import (
    BeginRestart,
    CloseGate,
    Decisions,
    ExecuteRestart,
    FinishRestart,
    OpenGate,
    WouldDo,
)
from qwen_operator.remediation.values import Gate, Rollout
from tests.unit.qwen_operator.remediation_world import (
    ALERTS,
    EPOCH,
    SATURATION,
    TAKING_OUT,
    ZERO_WORK,
    Patient,
    World,
    policy,
)

alert_sets = st.one_of(
    st.just(frozenset[str]()),
    st.just(frozenset({"EngineUnresponsive"})),
    st.frozensets(st.sampled_from(sorted(ALERTS)), max_size=3),
)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    return policy(
        min_ready=draw(st.integers(0, 4)),
        max_restarts=draw(st.integers(0, 4)),
        window=draw(st.sampled_from([60.0, 600.0, 3600.0])),
        backoff_base=draw(st.sampled_from([0.0, 5.0, 30.0])),
        backoff_max=60.0,
        recover_after=draw(st.sampled_from([0.0, 5.0, 30.0])),
        method=draw(st.sampled_from(["Auto", "Engine", "InPlace", "Evict"])),
        startup=draw(st.sampled_from([30.0, 300.0])),
        drain=draw(st.sampled_from([0.0, 10.0])),
    )


@st.composite
def stories(draw: st.DrawFn) -> list[tuple[int, dict[str, object], int]]:
    """Changes of the health of pods: (pod, change, number of rounds)."""
    change = st.fixed_dictionaries(
        {
            "alerts": alert_sets,
            "silent": st.booleans(),
            "frozen": st.sampled_from([False, False, False, True]),
            "generates": st.booleans(),
            "busy": st.integers(0, 2),
            "cured_by_restart": st.booleans(),
            "engine_cures": st.booleans(),
            "engine_restarts_left": st.sampled_from([0, 0, 3]),
        }
    )
    return draw(st.lists(st.tuples(st.integers(0, 3), change, st.integers(1, 30)), min_size=1, max_size=8))


def apply_change(world: World, number: int, change: dict[str, object]) -> None:
    uid = sorted(world.patients)[number % len(world.patients)]
    world.patients[uid] = replace(world.patients[uid], **change)  # type: ignore[arg-type]


def surely_dead(history: list[tuple[float, frozenset[str]]], at: float) -> bool:
    """Whether an engine stood still for twice its threshold, by fresh evidence without a gap.

    The server raises the alert after the threshold, so the alert lasted for as long again.
    """

    for alert in ZERO_WORK:
        since = at
        for moment, alerts in reversed(history):
            if alert not in alerts or since - moment > 10.0:
                break
            since = moment
        if at - since >= ALERTS[alert].threshold:
            return True
    return False


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 4), rules=policies(), story=stories(), forget=st.booleans())
def test_a_rotation_never_falls_below_min_ready(
    count: int, rules: Policy, story: list[tuple[int, dict[str, object], int]], forget: bool
) -> None:
    world = World.of(count, rules)
    seen: dict[str, list[tuple[float, frozenset[str]]]] = {}
    for number, change, rounds in story:
        apply_change(world, number, change)
        if forget:
            world.forget()
        for _ in range(rounds):
            for uid, patient in world.patients.items():
                if not patient.silent and not patient.frozen and world.mono >= patient.down_until:
                    seen.setdefault(uid, []).append((world.mono, patient.alerts))
            before = {
                uid
                for uid, patient in world.patients.items()
                if patient.pod.gate is Gate.OPEN
                and world.mono >= patient.down_until
                and not surely_dead(seen.get(uid, []), world.mono)
            }
            decisions = world.round()
            lost = {
                step.pod.uid
                for step in decisions.steps
                if isinstance(step, (CloseGate, ExecuteRestart)) and step.pod.uid in before
            }
            if lost:
                assert len(before - lost) >= rules.min_ready


@settings(max_examples=40, deadline=None)
@given(
    rules=policies(),
    story=stories(),
    forget=st.booleans(),
    past=st.lists(st.floats(-4000, 4000), max_size=5),
)
def test_b_restarts_never_exceed_the_budget_of_any_window(
    rules: Policy, story: list[tuple[int, dict[str, object], int]], forget: bool, past: list[float]
) -> None:
    world = World.of(3, rules)
    world.ledger = RemediationStatus(restart_times=[EPOCH + timedelta(seconds=round(at)) for at in past])
    counted = len(restarts_in_window(world.ledger, rules, EPOCH))
    begun: list[float] = []
    latest: dict[str, float] = {}
    for number, change, rounds in story:
        apply_change(world, number, change)
        if forget:
            world.forget()
        for _ in range(rounds):
            for step in world.look().steps:
                if isinstance(step, BeginRestart):
                    latest[step.pod.uid] = world.mono - 1000.0
                    begun.append(latest[step.pod.uid])
                elif isinstance(step, FinishRestart) and step.outcome == "Cancelled":
                    begun.remove(latest[step.intent.pod_uid])  # nothing was restarted
            world.round()
    for start in begun:
        window = [at for at in begun if start <= at < start + rules.window]
        assert len(window) <= rules.max_restarts
    early = [at for at in begun if at < rules.window]
    if any(at >= 0 for at in past):  # those of the future stay in the window all along
        future = sum(at >= 0 for at in past)
        assert len(early) <= max(0, rules.max_restarts - future)
    assert counted <= len(past)


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 4), data=st.data())
def test_c_saturation_alone_changes_nothing(count: int, data: st.DataObject) -> None:
    world = World.of(count, policy(min_ready=0))
    for _ in range(data.draw(st.integers(1, 60))):
        for patient in world.patients.values():
            patient.alerts = data.draw(st.frozensets(st.sampled_from(SATURATION)))
        world.round()
    assert world.steps(CloseGate, BeginRestart, ExecuteRestart) == []


@settings(max_examples=40, deadline=None)
@given(
    alerts=st.frozensets(st.sampled_from(TAKING_OUT), min_size=1),
    how=st.sampled_from(["silent", "frozen"]),
    rounds=st.integers(1, 80),
)
def test_d_missing_or_stale_evidence_never_takes_a_pod_out(alerts: frozenset[str], how: str, rounds: int) -> None:
    world = World.of(2, policy(min_ready=0))
    world.round()
    patient = world["u0"]
    if how == "silent":
        world.patients["u0"] = replace(patient, alerts=alerts, silent=True)
    else:
        # Only the first answer with the alert is fresh.
        world.patients["u0"] = replace(patient, alerts=alerts, frozen=True)
    for _ in range(rounds):
        world.round()
    assert world.steps(CloseGate, BeginRestart) == []


@settings(max_examples=50, deadline=None)
@given(
    rules=policies(),
    story=stories(),
    rollout=st.sampled_from([Rollout(), Rollout(under_way=True), Rollout(stalled=True)]),
    newest=st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_e_one_restart_at_a_time_and_none_that_disturbs_a_rollout(
    rules: Policy, story: list[tuple[int, dict[str, object], int]], rollout: Rollout, newest: list[bool]
) -> None:
    world = World.of(4, rules)
    world.rollout = rollout
    for number, uid in enumerate(sorted(world.patients)):
        world.change(uid, newest=newest[number])
    for number, change, rounds in story:
        apply_change(world, number, change)
        for _ in range(rounds):
            decisions = world.round()
            assert len(world.ledger.intents) <= 1
            for step in decisions.steps:
                if isinstance(step, BeginRestart):
                    assert not (rollout.stalled and step.pod.newest)
                    if rollout.under_way:
                        assert not step.pod.newest
                        assert ALERTS[step.intent.alert].kind is AlertClass.ZERO_WORK


@settings(max_examples=40, deadline=None)
@given(alert=st.sampled_from(TAKING_OUT), pattern=st.lists(st.booleans(), min_size=1, max_size=60))
def test_f_an_alert_that_flaps_changes_nothing(alert: str, pattern: list[bool]) -> None:
    world = World.of(2, policy(min_ready=0))
    for number, on in enumerate(pattern):
        flapping = on and number % 2 == 0
        world["u0"].alerts = frozenset({alert}) if flapping else frozenset()
        world.round()
    assert world.steps(CloseGate, BeginRestart) == []


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 6), unhealthy=st.integers(1, 6), min_ready=st.integers(0, 3))
def test_g_errors_of_more_than_half_are_systemic(count: int, unhealthy: int, min_ready: int) -> None:
    unhealthy = min(unhealthy, count)
    world = World.of(count, policy(min_ready=min_ready))
    for patient in list(world.patients.values())[:unhealthy]:
        patient.alerts, patient.generates = frozenset({"HighErrorRate"}), False
    world.rounds(200.0)
    if 2 * unhealthy > count:
        assert world.steps(CloseGate, BeginRestart) == []
        assert world.suspended is not None
        assert world.suspended.reason == "SystemicErrors"


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 4), rules=policies(), story=stories())
def test_h_a_dry_run_takes_no_action_and_reports_each(
    count: int, rules: Policy, story: list[tuple[int, dict[str, object], int]]
) -> None:
    world = World.of(count, replace(rules, mode="DryRun"))
    for number, change, rounds in story:
        apply_change(world, number, change)
        for _ in range(rounds):
            decisions = world.round()
            assert not [step for step in decisions.steps if isinstance(step, (CloseGate, BeginRestart, ExecuteRestart))]
    assert world.ledger == RemediationStatus()
    assert all(patient.pod.gate is Gate.OPEN for patient in world.patients.values())


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 4), alerts=st.lists(alert_sets, min_size=4, max_size=4))
def test_h_a_dry_run_reports_what_enforcement_does_first(count: int, alerts: list[frozenset[str]]) -> None:
    def steps(mode: str) -> list[tuple[str, str]]:
        world = World.of(count, policy(mode=mode))
        for number, patient in enumerate(world.patients.values()):
            patient.alerts, patient.generates = alerts[number], False
        found: list[tuple[str, str]] = []
        for _ in range(60):  # until the first restart, when the worlds part
            decisions: Decisions = world.round()
            for step in decisions.steps:
                wanted = step.step if isinstance(step, WouldDo) else step
                if isinstance(wanted, (CloseGate, BeginRestart)):
                    found.append((type(wanted).__name__, wanted.pod.uid))
                if isinstance(wanted, BeginRestart):
                    return found
        return found

    assert steps("DryRun") == steps("Enforce")


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 4), rules=policies(), story=stories(), forget=st.booleans(), data=st.data())
def test_i_once_all_are_well_all_gates_open(
    count: int, rules: Policy, story: list[tuple[int, dict[str, object], int]], forget: bool, data: st.DataObject
) -> None:
    world = World.of(count, rules)
    world.start_seconds = 6.0
    for number, change, rounds in story:
        apply_change(world, number, change)
        for _ in range(rounds):
            world.round()
    for uid, patient in list(world.patients.items()):
        gate = data.draw(st.sampled_from([patient.pod.gate, Gate.UNSET, Gate.CLOSED]))
        world.change(uid, gate=gate)
    if forget:
        world.forget()
    # First, what is in progress is completed.
    heal(world)
    while any(intent.phase != "Waiting" and not done(world, intent.pod_uid) for intent in world.ledger.intents):
        world.round()
    heal(world)
    world.rounds(max(0.0, max(patient.down_until for patient in world.patients.values()) - world.mono))
    end = world.mono + rules.recover_after + 3 * rules.poll
    while world.mono <= end:
        world.round()
    assert {patient.pod.gate for patient in world.patients.values()} == {Gate.OPEN}


def heal(world: World) -> None:
    """From now on all pods are healthy, and so are their pending answers."""

    world.proofs = dict.fromkeys(world.proofs, True)
    for uid, patient in list(world.patients.items()):
        world.patients[uid] = Patient(patient.pod, uptime=patient.uptime + 1.0, down_until=patient.down_until)


def done(world: World, uid: str) -> bool:
    patient = world.patients.get(uid)
    return patient is None or any(intent.restart_count < patient.pod.restarts for intent in world.ledger.intents)


@pytest.mark.parametrize("alert", ZERO_WORK)
@pytest.mark.parametrize("min_ready", [1, 2])
def test_j_a_lone_hung_pod_is_restarted(alert: str, min_ready: int) -> None:
    world = World.of(1, policy(min_ready=min_ready))
    world.round()
    world["u0"].alerts, world["u0"].generates = frozenset({alert}), False
    threshold = ALERTS[alert].threshold
    world.rounds(max(60.0, 2 * threshold) + 4 * world.policy.poll + 2.0)
    assert world["u0"].pod.restarts == 1
    world.rounds(world.start_seconds + world.policy.recover_after + 4 * world.policy.poll)
    assert world["u0"].pod.gate is Gate.OPEN
    assert world.ledger.intents == []


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 4), spent=st.integers(0, 3))
def test_j_a_restart_waits_for_the_budget_and_then_happens(count: int, spent: int) -> None:
    rules = policy(max_restarts=3, window=600.0)
    world = World.of(count, rules)
    world.ledger = RemediationStatus(restart_times=[EPOCH - timedelta(seconds=1)] * spent)
    for patient in world.patients.values():
        patient.alerts, patient.generates = frozenset({"EngineUnresponsive"}), False
    world.rounds(3600.0)
    assert all(patient.pod.gate is Gate.OPEN for patient in world.patients.values())
    assert len(world.steps(BeginRestart)) == count
    assert world.steps(OpenGate)

"""Pods that are out of rotation: what they report, and what is next for them and when."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, cast

import pytest

from qwen_operator.api import HardwareReplacement, HistoryEntry, RemediationStatus, RestartIntent, format_time
from qwen_operator.api.objects import Key
from qwen_operator.kube.events import Subject
from qwen_operator.remediation.act import ServiceActor
from qwen_operator.remediation.ledger import whole_second
from qwen_operator.remediation.outlook import POSTPONED, Outlook, delays, look_ahead
from qwen_operator.remediation.restarts import SILENT_SECONDS
from qwen_operator.remediation.steps import BeginRestart, CloseGate, ExecuteRestart, OpenGate, Report, Step
from qwen_operator.remediation.symptoms import symptom
from qwen_operator.remediation.values import Evidence, Pod, Rollout
from qwen_operator.remediation.writes import Writer
from tests.unit.qwen_operator import remediation_world
from tests.unit.qwen_operator.remediation_world import ALERTS, EPOCH, World, policy

HUNG = "EngineUnresponsive"
REPORTED: dict[str, Any] = {
    "name": HUNG, "severity": "critical", "message": "x", "value": 16.204, "threshold": 15, "unit": "seconds",
    "since": "2026-01-01T00:00:10.123456",
}  # fmt: skip


def ahead(world: World) -> dict[str, Outlook]:
    """What is next after a round now."""
    world._kubelet()
    ledger, now = world.ledger, world.now
    decisions = world.look()
    return look_ahead(world.seen, world.policy, ledger, decisions, now)


until = partial(remediation_world.until, seconds=200.0)


def moment(mono: float) -> str:
    """The time of the world in the format of Kubernetes, rounded up."""
    return format_time(whole_second(EPOCH + timedelta(seconds=mono - 1000.0)))


def when(world: World, kind: type[Step]) -> float:
    """When a step was first taken."""
    return next(mono for mono, step in world.log if isinstance(step, kind))


def hung(count: int, alert: str = HUNG, **changes: Any) -> World:
    """A world whose first pod is out of rotation, or held back, for the time of a poll."""
    world = World.of(count, policy(**changes))
    world.rounds(10)
    world["u0"].alerts = frozenset({alert})
    for _ in range(2):
        world.round()
    return world


def test_a_new_engine_is_reported_with_what_follows_it() -> None:
    world = hung(3)
    world["u0"].engine_restarts_left, world.start_seconds = 3, 4000.0
    until(world, ExecuteRestart)
    intent = next(step.intent for _, step in world.log if isinstance(step, ExecuteRestart))
    last = format_time(intent.time + timedelta(seconds=world.policy.drain + world.policy.startup))
    text = (
        f"Its server was asked for a new engine. It returns when a test generation succeeds, which may take until "
        f"{last}. If the new engine does not help, its container is restarted."
    )
    assert ahead(world)["u0"].text == text
    world.round()
    assert ahead(world)["u0"].text == text


def test_a_server_that_restarts_its_engine_itself_is_reported_until_it_takes_too_long() -> None:
    world = hung(3)
    begun = world.mono
    world["u0"].restarting_until = math.inf
    world.round()
    last = moment(begun + world.policy.startup)
    assert ahead(world)["u0"].text == (
        "Its server restarts its engine. It returns when a test generation succeeds. "
        f"If that lasts until {last}, its alerts count again."
    )


def test_the_time_of_the_restart_is_reported_and_kept() -> None:
    world = hung(3)
    due = when(world, CloseGate) + 60
    while "It is restarted at" in (text := ahead(world)["u0"].text):
        assert text == f"It is restarted at {moment(due)} unless it recovers."
        world.round()
    assert text.startswith("Its restart begins when it has no more requests, at 20")
    world.round()
    assert due <= when(world, BeginRestart) <= due + world.policy.poll


def test_the_only_pod_is_restarted_when_it_was_said() -> None:
    world = hung(1)
    due = 1010.0 + ALERTS[HUNG].threshold
    assert not world.steps(CloseGate)
    assert ahead(world)["u0"].text == f"It is restarted at {moment(due)} unless it recovers."
    world.rounds(30)
    assert due <= when(world, BeginRestart) <= due + world.policy.poll


def test_a_restart_in_progress_says_how_long_it_may_take() -> None:
    world = hung(3)
    until(world, ExecuteRestart)
    [intent] = world.ledger.intents
    last = format_time(intent.time + timedelta(seconds=world.policy.drain + world.policy.startup))
    assert ahead(world)["u0"].text.endswith(f"which may take until {last}.")
    until(world, OpenGate)
    world.rounds(10)
    assert ahead(world) == {}


def silence(world: World) -> None:
    world["u0"].silent = True
    world.rounds(10)


def recovery(world: World) -> None:
    world["u0"].alerts = frozenset()
    world.round()


def rollout(world: World) -> None:
    world.rollout = Rollout(under_way=True)
    world.rounds(80)


def stall(world: World) -> None:
    world.rollout = Rollout(stalled=True)
    world.rounds(80)


def lost_node(world: World) -> None:
    world.change("u0", node_ready=False)
    world.rounds(80)


def patience(world: World) -> None:
    world.rounds(80)


def loneliness(world: World) -> None:
    world["u1"].silent = True
    world.rounds(150)


def the_same_errors(world: World) -> None:
    for patient in world.patients.values():
        patient.alerts = world["u0"].alerts
    world.rounds(150)


def the_same_gpu(world: World) -> None:
    world["u0"].gpus = ("GPU-1",)
    replaced = [HardwareReplacement(pod=name, gpus=["GPU-1"], time=EPOCH) for name in ("a", "b")]
    world.ledger = world.ledger.model_copy(update={"replaced": replaced})
    world.rounds(80)


NO_RESTART = {**ALERTS, HUNG: replace(ALERTS[HUNG], restart_after=None)}


@pytest.mark.parametrize(
    ("world", "happens", "waits_for", "text"),
    [
        (lambda: hung(3), silence, "", "Its metrics cannot be read. If this lasts, it returns at"),
        (lambda: hung(3), recovery, "", "Its alert has ended. It returns when it has proved its health."),
        (lambda: hung(3), rollout, "RolloutUnderWay", "It is not restarted while a rollout is under way."),
        (lambda: hung(3), stall, "RolloutStalled", "because the rollout of its revision is stalled"),
        (lambda: hung(3), lost_node, "NodeNotReady", "so Kubernetes replaces it"),
        (
            lambda: hung(3, max_restarts=0),
            patience,
            "BudgetExhausted",
            "restartBudget.maxRestarts is 0, which allows no",
        ),
        (lambda: hung(3, alerts=NO_RESTART), patience, "", "It is not restarted for EngineUnresponsive"),
        (lambda: hung(2, "GPUUnhealthy", min_ready=2), patience, "MinReadyReplicas", "minReadyReplicas (2) other pods"),
        (lambda: hung(2, "HighErrorRate"), loneliness, "NoPeer", "no other pod serves that it can be compared with"),
        (lambda: hung(3, "HighErrorRate"), the_same_errors, "SystemicErrors", "more than half of the pods have High"),
        (lambda: hung(3, "GPUUnhealthy"), the_same_gpu, "SameGPU", "see the condition RemediationSuspended"),
    ],
)
def test_what_a_restart_waits_for_is_reported(
    world: Callable[[], World], happens: Callable[[World], None], waits_for: str, text: str
) -> None:
    subject = world()
    happens(subject)
    assert not subject.steps(BeginRestart)
    found = ahead(subject)["u0"]
    assert found.waits_for == waits_for
    assert text in found.text


def test_a_silent_pod_returns_when_it_was_said() -> None:
    world = hung(3)
    world["u0"].silent = True
    silent_since = when(world, CloseGate)
    world.rounds(10)
    assert moment(silent_since + SILENT_SECONDS) in ahead(world)["u0"].text
    world.rounds(70)
    assert silent_since + SILENT_SECONDS <= when(world, OpenGate) <= silent_since + SILENT_SECONDS + world.policy.poll


def test_before_it_is_due_a_restart_says_when_and_what_will_hold_it_up() -> None:
    world = hung(3)
    due = when(world, CloseGate) + 60
    world.rollout = Rollout(under_way=True)
    expected = f"A restart is due at {moment(due)}. It is not restarted while a rollout is under way."
    assert ahead(world)["u0"] == Outlook(expected)


def test_the_second_pod_waits_for_the_first_one_and_then_for_the_back_off() -> None:
    world = hung(4, backoff_base=120.0)
    world["u1"].alerts = frozenset({HUNG})
    reported: list[Outlook] = []
    for _ in range(200):
        if "u1" in (found := ahead(world)) and found["u1"].waits_for and found["u1"] not in reported:
            reported.append(found["u1"])
        world.round()
    first, second = (step.intent for step in world.steps(BeginRestart) if isinstance(step, BeginRestart))
    assert [outlook.waits_for for outlook in reported] == ["OtherRestart", "BackOff"]
    assert "after p0" in reported[0].text
    assert format_time(first.time + timedelta(seconds=120)) in reported[1].text
    assert first.time + timedelta(seconds=120) <= second.time


def test_the_back_off_after_a_refusal_is_that_of_the_refused_pod() -> None:
    world = hung(3)
    far = world.wall + timedelta(seconds=300)
    refused = [HistoryEntry(time=world.wall, pod=f"p{pod}", pod_uid=f"u{pod}", action="Blocked") for pod in range(2)]
    text = {}
    for pod, entry in enumerate(refused):
        world.ledger = RemediationStatus(backoff_until=far, history=[entry])
        text[pod] = ahead(world)["u0"].text
    assert text[0] == f"It is restarted at {format_time(far)} unless it recovers (back-off until then)."
    assert text[1] == f"It is restarted at {moment(when(world, CloseGate) + 60)} unless it recovers."


def test_a_hung_pod_does_not_wait_for_a_replacement_that_finds_no_node() -> None:
    world = World.of(3, policy(backoff_base=0.0))
    world.full = True
    world["u0"].alerts = frozenset({"GPUUnhealthy"})
    until(world, ExecuteRestart)
    world["u1"].alerts = frozenset({HUNG})
    world.rounds(10)
    assert "after p0" in ahead(world)["u1"].text  # a replacement usually has a node within a second
    until(world, BeginRestart, count=2)
    assert ahead(world)["u1"].waits_for == ""


def test_a_spent_budget_says_when_the_next_restart_is_possible() -> None:
    world = hung(3, max_restarts=1)
    world["u1"].alerts = frozenset({HUNG})
    world.rounds(200)
    [first] = (step.intent for step in world.steps(BeginRestart) if isinstance(step, BeginRestart))
    free = format_time(first.time + timedelta(seconds=world.policy.window))
    assert f"The next restart is possible at {free}." in ahead(world)["u1"].text
    assert world.suspended is not None
    assert f"The next restart is possible at {free}." in world.suspended.message


@pytest.mark.parametrize("mode", ["DryRun", "Off"])
def test_nothing_is_predicted_where_nothing_is_done(mode: str) -> None:
    assert ahead(hung(3, mode=mode)) == {}


def test_each_thing_that_a_restart_waits_for_is_reported_once() -> None:
    world = hung(3, max_restarts=0)
    before: dict[str, Outlook] = {}
    reports: list[Report] = []
    for _ in range(60):
        ledger, now, decisions = world.ledger, world.now, world.look()
        after = look_ahead(world.seen, world.policy, ledger, decisions, now)
        reports += delays(world.seen, decisions, before, after)
        before = after
        world.round()
    assert [(report.pod.name, report.alert, report.reason) for report in reports] == [("p0", HUNG, POSTPONED)]
    assert reports[0].message.startswith("EngineUnresponsive persists on pod p0. It is not restarted.")


def evidence(**changes: Any) -> Evidence:
    return Evidence(1.0, frozenset({HUNG}), body=json.dumps({"alerts": [{**REPORTED, **changes}]}).encode())


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (evidence(), "16.2 seconds, threshold 15, since 2026-01-01T00:00:10Z"),
        (evidence(since="2026-01-01T01:00:00+01:00"), "16.2 seconds, threshold 15, since 2026-01-01T00:00:00Z"),
        (evidence(value=0.0, unit="tokens/sec"), "0 tokens/sec, threshold 15, since 2026-01-01T00:00:10Z"),
        (evidence(value=1e300, unit="x" * 100, since=5), "1e+300, threshold 15"),
        (evidence(value=float("nan"), threshold=None, since="yesterday", unit="\n"), ""),
        (evidence(value=10**400, threshold=True, since=None), ""),
        (evidence(name="Other"), ""),
        (Evidence(1.0, body=json.dumps({"alerts": "x"}).encode()), ""),
        (Evidence(1.0), ""),
        (None, ""),
    ],
)
def test_of_what_a_pod_reports_only_what_has_the_right_form_is_used(found: Evidence | None, text: str) -> None:
    assert symptom(found, HUNG) == text


class Written:
    """A writer whose writes all succeed, and a recorder that keeps the Events of the service."""

    def __init__(self) -> None:
        self.recorder = self
        self.events: list[tuple[str, str]] = []
        self.gates: list[str] = []

    def emit(self, subject: Subject, kind: str, reason: str, text: str, *, action: str) -> None:
        assert kind in ("Normal", "Warning")
        assert action
        if subject.kind == "QwenService":
            self.events.append((reason, text))

    def now(self) -> datetime:
        return EPOCH

    async def set_gate(self, pod: Pod, namespace: str, *, is_open: bool, reason: str, message: str) -> bool:
        assert (pod.name, namespace, is_open, reason) == ("p0", "n", False, HUNG)
        self.gates.append(message)
        return True

    async def update(self, key: Key, _: object) -> RemediationStatus:
        assert key == ("n", "news")
        return RemediationStatus()


async def written_by(*steps: Step) -> Written:
    written = Written()
    metadata = {"namespace": "n", "name": "news", "uid": "s"}
    service = {"apiVersion": "qwen-vllm.io/v1alpha1", "kind": "QwenService", "metadata": metadata}
    outlooks = {"u0": Outlook("It is restarted at noon unless it recovers.")}
    actor = ServiceActor(cast("Writer", written), service, {}, {"u0": evidence()}, policy(), outlooks=outlooks)
    await actor.carry_out(steps)
    return written


POD = Pod(uid="u0", name="p0")
WHAT = "(16.2 seconds, threshold 15, since 2026-01-01T00:00:10Z)"


async def test_the_event_says_which_alert_with_value_and_threshold_and_what_is_next() -> None:
    written = await written_by(CloseGate(POD, HUNG))
    [(reason, text)] = written.events
    assert reason == "TakenOutOfRotation"
    assert text == (
        f"pod p0 was taken out of rotation: EngineUnresponsive is active {WHAT}. "
        "It is restarted at noon unless it recovers."
    )
    assert written.gates == [f"taken out of rotation for EngineUnresponsive {WHAT}"]


async def test_the_decision_says_how_much_of_the_budget_it_takes() -> None:
    intent = RestartIntent(pod_uid="u0", pod="p0", alert=HUNG, method="InPlace", time=EPOCH)
    written = await written_by(BeginRestart(POD, intent, counted=(EPOCH,)))
    [(reason, text)] = written.events
    assert reason == "RestartDecided"
    assert text.endswith(f"EngineUnresponsive persists {WHAT}; it is restart 2 of 3 within 3600 s")


async def test_a_pod_that_is_kept_in_rotation_says_what_is_next() -> None:
    written = await written_by(
        Report(POD, HUNG, "KeptInRotation", "it stays"), Report(POD, HUNG, HUNG, "it is active"),
        Report(POD, HUNG, POSTPONED, "it waits."),
    )  # fmt: skip
    assert [text for _, text in written.events] == [
        f"it stays {WHAT}. It is restarted at noon unless it recovers.",
        f"it is active {WHAT}",
        "it waits.",
    ]

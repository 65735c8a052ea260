"""Metrics that cannot be read: of one pod that serves, and of all of them."""

from __future__ import annotations

from typing import Any

import pytest

from qwen_operator.remediation.poll import Answer, Poller
from qwen_operator.remediation.steps import BeginRestart, CloseGate, OpenGate, Report
from qwen_operator.remediation.values import Gate, Pod
from tests.unit.qwen_operator.remediation_world import Patient, World, policy


def reports(world: World) -> list[Report]:
    return [step for step in world.steps(Report) if isinstance(step, Report)]


def reason(world: World) -> str | None:
    return None if world.suspended is None else world.suspended.reason


def cut_off(world: World, *, silent: bool = True) -> None:
    """The operator reaches no pod, or again all of them."""
    for patient in world.patients.values():
        patient.silent = silent


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("silent", "does not answer with status 200 within 1 s"),
        ("garbled", "its answer is not valid"),
        ("frozen", "its answer does not change"),
    ],
)
def test_a_pod_that_cannot_be_read_stays_in_rotation_and_an_event_says_why(how: str, why: str) -> None:
    world = World.of(2)
    world.rounds(10.0)
    setattr(world["u0"], how, True)
    world.rounds(28.0)
    assert reports(world) == []
    world.rounds(120.0)
    [report] = reports(world)
    assert (report.pod.uid, report.reason) == ("u0", "MetricsUnreadable")
    assert why in report.message
    assert world.gate("u0") is Gate.OPEN
    assert world.steps(CloseGate, BeginRestart) == []
    assert world.suspended is None


def test_a_pod_that_could_be_read_in_between_is_reported_again() -> None:
    world = World.of(2)
    for silent in (True, False, True):
        world["u0"].silent = silent
        world.rounds(60.0)
    assert len(reports(world)) == 2


def test_a_pod_that_misses_polls_now_and_then_is_not_reported() -> None:
    world = World.of(2)
    for _ in range(30):
        world["u0"].silent = not world["u0"].silent
        world.rounds(20.0)
    assert reports(world) == []


def test_a_pod_that_does_not_serve_is_not_reported() -> None:
    world = World.of(4)
    world.rounds(10.0)
    world["u0"].down_until = world.mono + 1000.0  # it starts
    world["u1"].silent = True  # its node is lost
    world.change("u1", node_ready=False)
    world["u2"].alerts = frozenset({"EngineUnresponsive"})  # it is taken out
    world.rounds(4.0)
    world["u2"].silent = True
    world.rounds(50.0)
    assert world.gate("u2") is Gate.CLOSED
    assert reports(world) == []


@pytest.mark.parametrize("mode", ["Enforce", "DryRun"])
def test_an_operator_that_can_read_no_pod_says_so_once_for_all(mode: str) -> None:
    world = World.of(3, policy(mode=mode))
    world.rounds(10.0)
    cut_off(world)
    world.rounds(28.0)
    assert reason(world) is None
    world.rounds(4.0)
    assert reason(world) == "PodsUnreachable"
    world.rounds(600.0)
    assert reason(world) == "PodsUnreachable"
    assert reports(world) == []
    assert world.steps(CloseGate, BeginRestart) == []
    world["u1"].silent = False
    world.rounds(10.0)
    assert reason(world) is None
    assert {report.pod.uid for report in reports(world)} == {"u0", "u2"}


def test_an_operator_that_started_without_reaching_a_pod_says_so_too() -> None:
    world = World.of(2)
    cut_off(world)
    world.forget()
    world.rounds(32.0)
    assert reason(world) == "PodsUnreachable"


def test_off_says_nothing_about_pods_that_cannot_be_read() -> None:
    world = World.of(2, policy(mode="Off"))
    world.rounds(10.0)
    cut_off(world)
    world.rounds(100.0)
    assert reason(world) is None
    assert reports(world) == []


def test_the_gates_of_new_pods_open_while_the_operator_can_read_none() -> None:
    world = World.of(2)
    cut_off(world)
    world.rounds(40.0)
    assert reason(world) == "PodsUnreachable"
    world.patients["new"] = Patient(Pod("new", "new", gate=Gate.UNSET, ready=False), silent=True)
    world.round()
    assert world.gate("new") is Gate.OPEN
    [opened] = world.steps(OpenGate)
    assert isinstance(opened, OpenGate)
    assert opened.reason == "NewPod"
    world.rounds(100.0)
    assert reason(world) == "PodsUnreachable"


def test_pods_that_sleep_are_left_alone() -> None:
    """They are not ready, and their metrics have no alert."""
    world = World.of(2)
    world.rounds(10.0)
    for uid in ("u0", "u1"):
        world.change(uid, ready=False)
    world.rounds(900.0)
    assert world.steps(object) == []
    assert reason(world) is None


def test_pods_that_load_their_model_are_not_taken_for_unreachable() -> None:
    world = World.of(2)
    for patient in world.patients.values():
        patient.down_until = world.mono + 600.0
    world.rounds(300.0)
    assert reason(world) is None


@pytest.mark.parametrize(("poll", "seconds"), [(0.2, 3.0), (2.0, 30.0), (10.0, 31.0), (60.0, 181.0)])
def test_the_time_until_it_is_said_follows_the_poll_interval(poll: float, seconds: float) -> None:
    assert policy(poll=poll).blind_after == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("body", "garbled"), [(None, False), (b"<html>", True), (b"", True), (b'{"uptime": {"seconds": 1}}', True)]
)
async def test_no_answer_and_one_that_is_not_valid_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, body: bytes | None, garbled: bool
) -> None:
    async def get(*_: Any) -> bytes | None:
        return body

    poller = Poller()
    monkeypatch.setattr(poller, "_get", get)
    assert await poller.metrics("192.0.2.1", "default") == Answer(None, garbled=garbled)

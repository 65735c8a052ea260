"""What pods say of their engines: in the status, and as Events."""

from __future__ import annotations

import copy

import pytest

from qwen_operator.remediation.engines import PROBED_SECONDS, RESTARTED, engine_reports, may_matter
from qwen_operator.remediation.outlook import look_ahead, state_after, texts
from qwen_operator.remediation.steps import BeginRestart, CloseGate, Report
from qwen_operator.remediation.values import Gate
from qwen_operator.status.diagnosis import EngineReport
from tests.unit.qwen_operator.objects import READY_POD, Object, pod
from tests.unit.qwen_operator.remediation_world import World, policy
from tests.unit.qwen_operator.statuses import SERVES, T1, T2, at, condition, ready, status_of
from tests.unit.qwen_operator.test_outlook import HUNG, hung, moment, until

UNPROBED = pod(server={**SERVES, "ready": False}, containers=at("False", T2))
RESTARTING = EngineReport(restarting_since=T1)
DEAF = EngineReport(alert=HUNG, kept="no other pod serves")
NEXT = "It is restarted at 2026-01-02T03:05:00Z unless it recovers."


def said(world: World) -> dict[str, EngineReport]:
    """What the status learns after a round now."""
    world._kubelet()
    ledger, now = world.ledger, world.now
    decisions = world.look()
    reports = engine_reports(state_after(world.seen, world.policy, ledger, decisions, now), decisions.memory)
    assert may_matter(decisions.memory) or not reports
    return reports


def restarted(world: World) -> list[Report]:
    return [step for step in world.steps(Report) if isinstance(step, Report) and step.reason == RESTARTED]


def test_a_pod_that_answers_nothing_does_not_serve_though_it_stays_in_rotation() -> None:
    status = status_of(READY_POD, engines={"uid-news-1": DEAF}, outlook={"uid-news-1": NEXT})
    for kind in ("Ready", "Available"):
        assert (condition(status, kind).status, condition(status, kind).reason) == ("False", HUNG)
    text = f"it answers no requests; it stays in rotation, because no other pod serves. {NEXT}"
    assert text in condition(status, "Ready").message
    assert text in condition(status, "Degraded").message
    assert (status.ready_replicas, status.reason) == (0, HUNG)


def test_another_pod_that_serves_keeps_the_service_ready() -> None:
    other = copy.deepcopy(READY_POD)
    other["metadata"]["uid"] = "uid-news-2"
    status = status_of(READY_POD, other, replicas=2, engines={"uid-news-1": DEAF})
    assert (condition(status, "Ready").status, status.ready_replicas) == ("True", 1)


def test_the_only_pod_is_known_to_answer_nothing_until_it_is_restarted() -> None:
    world = hung(1)
    assert said(world) == {"u0": DEAF}
    until(world, BeginRestart)
    world.rounds(60)
    assert world.gate("u0") is Gate.OPEN
    assert said(world) == {}


def test_a_hung_pod_that_is_silent_for_a_moment_is_still_hung() -> None:
    world = hung(1)
    world["u0"].silent = True
    world.rounds(world.policy.blind_after - 2 * world.policy.poll)
    assert said(world) == {"u0": DEAF}
    world.rounds(3 * world.policy.poll)
    assert said(world) == {}


@pytest.mark.parametrize("mode", ["DryRun", "Off"])
def test_a_hung_pod_answers_nothing_whatever_remediation_does(mode: str) -> None:
    world = hung(3, mode=mode)
    assert said(world) == {"u0": EngineReport(alert=HUNG, kept=f"remediation.mode is {mode}")}


def test_a_pod_with_errors_may_answer_some_requests() -> None:
    assert said(hung(1, alert="HighErrorRate")) == {}


def test_the_time_of_the_restart_stays_when_a_second_alert_begins() -> None:
    world = hung(1)
    due = 1010.0 + world.policy.alerts[HUNG].threshold
    for alert in ("HighErrorRate", "GenerationStalled"):
        world["u0"].alerts |= {alert}
        for _ in range(2):
            world.round()
            outlook = look_ahead(world.seen, world.policy, world.ledger, world.look(), world.now)
            assert texts(outlook)["u0"] == f"It is restarted at {moment(due)} unless it recovers."


@pytest.mark.parametrize("report", [RESTARTING, EngineReport(renewed=True)], ids=["restarting", "just restarted"])
@pytest.mark.parametrize("gate", [{}, {"gate": {"status": "False", "reason": HUNG}}], ids=["open", "closed"])
def test_a_server_that_restarts_its_engine_is_not_called_unresponsive(report: EngineReport, gate: Object) -> None:
    waiting = pod(server={**SERVES, "ready": False}, containers=at("False", T2), **copy.deepcopy(gate))
    status = status_of(waiting, engines={"uid-news-1": report})
    assert (condition(status, "Ready").status, condition(status, "Ready").reason) == ("False", "EngineRestarting")
    assert condition(status, "Degraded").status == "False"
    assert ready(UNPROBED).reason == HUNG


def test_a_pod_that_is_ready_while_its_engine_is_restarted_serves() -> None:
    assert ready(READY_POD, engines={"uid-news-1": RESTARTING}).reason == "Serving"


def test_an_engine_that_is_restarted_for_too_long_degrades() -> None:
    status = status_of(UNPROBED, engines={"uid-news-1": EngineReport(restarting_since="2026-01-02T02:00:00Z")})
    assert condition(status, "Degraded").reason == "EngineRestarting"


def test_a_restart_by_the_server_is_told_once_and_since_when() -> None:
    world = World.of(1, policy())
    world.rounds(10)
    assert restarted(world) == []
    world["u0"].engine_restarts, world["u0"].restarting_until = 1, world.mono + 6.0
    since = moment(world.mono)
    world.rounds(4)
    assert said(world) == {"u0": EngineReport(restarting_since=since)}
    world.rounds(4)
    assert said(world) == {"u0": EngineReport(renewed=True)}
    world.rounds(PROBED_SECONDS + 2)
    assert said(world) == {}
    assert len(restarted(world)) == 1
    assert not world.steps(CloseGate)


def test_an_engine_that_remediation_has_asked_for_is_no_restart_by_the_server() -> None:
    world = hung(3)
    world["u0"].engine_restarts_left = 3
    until(world, BeginRestart)
    world.rounds(60)
    assert world["u0"].engine_restarts == 1
    assert restarted(world) == []

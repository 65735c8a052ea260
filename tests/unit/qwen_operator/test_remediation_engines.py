"""A server that can restart its engine: that comes before its container and its pod."""

from __future__ import annotations

import json
import math
from datetime import timedelta
from typing import Any

import pytest

from qwen_operator.api import HistoryEntry
from qwen_operator.planning.builders.arguments import server_arguments
from qwen_operator.remediation import ledger as ledgers
from qwen_operator.remediation.poll import parse_metrics
from qwen_operator.remediation.steps import BeginRestart, CloseGate, Died, ExecuteRestart, OpenGate, Prove
from qwen_operator.remediation.values import Gate
from qwen_operator.remediation.views import pod_view
from tests.unit.qwen_operator.remediation_world import EPOCH, World, outcomes, policy, spec, until

HUNG = frozenset({"EngineUnresponsive"})


def able(count: int = 2, **changes: object) -> World:
    """Pods whose servers may restart their engine three times."""
    world = World.of(count, policy(**changes))
    for patient in world.patients.values():
        patient.engine_restarts_left = 3
    return world


def remembering(world: World, seconds: float) -> list[str]:
    """The methods of the restarts that begin, which the history keeps."""
    end = world.mono + seconds
    methods: list[str] = []
    while world.mono < end:
        for step in world.round().steps:
            if isinstance(step, BeginRestart):
                methods.append(step.intent.method)
                entry: Any = {"time": world.wall, "pod": "p0", "pod_uid": "u0", "action": step.intent.method}
                world.ledger = ledgers.remember(world.ledger, [HistoryEntry(**entry)])
    return methods


def test_a_hung_pod_gets_a_new_engine_and_returns_with_one_proof() -> None:
    world = able()
    world["u0"].alerts, world["u0"].generates = HUNG, False
    until(world, OpenGate)
    (begun,) = [step for step in world.steps(BeginRestart) if isinstance(step, BeginRestart)]
    assert (begun.intent.method, world["u0"].engine_restarts, world["u0"].pod.restarts) == ("Engine", 1, 0)
    assert len(world.steps(Prove)) == 1
    assert [step.reason for step in world.steps(OpenGate)] == ["Restarted"]  # type: ignore[union-attr]
    world.rounds(10.0)
    assert outcomes(world) == ["Recovered"]
    assert world.gate("u0") is Gate.OPEN


def test_what_a_new_engine_does_not_help_gets_a_new_container_and_then_another_pod() -> None:
    world = able(backoff_base=0.0)
    world["u0"].alerts, world["u0"].generates, world["u0"].cured_by_restart = HUNG, False, False
    assert remembering(world, 600.0)[:3] == ["Engine", "InPlace", "Evict"]
    assert outcomes(world)[:2] == ["NotCured", "NotCured"]


@pytest.mark.parametrize(
    ("method", "left", "expected"),
    [("Auto", 0, "InPlace"), ("Engine", 3, "Engine"), ("Engine", 0, "InPlace"), ("InPlace", 3, "InPlace")],
)
def test_the_method_is_the_one_that_was_asked_for_if_the_server_can(method: str, left: int, expected: str) -> None:
    world = able(method=method)
    world["u0"].alerts, world["u0"].generates, world["u0"].engine_restarts_left = HUNG, False, left
    assert remembering(world, 150.0)[:1] == [expected]


def test_a_server_that_ignores_the_request_is_restarted_in_place() -> None:
    """Its budget may have ended since the last poll."""
    world = able(backoff_base=0.0, drain=10.0)
    world["u0"].alerts, world["u0"].generates = HUNG, False
    until(world, BeginRestart)
    world["u0"].engine_restarts_left = 0
    world.rounds(200.0)
    assert outcomes(world)[0] == "NotRestarted"
    assert world["u0"].pod.restarts == 1


def test_an_engine_that_is_restarted_by_its_server_is_neither_sick_nor_dead() -> None:
    world = able()
    world.rounds(10.0)
    world["u0"].restarting_until = world.mono + 300.0
    world["u0"].engine_restarts = 1
    world["u0"].generates = False
    world.rounds(320.0)
    assert world.steps(CloseGate, BeginRestart, Died, Prove) == []


def test_a_pod_that_is_out_stays_out_while_its_engine_restarts() -> None:
    world = able()
    world["u0"].alerts = HUNG
    until(world, CloseGate)
    world["u0"].alerts, world["u0"].engine_restarts = frozenset(), 1
    world["u0"].restarting_until = world.mono + 90.0
    world.rounds(88.0)
    assert world.steps(Prove, OpenGate, ExecuteRestart) == []
    world.rounds(12.0)
    assert [step.reason for step in world.steps(OpenGate)] == ["Restarted"]  # type: ignore[union-attr]


def test_a_restart_of_the_engine_that_never_ends_is_followed_by_one_of_the_container() -> None:
    world = able(backoff_base=0.0, startup=120.0, drain=10.0)
    world.start_seconds = 10_000.0
    world["u0"].alerts, world["u0"].generates = HUNG, False
    assert remembering(world, 300.0)[:2] == ["Engine", "InPlace"]
    assert outcomes(world)[0] == "ReplacementPending"


def test_a_pod_that_restarts_its_engine_for_ever_by_its_own_account_is_taken_out_for_its_alerts() -> None:
    world = able(startup=120.0)
    world["u0"].alerts, world["u0"].generates, world["u0"].says_restarting = HUNG, False, True
    world.rounds(100.0)
    assert world.steps(CloseGate) == []
    until(world, CloseGate, seconds=40.0)
    assert remembering(world, 100.0) == ["InPlace"]


def test_a_restart_of_the_engine_that_a_new_container_ends_is_over() -> None:
    world = able(startup=600.0)
    world["u0"].alerts, world["u0"].generates = HUNG, False
    until(world, ExecuteRestart)
    world["u0"].restarting_until = math.inf
    world.rounds(30.0)
    assert world.memory.pods["u0"].restarting
    world["u0"].restarting_until, world["u0"].silent = -1.0, True
    world.change("u0", restarts=1)
    world.rounds(90.0)  # its metrics cannot be read, so the gate opens
    assert outcomes(world) == ["Recovered"]


def metrics(**fields: Any) -> bytes:
    body = {"uptime": {"seconds": 5}, "alerts": [], "requests": {"running": 1, "waiting": 0}}
    return json.dumps(body | fields).encode()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (0, 0, False)),
        ({"engine": {"restarts": {"total": 2, "left": 1}}, "status": "restarting"}, (2, 1, True)),
        ({"engine": {"restarts": {"total": 2, "left": 1}}, "status": "healthy"}, (2, 1, False)),
        ({"engine": {"restarts": {"total": "2", "left": 1}}, "status": "restarting"}, (0, 0, False)),
        ({"engine": [], "status": "restarting"}, (0, 0, False)),
        ({"engine": {"restarts": {"total": -1, "left": 1e300}}}, (0, 0, False)),
    ],
)
def test_what_a_server_says_of_its_engine_is_read(fields: dict[str, Any], expected: tuple[int, int, bool]) -> None:
    evidence = parse_metrics(metrics(**fields))
    assert evidence is not None
    assert (evidence.engine_restarts, evidence.engine_restarts_left, evidence.restarting) == expected


def test_the_request_is_read_back_from_the_pod() -> None:
    metadata = {"uid": "u", "name": "p", "annotations": {"qwen-vllm.io/restart-engine": "r2"}}
    view = pod_view({"metadata": metadata, "spec": {}, "status": {}})
    assert (view.restart_id, view.engine_restart_id) == ("", "r2")


def test_the_budget_of_the_server_is_a_field_of_the_service() -> None:
    assert "--engine-restarts=0" in server_arguments(spec(engine={"restarts": 0}))
    assert not [flag for flag in server_arguments(spec()) if "restarts" in flag]


def test_a_restart_of_the_engine_counts_against_the_budget() -> None:
    world = able(max_restarts=1, backoff_base=0.0)
    world["u0"].alerts, world["u0"].generates, world["u0"].cured_by_restart = HUNG, False, False
    assert remembering(world, 400.0) == ["Engine"]
    assert world.ledger.restart_times[0] - EPOCH < timedelta(seconds=400)


def test_errors_that_a_pod_shares_with_one_that_restarts_its_engine_are_systemic() -> None:
    """More than half of the pods have them, also if one of those is no candidate for a restart."""
    world = able(3)
    for uid in ("u0", "u1"):
        world[uid].alerts = frozenset({"HighErrorRate"})
    world["u0"].says_restarting = True
    world.rounds(20.0)
    assert world.steps(CloseGate, BeginRestart) == []

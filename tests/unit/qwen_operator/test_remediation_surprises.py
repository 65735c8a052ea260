"""Histories that nobody plans: alerts turned off, pods that answer anything, clocks that differ."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from qwen_operator.remediation.steps import ExecuteRestart, FinishRestart
from qwen_operator.remediation.symptoms import symptom
from qwen_operator.remediation.values import Evidence, Gate
from qwen_operator.remediation.views import pod_view
from qwen_operator.status.diagnosis import MAX_REASON, diagnose
from tests.unit.qwen_operator.objects import pod
from tests.unit.qwen_operator.remediation_world import ALERTS, World, outcomes, policy, until

HUNG = "EngineUnresponsive"
NEVER = 1e9


@pytest.mark.parametrize("alert", ["HighTTFT", HUNG, "HighErrorRate"])
@pytest.mark.parametrize("silent", [True, False])
def test_an_alert_that_is_turned_off_stops_no_round(alert: str, silent: bool) -> None:
    """The pod that had it may be silent meanwhile. Another one that hangs is taken out anyway."""
    world = World.of(3)
    world["u0"].alerts = frozenset({alert})
    world.rounds(6.0)
    world["u0"].silent = silent
    world["u1"].alerts = frozenset({"GenerationStalled"})
    world.policy = policy(alerts={name: rule for name, rule in ALERTS.items() if name != alert})
    world.rounds(6.0)
    assert world.gate("u1") is Gate.CLOSED


@pytest.mark.parametrize("seconds", [-3600, -60, 0, 3, 60, 3600])
def test_an_eviction_ends_with_its_replacement_whatever_two_clocks_say(seconds: int) -> None:
    """Another pod is missing meanwhile, so the number of ready pods does not say it."""
    world = World.of(4, policy(method="Evict"))
    world.ahead = timedelta(seconds=seconds)
    world["u3"].down_until = NEVER
    world.rounds(4.0)
    world["u0"].alerts, world["u0"].generates = frozenset({HUNG}), False
    until(world, FinishRestart)
    assert outcomes(world) == ["Recovered"]
    [evicted] = [at for at, step in world.log if isinstance(step, ExecuteRestart)]
    [ended] = [at for at, step in world.log if isinstance(step, FinishRestart)]
    assert world.start_seconds <= ended - evicted <= world.start_seconds + 10.0


def test_an_operator_that_was_restarted_meanwhile_finds_the_replacement_by_its_age() -> None:
    world = World.of(4, policy(method="Evict"))
    world["u3"].down_until = NEVER
    world["u0"].alerts, world["u0"].generates = frozenset({HUNG}), False
    until(world, ExecuteRestart)
    world.forget()
    until(world, FinishRestart)
    assert outcomes(world) == ["Recovered"]
    assert all(patient.pod.ready for uid, patient in world.patients.items() if uid != "u3")


@pytest.mark.parametrize("since", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_that_does_not_exist_in_utc_is_left_out(since: str) -> None:
    alert = {"name": HUNG, "value": 16.2, "threshold": 15, "unit": "seconds", "since": since}
    assert symptom(Evidence(1.0, body=json.dumps({"alerts": [alert]}).encode()), HUNG) == "16.2 seconds, threshold 15"


def test_the_reason_of_a_gate_that_was_written_by_hand_is_cut() -> None:
    gate = {"status": "False", "reason": "x" * 5000}
    closed = pod(gate=gate, containers=True, server={"ready": True, "started": True, "state": {"running": {}}})
    problem = diagnose(closed)
    assert problem is not None
    assert problem.reason == pod_view(closed).closed_for == "x" * MAX_REASON

"""Dry runs: each step is reported once, and none is made."""

from __future__ import annotations

from qwen_operator.remediation.steps import BeginRestart, CloseGate, WouldDo
from tests.unit.qwen_operator.remediation_world import World, policy

HUNG = frozenset({"EngineUnresponsive"})


def test_a_dry_run_reports_the_steps_of_each_pod_once() -> None:
    world = World.of(2, policy(mode="DryRun"))
    for patient in world.patients.values():
        patient.alerts, patient.generates = HUNG, False
    world.rounds(600.0)
    reported = [
        (type(step.step).__name__, step.step.pod.uid) for step in world.steps(WouldDo) if isinstance(step, WouldDo)
    ]
    assert sorted(reported) == [
        ("BeginRestart", "u0"),
        ("BeginRestart", "u1"),
        ("CloseGate", "u0"),
        ("CloseGate", "u1"),
    ]


def test_a_dry_run_reports_no_more_restarts_than_the_budget_allows() -> None:
    world = World.of(4, policy(mode="DryRun", max_restarts=2))
    for patient in world.patients.values():
        patient.alerts, patient.generates = HUNG, False
    world.rounds(1200.0)
    restarts = [
        step for step in world.steps(WouldDo) if isinstance(step, WouldDo) and isinstance(step.step, BeginRestart)
    ]
    assert len(restarts) == 2
    assert world.suspended is None  # nothing was done, so nothing is suspended


def test_a_dry_run_reports_a_pod_again_that_has_recovered() -> None:
    world = World.of(2, policy(mode="DryRun"))
    for _ in range(2):
        world["u0"].alerts = HUNG
        world.rounds(20.0)
        world["u0"].alerts = frozenset()
        world.rounds(world.policy.recover_after + 10.0)
    steps = [step.step for step in world.steps(WouldDo) if isinstance(step, WouldDo)]
    assert len([step for step in steps if isinstance(step, CloseGate)]) == 2

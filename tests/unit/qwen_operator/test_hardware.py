"""Broken hardware: how often a pod is replaced on it."""

from __future__ import annotations

from qwen_operator.remediation.values import Gate
from tests.unit.qwen_operator.remediation_world import World, policy

HUNG = frozenset({"EngineUnresponsive"})
BROKEN = frozenset({"GPUUnhealthy"})


def broken(count: int, **pod: object) -> World:
    """A service whose pod keeps landing on a broken GPU."""
    world = World.of(count, policy(backoff_base=0.0, max_restarts=20, window=600.0), **pod)
    world["u0"].alerts, world["u0"].cured_by_restart, world["u0"].gpus = BROKEN, False, ("GPU-1",)
    return world


def test_broken_hardware_does_not_evict_for_ever() -> None:
    world = broken(2, node="n1")
    world.rounds(7200.0)
    assert world.evicted == 2
    assert world.suspended is not None
    assert world.suspended.reason == "SameGPU"
    assert "GPU-1" in world.suspended.message
    assert "n1" in world.suspended.message
    [sick] = [patient for patient in world.patients.values() if patient.alerts]
    assert sick.pod.gate is Gate.CLOSED


def test_the_same_gpu_is_recognized_after_a_restart_of_the_operator() -> None:
    world = broken(2)
    for _ in range(20):
        world.forget()
        world.rounds(200.0)
    assert world.evicted == 2


def test_another_pod_is_still_replaced_while_one_stays_on_a_broken_gpu() -> None:
    world = broken(3, node="n1")
    world.rounds(1000.0)
    assert world.evicted == 2
    world["u1"].alerts, world["u1"].generates = HUNG, False
    world.rounds(200.0)
    assert world["u1"].pod.restarts == 1
    assert world.suspended is not None
    assert world.suspended.reason == "SameGPU"


def test_a_reset_of_the_budget_allows_replacements_again() -> None:
    world = broken(2, node="n1")
    world.rounds(1000.0)
    world.reset = "again"
    world.rounds(1000.0)
    assert world.evicted == 4

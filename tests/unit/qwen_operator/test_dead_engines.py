"""Engines that die: the kubelet restarts them, unless they keep dying or the spec has a rule."""

from __future__ import annotations

from typing import Any

import pytest

from qwen_operator.remediation.policy import policy_of
from qwen_operator.remediation.steps import BeginRestart, Died
from tests.unit.qwen_operator.remediation_world import World, spec


def die(world: World, uid: str) -> None:
    """The engine dies, the server exits and the kubelet restarts the container."""
    patient = world.patients[uid]
    world.change(uid, restarts=patient.pod.restarts + 1, exit_code=70)
    patient.down_until, patient.uptime = world.mono + 30.0, 0.0


def test_a_dead_engine_is_left_to_the_kubelet() -> None:
    world = World.of(2)
    world.round()
    for _ in range(2):
        die(world, "u0")
        world.rounds(10.0)
    assert len(world.steps(Died)) == 2
    assert world.steps(BeginRestart) == []
    world.rounds(60.0)
    assert world.memory.pods["u0"].deaths == 0


def test_what_a_dead_engine_said_last_is_not_what_the_next_one_says() -> None:
    """Also if the next one answers before its container's restart is heard of."""
    world = World.of(1)
    world.rounds(100.0)
    said = world.patients["u0"].uptime
    die(world, "u0")
    world.rounds(40.0)
    [first] = world.steps(Died)
    assert isinstance(first, Died)
    assert first.last is not None
    assert first.last.uptime == pytest.approx(said, abs=2.0)
    world.patients["u0"].uptime = 0.0
    world.round()
    world.change("u0", restarts=2, exit_code=70)
    world.round()
    [_, second] = world.steps(Died)
    assert isinstance(second, Died)
    assert second.last is not None
    assert second.last.uptime > 5.0


def test_a_pod_whose_engine_keeps_dying_is_evicted() -> None:
    world = World.of(2)
    world.round()
    for _ in range(3):
        die(world, "u0")
        world.rounds(10.0)
    assert [step.intent.method for step in world.steps(BeginRestart)] == ["Evict"]  # type: ignore[union-attr]
    assert "u0" not in world.patients


def test_a_container_that_exits_for_another_reason_is_left_to_the_kubelet() -> None:
    world = World.of(2)
    world.round()
    for _ in range(5):
        die(world, "u0")
        world.change("u0", exit_code=78)
        world.rounds(10.0)
    assert world.steps(BeginRestart, Died) == []


def test_a_container_that_runs_out_of_memory_is_reported_and_never_evicted() -> None:
    """The kernel kills all of its processes, so that no server is left that could exit with 70."""
    world = World.of(2)
    world.round()
    for _ in range(5):
        die(world, "u0")
        world.change("u0", exit_code=137, out_of_memory=True)
        world.rounds(10.0)
    assert len(world.steps(Died)) == 5
    assert world.steps(BeginRestart) == []


def test_an_engine_that_dies_for_lack_of_memory_dies_once() -> None:
    world = World.of(2)
    world.round()
    die(world, "u0")
    world.change("u0", out_of_memory=True)
    world.rounds(10.0)
    assert len(world.steps(Died)) == 1


# Rules for a dead engine.


def dead_rule(**rule: Any) -> World:
    """A world whose spec has one rule for EngineDead."""
    remediation = {"rules": [{"alert": "EngineDead", **rule}]}
    world = World.of(2, policy_of(spec(engine={"device": "cuda"}, remediation=remediation)))
    world.round()
    return world


def test_a_dead_engine_is_reported_and_replaced_by_default() -> None:
    rule = policy_of(spec()).alerts["EngineDead"]
    assert (rule.unready_after, rule.restart_after, rule.report_after) == (None, 0.0, 0.0)


def test_no_action_for_a_dead_engine_leaves_it_to_the_kubelet_silently() -> None:
    world = dead_rule(action="None")
    for _ in range(5):
        die(world, "u0")
        world.rounds(10.0)
    assert world.steps(Died, BeginRestart) == []


def test_an_event_for_a_dead_engine_never_evicts() -> None:
    world = dead_rule(action="Event")
    for _ in range(5):
        die(world, "u0")
        world.rounds(10.0)
    assert len(world.steps(Died)) == 5
    assert world.steps(BeginRestart) == []


def test_for_delays_the_replacement_of_a_dying_pod() -> None:
    world = dead_rule(action="Restart", **{"for": "2m"})
    for _ in range(11):
        die(world, "u0")
        world.rounds(10.0)
    assert world.steps(BeginRestart) == []
    for _ in range(2):
        die(world, "u0")
        world.rounds(10.0)
    assert len(world.steps(BeginRestart)) == 1


def test_an_alert_that_is_off_has_no_consequence() -> None:
    world = World.of(2, policy_of(spec(alerts=[{"name": "EngineDead", "enabled": False}])))
    world.round()
    for _ in range(5):
        die(world, "u0")
        world.rounds(10.0)
    assert world.steps(Died, BeginRestart) == []

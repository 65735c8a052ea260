"""How soon a pod is back in rotation: a lone one, one with a peer, and one that was restarted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qwen_operator.api import RestartIntent
from qwen_operator.remediation.steps import BeginRestart, ExecuteRestart, OpenGate
from qwen_operator.remediation.values import Gate
from tests.unit.qwen_operator.remediation_world import ALERTS, EPOCH, Patient, World, outcomes, policy, until

HUNG = frozenset({"EngineUnresponsive"})


@pytest.mark.parametrize("alert", ["EngineUnresponsive", "GenerationStalled"])
def test_a_lone_hung_pod_is_back_after_twice_its_threshold_and_a_start(alert: str) -> None:
    world = World.of(1)
    world.rounds(10.0)
    threshold, hung_at = ALERTS[alert].threshold, world.mono
    world.rounds(threshold)  # the server raises the alert after its threshold
    world["u0"].alerts, world["u0"].generates = frozenset({alert}), False
    until(world, OpenGate)
    back = next(at for at, step in world.log if isinstance(step, OpenGate))
    # A poll is up to two seconds late when the alert begins, and when the pod is up again.
    assert back - hung_at <= 2 * threshold + world.start_seconds + 3.0 + world.policy.poll
    [opened] = world.steps(OpenGate)
    assert isinstance(opened, OpenGate)
    assert opened.reason == "Restarted"


def test_a_rule_that_sets_for_is_waited_for_in_an_outage_too() -> None:
    rule = replace(ALERTS["EngineUnresponsive"], restart_after=300.0, restart_in_outage=300.0)
    world = World.of(1, policy(alerts={**ALERTS, "EngineUnresponsive": rule}))
    world["u0"].alerts, world["u0"].generates = HUNG, False
    world.rounds(290.0)
    assert world.steps(BeginRestart) == []
    world.rounds(30.0)
    assert len(world.steps(BeginRestart)) == 1


def test_a_hung_pod_with_a_peer_gets_its_minute() -> None:
    world = World.of(2)
    world["u0"].alerts, world["u0"].generates = HUNG, False
    world.rounds(58.0)
    assert world.steps(BeginRestart) == []


def test_a_restarted_container_needs_one_proof_and_a_latched_one_three() -> None:
    world = World.of(2)
    world["u0"].alerts, world["u0"].generates = HUNG, False
    until(world, ExecuteRestart)
    up = world.mono + world.start_seconds
    until(world, OpenGate)
    assert world.mono - up <= 6.0


def test_a_container_that_the_kubelet_restarted_needs_one_proof() -> None:
    world = World.of(2)
    world["u0"].alerts, world["u0"].generates = HUNG, False
    world.rounds(6.0)
    world.change("u0", restarts=1, exit_code=137)
    world.patients["u0"] = Patient(world["u0"].pod, uptime=0.0)
    start = world.mono
    until(world, OpenGate)
    assert world.mono - start <= 8.0


def test_an_intent_for_a_dead_engine_ends_when_the_container_is_ready() -> None:
    world = World.of(2, gate=Gate.CLOSED, closed_for="GPUUnhealthy")
    world.change("u1", gate=Gate.OPEN)
    world.ledger = world.ledger.model_copy(
        update={"intents": [RestartIntent(pod_uid="u0", pod="p0", alert="EngineDead", method="Evict", time=EPOCH)]}
    )
    world.rounds(40.0)
    assert world.steps(ExecuteRestart) == []
    assert outcomes(world) == ["Cancelled"]
    assert world.gate("u0") is Gate.OPEN


@pytest.mark.parametrize(
    ("mode", "reason"), [("Enforce", "Recovered"), ("DryRun", "NotEnforced"), ("Off", "NotEnforced")]
)
def test_a_gate_that_somebody_closed_by_hand_opens(mode: str, reason: str) -> None:
    world = World.of(2, policy(mode=mode))
    world.change("u0", gate=Gate.CLOSED, closed_since=world.wall)
    until(world, OpenGate)
    [opened] = world.steps(OpenGate)
    assert isinstance(opened, OpenGate)
    assert (opened.pod.uid, opened.reason) == ("u0", reason)


def test_a_pod_that_is_taken_out_again_is_restarted_at_once_whatever_the_rule_says() -> None:
    rule = replace(ALERTS["EngineUnresponsive"], restart_after=300.0, restart_in_outage=300.0)
    world = World.of(2, policy(alerts={**ALERTS, "EngineUnresponsive": rule}))
    world["u0"].alerts = HUNG
    world.rounds(10.0)
    world["u0"].alerts = frozenset()
    until(world, OpenGate)
    assert world.steps(BeginRestart) == []
    world["u0"].alerts, world["u0"].generates = HUNG, False
    again = world.mono
    until(world, BeginRestart)
    assert world.mono - again <= 10.0

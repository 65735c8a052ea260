"""What evidence is worth: stale intents, silent pods, missed polls, and clocks that jump."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from qwen_operator.api import RemediationStatus
from qwen_operator.remediation.decide import decide
from qwen_operator.remediation.memory import Memory
from qwen_operator.remediation.steps import BeginRestart, CloseGate, ExecuteRestart
from qwen_operator.remediation.values import Evidence, Gate, Instant, Pod, Rollout, Round
from tests.unit.qwen_operator.remediation_world import EPOCH, World, outcomes, policy, until

HUNG = frozenset({"EngineUnresponsive"})
ERRORS = frozenset({"HighErrorRate"})
BROKEN = frozenset({"GPUUnhealthy"})


def away(world: World, seconds: float) -> None:
    """The operator is away, and forgets what it knew."""
    world.forget()
    world.advance(seconds)


# Intents.


def test_an_old_intent_is_not_executed_on_a_pod_that_is_well() -> None:
    world = World.of(2)
    world["u0"].alerts, world["u0"].generates = HUNG, False
    until(world, BeginRestart)
    away(world, 600.0)
    world["u0"].alerts, world["u0"].generates = frozenset(), True
    world.rounds(40.0)
    assert world.steps(ExecuteRestart) == []
    assert outcomes(world) == ["Cancelled"]
    assert world.ledger.restart_times == []  # refunded
    assert world.gate("u0") is Gate.OPEN


def test_an_old_intent_is_executed_once_if_the_pod_is_still_hung() -> None:
    world = World.of(2)
    world["u0"].alerts, world["u0"].generates = HUNG, False
    until(world, BeginRestart)
    away(world, 600.0)
    world.round()
    assert world.steps(ExecuteRestart) == []  # one poll is not enough
    world.rounds(60.0)
    assert len(world.steps(ExecuteRestart)) == 1
    assert world["u0"].pod.restarts == 1


def test_an_intent_without_evidence_is_cancelled_after_a_minute() -> None:
    world = World.of(2)
    world["u0"].alerts, world["u0"].generates = HUNG, False
    until(world, BeginRestart)
    away(world, 600.0)
    world["u0"].silent = True
    world.rounds(70.0)
    assert world.steps(ExecuteRestart) == []
    assert outcomes(world) == ["Cancelled"]
    assert world.gate("u0") is Gate.OPEN


def test_an_intent_is_not_executed_after_a_rollout_has_begun() -> None:
    world = World.of(3, policy(drain=30.0))
    world["u0"].alerts, world["u0"].busy = ERRORS, 1
    until(world, BeginRestart)
    world.rollout = Rollout(under_way=True)
    world.rounds(60.0)
    assert world.steps(ExecuteRestart) == []
    assert outcomes(world) == ["Cancelled"]


def test_of_two_intents_one_at_a_time_is_executed() -> None:
    world = World.of(3, policy(backoff_base=0.0))
    world["u0"].alerts, world["u0"].generates = HUNG, False
    world["u1"].alerts, world["u1"].generates = HUNG, False
    until(world, BeginRestart)
    [intent] = world.ledger.intents
    other = {"u0": "u1", "u1": "u0"}[intent.pod_uid]
    second = intent.model_copy(update={"pod_uid": other, "time": intent.time + timedelta(seconds=1)})
    world.ledger = world.ledger.model_copy(update={"intents": [intent, second]})
    world.round()
    assert [step.pod.uid for step in world.steps(ExecuteRestart)] == [intent.pod_uid]  # type: ignore[union-attr]
    assert outcomes(world) == ["Cancelled"]


# Silent pods.


@pytest.mark.parametrize("alerts", [ERRORS, HUNG, BROKEN])
def test_the_last_pod_that_answers_stays_when_its_peer_is_silent(alerts: frozenset[str]) -> None:
    world = World.of(2)
    world.rounds(10.0)
    world["u1"].silent = True  # its node is gone; the API still calls the pod ready
    world.rounds(10.0)
    world["u0"].alerts = alerts
    world.rounds(12.0)
    assert world.steps(CloseGate, BeginRestart) == []


def test_a_pod_that_was_silent_for_one_poll_still_serves() -> None:
    world = World.of(2)
    world.rounds(10.0)
    world["u0"].alerts = BROKEN
    world.round()
    world["u1"].silent = True
    world.round()
    assert [step.pod.uid for step in world.steps(CloseGate)] == ["u0"]  # type: ignore[union-attr]


def test_a_hung_peer_is_no_pod_that_serves() -> None:
    world = World.of(2)
    world.rounds(10.0)
    world["u0"].alerts = BROKEN
    world.round()
    world["u1"].alerts = HUNG
    world.round()
    assert world.steps(CloseGate) == []


def test_the_old_alert_of_a_silent_pod_makes_nothing_systemic() -> None:
    world = World.of(3)
    world["u1"].alerts = ERRORS
    world.round()
    world["u1"].silent = True
    world.rounds(20.0)
    world["u0"].alerts, world["u0"].generates = ERRORS, False
    world.rounds(10.0)
    assert world.suspended is None
    assert [step.pod.uid for step in world.steps(CloseGate)] == ["u0"]  # type: ignore[union-attr]


# Missed and frozen polls.


def test_a_missed_poll_does_not_end_the_suspension_for_systemic_errors() -> None:
    world = World.of(2)
    for patient in world.patients.values():
        patient.alerts = ERRORS
    world.rounds(10.0)
    for silent in (["u0"], ["u0", "u1"], []):
        for uid, patient in world.patients.items():
            patient.silent = uid in silent
        world.round()
        assert world.suspended is not None


def test_a_missed_poll_does_not_end_the_suspension_for_a_spent_budget() -> None:
    world = World.of(2, policy(max_restarts=0))
    world["u0"].alerts, world["u0"].generates = HUNG, False
    world.rounds(80.0)
    for silent in (True, True, False):
        world["u0"].silent = silent
        world.round()
        assert world.suspended is not None
        assert world.suspended.reason == "BudgetExhausted"


def test_a_budget_that_allows_no_restart_at_all_cannot_be_reset() -> None:
    found = {}
    for most in (0, 1):
        world = World.of(2, policy(max_restarts=most, backoff_base=0.0))
        world["u0"].alerts, world["u0"].cured_by_restart = HUNG, False
        world.rounds(300.0)
        assert world.suspended is not None
        found[most] = world.suspended.message
    assert found[0] == "remediation.restartBudget.maxRestarts is 0, which allows no restart. Raise it."
    assert "change the value of the annotation" in found[1]


def test_a_suspension_ends_when_its_reason_is_gone() -> None:
    world = World.of(2)
    for patient in world.patients.values():
        patient.alerts = ERRORS
    world.rounds(10.0)
    for patient in world.patients.values():
        patient.alerts = frozenset()
    world.rounds(12.0)
    assert world.suspended is None


def test_one_poll_without_the_alert_does_not_make_the_errors_of_a_peer_its_own() -> None:
    world = World.of(3)
    world["u0"].alerts = world["u1"].alerts = ERRORS
    world.rounds(10.0)
    world["u1"].alerts = frozenset()
    world.round()
    world["u1"].alerts = ERRORS
    world.rounds(10.0)
    assert world.steps(CloseGate) == []


def restarted_operator() -> World:
    """The operator has restarted; before, it took one of two pods out, which still is hung."""
    closed = EPOCH - timedelta(seconds=100)
    world = World.of(2, gate=Gate.CLOSED, closed_for="EngineUnresponsive", closed_since=closed)
    world.change("u1", gate=Gate.OPEN)
    world["u0"].alerts = HUNG
    return world


def test_a_frozen_answer_after_a_restart_of_the_operator_begins_no_restart() -> None:
    world = restarted_operator()
    world["u0"].frozen = True
    world.rounds(30.0)
    assert world.steps(BeginRestart) == []


def test_one_poll_after_a_restart_of_the_operator_begins_no_restart() -> None:
    world = restarted_operator()
    world.round()
    assert world.steps(BeginRestart) == []
    world.round()
    assert len(world.steps(BeginRestart)) == 1


# The age of an answer.


@pytest.mark.parametrize(("seconds", "current"), [(4.0, True), (20.0, False)])
def test_an_answer_counts_from_when_it_was_asked_for(seconds: float, *, current: bool) -> None:
    now = Instant(1000.0, EPOCH)
    seen = Round((Pod("u0", "p0"),), {"u0": Evidence(9.0, HUNG, asked_at=now.mono - seconds)}, 1)
    found = decide(seen, policy(), RemediationStatus(), Memory(), now).memory.pods["u0"]
    assert (found.fresh_at, found.fresh) == (now.mono - seconds, current)
    assert found.streaks["EngineUnresponsive"].at == now.mono - seconds
    assert found.unread_since is None  # the pod has answered


def test_answers_that_are_always_old_take_no_pod_out() -> None:
    seen, memory = Round((Pod("u0", "p0"), Pod("u1", "p1")), {}, 2), Memory()
    for second in range(0, 600, 25):
        now = Instant(1000.0 + second, EPOCH + timedelta(seconds=second))
        asked = now.mono - 20.0
        told = {"u0": Evidence(asked, HUNG, asked_at=asked), "u1": Evidence(asked, asked_at=asked)}
        found = decide(replace(seen, evidence=told), policy(), RemediationStatus(), memory, now)
        memory = found.memory
        assert found.steps == ()


# Clocks.


@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_that_jumps_while_a_pod_drains_spends_no_second_restart(hours: int) -> None:
    world = World.of(3, policy(drain=30.0))
    world["u0"].alerts, world["u0"].busy = ERRORS, 1
    until(world, BeginRestart)
    world.wall += timedelta(hours=hours)
    world.rounds(100.0)
    assert len(world.steps(BeginRestart)) == 1
    assert len(world.steps(ExecuteRestart)) == 1
    assert outcomes(world) == ["Recovered"]


@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_that_jumps_while_a_container_restarts_spends_no_second_restart(hours: int) -> None:
    world = World.of(2)
    world.start_seconds = 600.0
    world["u0"].alerts, world["u0"].generates = HUNG, False
    until(world, ExecuteRestart)
    world.wall += timedelta(hours=hours)
    world.rounds(700.0)
    assert len(world.steps(BeginRestart)) == 1
    assert outcomes(world) == ["Recovered"]


def test_a_clock_that_jumps_ahead_does_not_refill_the_budget() -> None:
    world = World.of(2, policy(max_restarts=1, backoff_base=0.0))
    world["u0"].alerts, world["u0"].generates, world["u0"].cured_by_restart = HUNG, False, False
    until(world, ExecuteRestart)
    world.rounds(200.0)
    world.wall += timedelta(hours=2)
    world.rounds(200.0)
    assert len(world.steps(BeginRestart)) == 1


def test_times_from_a_clock_that_was_ahead_end_after_the_window() -> None:
    rules = policy(max_restarts=1, window=600.0, backoff_max=60.0)
    world = World.of(2, rules)
    ahead = EPOCH + timedelta(days=1)
    world.ledger = world.ledger.model_copy(
        update={"restart_times": [ahead], "last_restart_time": ahead, "backoff_until": ahead + timedelta(seconds=30)}
    )
    world["u0"].alerts, world["u0"].generates = HUNG, False
    world.rounds(590.0)
    assert world.steps(BeginRestart) == []
    world.rounds(20.0)
    assert len(world.steps(BeginRestart)) == 1


def test_a_restart_after_a_jump_counts_for_the_next_process_too() -> None:
    world = World.of(2, policy(max_restarts=1, backoff_base=0.0))
    world.round()
    world.wall += timedelta(hours=2)
    world["u0"].alerts, world["u0"].generates, world["u0"].cured_by_restart = HUNG, False, False
    until(world, ExecuteRestart)
    world.rounds(100.0)
    world.forget()
    world.rounds(200.0)
    assert len(world.steps(BeginRestart)) == 1


def test_the_backoff_is_the_usual_one_after_a_jump() -> None:
    world = World.of(2, policy(backoff_base=30.0))
    world.round()
    world.wall += timedelta(hours=2)
    for patient in world.patients.values():
        patient.alerts, patient.generates = HUNG, False
    world.rounds(300.0)
    assert len(world.steps(BeginRestart)) == 2


# A gate that could not be closed.


def test_a_gate_that_could_not_be_closed_stays_open_once_its_pod_is_needed() -> None:
    world = World.of(2)
    world.rounds(10.0)
    world["u0"].alerts = BROKEN
    world.round()
    world["u1"].silent = True
    for _ in range(5):
        world.round(perform=0)  # the API takes no writes
    assert world.steps(CloseGate)
    world.rounds(20.0)
    assert world.gate("u0") is Gate.OPEN

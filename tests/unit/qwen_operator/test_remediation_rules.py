"""When which step of remediation is decided."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from qwen_operator.api import HistoryEntry
from qwen_operator.remediation import ledger as ledgers
from qwen_operator.remediation.steps import (
    BeginRestart,
    CloseGate,
    ExecuteRestart,
    FinishRestart,
    OpenGate,
    Prove,
    Report,
)
from qwen_operator.remediation.values import Gate
from tests.unit.qwen_operator.remediation_world import EPOCH, World, policy

HUNG = frozenset({"EngineUnresponsive"})


def test_two_polls_take_a_hung_pod_out() -> None:
    world = World.of(2)
    world["u0"].alerts = HUNG
    world.round()
    assert world.steps(CloseGate) == []
    world.round()
    assert [step.pod.uid for step in world.steps(CloseGate)] == ["u0"]  # type: ignore[union-attr]


def test_a_hung_pod_is_restarted_a_minute_after_it_was_taken_out() -> None:
    world = World.of(2)
    world["u0"].alerts, world["u0"].generates = HUNG, False
    world.rounds(200.0)
    taken = next(at for at, step in world.log if isinstance(step, CloseGate))
    begun = next(at for at, step in world.log if isinstance(step, BeginRestart))
    done = next(at for at, step in world.log if isinstance(step, ExecuteRestart))
    assert 60.0 <= begun - taken <= 62.0
    assert done - begun <= 2 * world.policy.poll


def test_a_busy_pod_is_drained_before_it_is_restarted() -> None:
    world = World.of(3, policy(drain=30.0))
    world["u0"].alerts, world["u0"].busy = frozenset({"HighErrorRate"}), 1
    world.rounds(125.0)
    begun = next(at for at, step in world.log if isinstance(step, BeginRestart))
    world.rounds(10.0)
    assert world.steps(ExecuteRestart) == []
    world.rounds(30.0)
    done = next(at for at, step in world.log if isinstance(step, ExecuteRestart))
    assert 28.0 <= done - begun <= 34.0


def test_an_idle_pod_is_not_waited_for() -> None:
    world = World.of(3, policy(drain=300.0))
    world["u0"].alerts = frozenset({"HighErrorRate"})
    world.rounds(140.0)
    assert len(world.steps(ExecuteRestart)) == 1


def test_a_pod_that_a_restart_in_place_does_not_help_is_evicted() -> None:
    world = World.of(2, policy(backoff_base=0.0))
    world["u0"].alerts, world["u0"].generates, world["u0"].cured_by_restart = HUNG, False, False
    history: list[HistoryEntry] = []
    for _ in range(300):
        for step in world.round().steps:
            if isinstance(step, BeginRestart):
                entry: Any = {"time": world.wall, "pod": "p0", "pod_uid": "u0", "action": step.intent.method}
                history.append(HistoryEntry(**entry))
                world.ledger = ledgers.remember(world.ledger, history[-1:])
        if len(history) == 2:
            break
    assert [entry.action for entry in history] == ["InPlace", "Evict"]


def test_broken_hardware_is_evicted_at_once() -> None:
    world = World.of(2)
    world["u0"].alerts = frozenset({"GPUUnhealthy"})
    world.rounds(80.0)
    begun = world.steps(BeginRestart)
    assert [step.intent.method for step in begun] == ["Evict"]  # type: ignore[union-attr]


def test_a_pod_taken_out_twice_in_ten_minutes_is_restarted_at_once() -> None:
    world = World.of(2)
    world["u0"].alerts = HUNG
    world.rounds(6.0)
    world["u0"].alerts = frozenset()
    world.rounds(50.0)
    assert world.gate("u0") == Gate.OPEN
    world["u0"].alerts, world["u0"].generates = HUNG, False
    world.rounds(10.0)
    assert len(world.steps(BeginRestart)) == 1


def test_without_peers_errors_never_restart() -> None:
    world = World.of(1, policy(min_ready=0))
    world["u0"].alerts = frozenset({"HighErrorRate"})
    world.rounds(400.0)
    assert world.steps(BeginRestart, CloseGate) == []


def test_a_pod_on_a_lost_node_is_left_alone() -> None:
    world = World.of(2, node_ready=False)
    world["u0"].alerts = HUNG
    world.rounds(200.0)
    assert world.steps(CloseGate, BeginRestart) == []


def test_a_closed_gate_without_evidence_opens_after_a_minute() -> None:
    world = World.of(2)
    world["u0"].alerts = HUNG
    world.rounds(6.0)
    world["u0"].silent = True
    world.rounds(50.0)
    assert world.gate("u0") == Gate.CLOSED
    world.rounds(14.0)
    assert world.gate("u0") == Gate.OPEN
    assert [step.reason for step in world.steps(OpenGate)] == ["NoEvidence"]  # type: ignore[union-attr]


def test_three_proofs_spread_over_recover_after() -> None:
    world = World.of(2, policy(recover_after=30.0))
    world["u0"].alerts = HUNG
    world.rounds(6.0)
    world["u0"].alerts = frozenset()
    world.rounds(60.0)
    asked = [at for at, step in world.log if isinstance(step, Prove)]
    assert len(asked) == 3
    assert asked[2] - asked[0] >= 30.0


def test_a_failed_proof_starts_over() -> None:
    world = World.of(2, policy(recover_after=10.0))
    world["u0"].alerts = HUNG
    world.rounds(6.0)
    world["u0"].alerts, world["u0"].generates = frozenset(), False
    world.rounds(40.0)
    assert world.gate("u0") == Gate.CLOSED
    world["u0"].generates = True
    world.rounds(20.0)
    assert world.gate("u0") == Gate.OPEN


def test_a_hung_pod_without_a_gate_is_restarted() -> None:
    world = World.of(2, gate=Gate.MISSING)
    world["u0"].alerts, world["u0"].generates = HUNG, False
    world.rounds(120.0)
    assert world.steps(CloseGate, OpenGate) == []
    assert world["u0"].pod.restarts == 1
    assert world.ledger.intents == []


def test_a_restart_that_times_out_frees_its_slot() -> None:
    world = World.of(2, policy(startup=100.0, drain=10.0))
    world.start_seconds = 10_000.0
    world["u0"].alerts, world["u0"].generates = HUNG, False
    world.rounds(250.0)
    assert [step.outcome for step in world.steps(FinishRestart)] == ["ReplacementPending"]  # type: ignore[union-attr]
    assert world.ledger.intents == []


def test_off_opens_gates_and_cancels_restarts() -> None:
    world = World.of(2)
    world["u0"].alerts, world["u0"].generates = HUNG, False
    world.rounds(70.0)
    assert world.ledger.intents
    world.policy = replace(world.policy, mode="Off")
    world.round()
    assert world.ledger.intents == []
    assert world.gate("u0") == Gate.OPEN


def test_saturation_is_reported_once_per_occurrence() -> None:
    world = World.of(1)
    world["u0"].alerts = frozenset({"QueueSaturated"})
    world.rounds(60.0)
    world["u0"].alerts = frozenset()
    world.rounds(310.0)
    world["u0"].alerts = frozenset({"QueueSaturated"})
    world.rounds(60.0)
    assert len(world.steps(Report)) == 2


def test_saturation_that_comes_and_goes_is_reported_every_five_minutes() -> None:
    world = World.of(1)
    for _ in range(60):
        world["u0"].alerts = frozenset({"QueueSaturated"})
        world.rounds(6.0)
        world["u0"].alerts = frozenset()
        world.rounds(4.0)
    assert len(world.steps(Report)) == 2  # in ten minutes


def test_a_pod_that_is_kept_in_rotation_is_not_reported_each_time_that_its_alert_returns() -> None:
    world = World.of(1)
    for _ in range(20):
        world["u0"].alerts = frozenset({"GPUUnhealthy"})
        world.rounds(6.0)
        world["u0"].alerts = frozenset()
        world.rounds(6.0)
    assert len(world.steps(Report)) == 1  # in four minutes


def test_a_closed_gate_is_remembered_by_the_pod_itself() -> None:
    closed = EPOCH - timedelta(seconds=50)
    world = World.of(2, gate=Gate.CLOSED, closed_for="EngineUnresponsive", closed_since=closed)
    world["u0"].alerts, world["u0"].generates = HUNG, False
    world.rounds(20.0)
    assert len(world.steps(BeginRestart)) == 1


def test_a_lone_pod_that_fails_requests_and_then_hangs_is_restarted() -> None:
    world = World.of(1)
    world["u0"].alerts = frozenset({"HighErrorRate"})
    world.rounds(30)
    assert world.gate("u0") is Gate.OPEN  # nobody else is there to answer
    world["u0"].alerts = frozenset({"HighErrorRate", "EngineUnresponsive"})
    world.rounds(120)
    assert [step.intent.alert for _, step in world.log if isinstance(step, BeginRestart)] == ["EngineUnresponsive"]


def test_a_pod_that_is_out_for_errors_and_then_hangs_is_restarted_without_peers() -> None:
    world = World.of(2)
    world["u0"].alerts = frozenset({"HighErrorRate"})
    world.rounds(10)
    assert world.gate("u0") is Gate.CLOSED
    world["u0"].alerts = HUNG
    world["u1"].down_until = world.mono + 10_000
    world.rounds(90)
    assert [step.pod.uid for _, step in world.log if isinstance(step, BeginRestart)] == ["u0"]


@pytest.mark.parametrize("mode", ["Off", "DryRun"])
def test_a_triggered_restart_is_not_refunded_by_a_change_of_mode(mode: str) -> None:
    world = World.of(2)
    world.start_seconds = 1000.0
    world["u0"].alerts = HUNG
    while not world.steps(ExecuteRestart):
        world.round()
    world.policy = replace(world.policy, mode=mode)  # type: ignore[arg-type]
    world.round()
    (finished,) = world.steps(FinishRestart)
    assert isinstance(finished, FinishRestart)
    assert finished.outcome == "Unattended"
    assert len(world.ledger.restart_times) == 1

"""Restarts that are refused, cancelled or never end: they hold up no other, and are refunded."""

from __future__ import annotations

import math
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from qwen_operator.api import HistoryEntry, RemediationStatus, RestartIntent
from qwen_operator.remediation import ledger as ledgers
from qwen_operator.remediation.steps import BeginRestart, CloseGate, ExecuteRestart, FinishRestart, OpenGate, Step
from qwen_operator.remediation.values import Gate
from tests.unit.qwen_operator.remediation_world import EPOCH, World, policy, until

HUNG = frozenset({"EngineUnresponsive"})
ERRORS = frozenset({"HighErrorRate"})
BROKEN = frozenset({"GPUUnhealthy"})


class Remembering(World):
    """A world that also keeps the history of restarts."""

    def act(self, step: Step) -> None:
        """Performs a step and remembers it."""
        super().act(step)
        if isinstance(step, BeginRestart):
            self._remember(step.intent, step.intent.method)
        elif isinstance(step, FinishRestart):
            self._remember(step.intent, step.outcome)

    def _remember(self, intent: RestartIntent, action: str) -> None:
        entry = HistoryEntry(time=self.wall, pod=intent.pod, pod_uid=intent.pod_uid, action=action)
        self.ledger = ledgers.remember(self.ledger, [entry])


def begun(world: World) -> list[RestartIntent]:
    return [step.intent for step in world.steps(BeginRestart) if isinstance(step, BeginRestart)]


def tried(world: World, uid: str) -> list[float]:
    return [at for at, step in world.log if isinstance(step, ExecuteRestart) and step.pod.uid == uid]


# Refused.


def test_a_refused_restart_holds_up_no_other() -> None:
    world = Remembering.of(4)
    world.evictions_blocked = True
    world["u0"].alerts = BROKEN
    world.rounds(400.0)
    attempts = tried(world, "u0")
    assert len(attempts) == 5
    assert min(later - at for at, later in pairwise(attempts)) >= 30.0
    assert [entry.action for entry in world.ledger.history] == ["Blocked"]
    world["u1"].alerts, world["u1"].generates = HUNG, False
    world.rounds(100.0)
    assert world["u1"].pod.restarts == 1


def test_of_two_pods_that_are_due_the_one_that_was_refused_is_the_second() -> None:
    world = Remembering.of(4, policy(backoff_base=0.0))
    world.evictions_blocked = True
    world["u0"].alerts, world["u1"].alerts, world["u1"].generates = BROKEN, HUNG, False
    world.rounds(80.0)
    assert [intent.pod_uid for intent in begun(world)[:2]] == ["u0", "u1"]
    assert world["u1"].pod.restarts == 1


def test_a_refund_leaves_no_trace_in_the_ledger() -> None:
    earlier = EPOCH - timedelta(minutes=10)
    before = RemediationStatus(restart_times=[earlier], restarts_in_window=1, last_restart_time=earlier)
    intent = RestartIntent(pod_uid="u0", pod="p0", method="Evict", time=EPOCH)
    counting = ledgers.begin(before, intent, policy(), [earlier])
    assert counting.backoff_until == EPOCH + timedelta(seconds=60)
    assert ledgers.finish(counting, intent, refund=True) == before


def test_a_refund_of_an_older_restart_keeps_the_back_off_of_the_last() -> None:
    rules = policy()
    first = RestartIntent(pod_uid="u0", pod="p0", method="Evict", time=EPOCH)
    second = first.model_copy(update={"pod_uid": "u1", "time": EPOCH + timedelta(seconds=90)})
    both = ledgers.begin(ledgers.begin(RemediationStatus(), first, rules, []), second, rules, [first.time])
    refunded = ledgers.finish(both, first, refund=True)
    assert (refunded.last_restart_time, refunded.backoff_until) == (second.time, both.backoff_until)


def test_a_back_off_from_a_clock_that_was_ahead_does_not_last() -> None:
    entry: Any = {"time": EPOCH, "pod": "p0", "pod_uid": "u0", "action": "Blocked"}
    ledger = RemediationStatus(backoff_until=EPOCH + timedelta(days=1), history=[HistoryEntry(**entry)])
    assert ledgers.paused_until(ledger, policy(), "u0", EPOCH) is None


# Cancelled.


def test_a_cancelled_restart_in_place_was_no_attempt() -> None:
    world = Remembering.of(3, policy(drain=60.0))
    world["u0"].alerts, world["u0"].busy = ERRORS, 1
    until(world, BeginRestart)
    world["u0"].alerts = frozenset()
    until(world, FinishRestart)
    until(world, OpenGate)
    world["u0"].alerts = ERRORS
    until(world, BeginRestart, count=2)
    assert [intent.method for intent in begun(world)] == ["InPlace", "InPlace"]
    assert [entry.action for entry in world.ledger.history] == ["InPlace", "Cancelled", "InPlace"]


@pytest.mark.parametrize(
    ("actions", "tried_before"),
    [
        ([], False),
        (["InPlace"], True),
        (["InPlace", "Restarted"], True),
        (["InPlace", "NotCured", "Evict", "Cancelled"], True),
        (["InPlace", "Restarted", "InPlace", "Cancelled"], True),
        (["InPlace", "Cancelled"], False),
        (["Blocked"], False),
        (["Evict", "Restarted"], False),
    ],
)
def test_only_a_restart_that_was_made_counts_as_tried(actions: list[str], tried_before: bool) -> None:
    entries: list[Any] = [
        {"time": EPOCH + timedelta(seconds=number), "pod": "p0", "pod_uid": "u0", "action": action}
        for number, action in enumerate(actions, 1)
    ]
    other: Any = {"time": EPOCH + timedelta(seconds=9), "pod": "p1", "pod_uid": "u1", "action": "InPlace"}
    dry: Any = {**other, "pod_uid": "u0", "dry_run": True}
    ledger = RemediationStatus(history=[HistoryEntry(**entry) for entry in [*entries, other, dry]])
    assert ledgers.tried(ledger, "InPlace", "u0", EPOCH) is tried_before
    assert not ledgers.tried(ledger, "InPlace", "u0", EPOCH + timedelta(hours=1))


def test_a_cancelled_restart_makes_only_its_own_pod_wait() -> None:
    entry: Any = {"time": EPOCH, "pod": "p0", "pod_uid": "u0", "action": "Cancelled"}
    ledger, now = RemediationStatus(history=[HistoryEntry(**entry)]), EPOCH + timedelta(seconds=10)
    assert ledgers.paused_until(ledger, policy(backoff_base=30.0), "u0", now) == EPOCH + timedelta(seconds=30)
    assert ledgers.paused_until(ledger, policy(backoff_base=5.0), "u0", now) is None
    assert ledgers.paused_until(ledger, policy(backoff_base=30.0), "u1", now) is None


# Unfinished.


def test_the_replacement_of_an_evicted_pod_is_waited_for_and_not_a_pod_that_was_missing_before() -> None:
    world = World.of(4)
    world["u3"].down_until = math.inf
    world["u0"].alerts = BROKEN
    world.rounds(120.0)
    assert world.evicted == 1
    world["u1"].alerts, world["u1"].generates = HUNG, False
    world.rounds(180.0)
    assert [intent.pod_uid for intent in begun(world)] == ["u0", "u1"]
    outcomes = [step.outcome for step in world.steps(FinishRestart) if isinstance(step, FinishRestart)]
    assert outcomes == ["Recovered", "Recovered"]


def test_a_new_operator_recognizes_the_replacement_too() -> None:
    world = World.of(4)
    world["u3"].down_until = math.inf
    world["u0"].alerts = BROKEN
    until(world, ExecuteRestart)
    world.forget()
    world.rounds(60.0)
    assert world.ledger.intents == []


def test_an_eviction_is_not_over_before_its_replacement_runs() -> None:
    world = World.of(4)
    world["u3"].down_until = math.inf
    world.start_seconds = 300.0
    world["u0"].alerts = BROKEN
    until(world, ExecuteRestart)
    world.rounds(200.0)
    assert len(world.ledger.intents) == 1


# No node for a replacement.


def waiting_for_a_node(**rules: Any) -> World:
    """The pod of a broken GPU was evicted, and its replacement finds no node. Another pod hangs."""
    world = Remembering.of(4, policy(backoff_base=0.0, **rules))
    world.full = True
    world["u0"].alerts = BROKEN
    until(world, ExecuteRestart)
    world["u1"].alerts, world["u1"].generates = HUNG, False
    return world


def test_a_hung_pod_is_restarted_in_place_beside_a_replacement_that_finds_no_node() -> None:
    world = waiting_for_a_node()
    world.rounds(120.0)
    assert world["u1"].pod.restarts == 1
    assert world.gate("u1") is Gate.OPEN
    assert [intent.pod_uid for intent in world.ledger.intents] == ["u0"]  # it still goes on
    assert world.ledger.restarts_in_window == 2
    world.full = False
    world.rounds(60.0)
    assert world.ledger.intents == []
    assert sum(patient.pod.ready for patient in world.patients.values()) == 4


def test_an_engine_is_restarted_beside_a_replacement_that_finds_no_node() -> None:
    world = waiting_for_a_node()
    world["u1"].engine_restarts_left = 3
    world.rounds(120.0)
    assert (world["u1"].engine_restarts, world["u1"].pod.restarts) == (1, 0)
    assert world.gate("u1") is Gate.OPEN
    assert [intent.pod_uid for intent in world.ledger.intents] == ["u0"]


def test_one_at_a_time_also_beside_a_replacement_that_finds_no_node() -> None:
    world = waiting_for_a_node()
    world["u2"].alerts, world["u2"].generates = HUNG, False
    until(world, BeginRestart, count=2)
    assert len(world.ledger.intents) == 2
    world.rounds(15.0)  # the restarted pod is not back yet
    assert len(begun(world)) == 2
    world.rounds(60.0)
    assert (world["u1"].pod.restarts, world["u2"].pod.restarts) == (1, 1)


@pytest.mark.parametrize("rules", [{"method": "Evict"}, {"max_restarts": 1}, {"drain": 600.0}])
def test_beside_a_replacement_without_a_node_no_pod_is_evicted_and_guards_hold(rules: dict[str, Any]) -> None:
    world = waiting_for_a_node(**rules)
    world.rounds(300.0)
    assert [intent.pod_uid for intent in begun(world)] == ["u0"]


def test_errors_are_no_reason_for_a_restart_beside_a_replacement_without_a_node() -> None:
    world = waiting_for_a_node()
    world["u1"].alerts, world["u1"].generates = ERRORS, True
    world.rounds(300.0)
    assert [intent.pod_uid for intent in begun(world)] == ["u0"]


# Time.


def test_the_number_of_restarts_in_the_window_falls_when_the_window_has_passed() -> None:
    world = World.of(2, policy(window=600.0))
    world["u0"].alerts, world["u0"].generates = HUNG, False
    world.rounds(300.0)
    assert world.ledger.restarts_in_window == 1
    world.rounds(400.0)
    assert world.ledger.restarts_in_window == 0
    assert world.round().steps == ()


def test_one_missed_poll_of_a_service_that_is_polled_rarely_opens_no_gate() -> None:
    world = World.of(2, policy(poll=120.0))
    world["u0"].alerts, world["u0"].generates = HUNG, False
    until(world, CloseGate, seconds=600.0)
    world["u0"].silent = True
    world.round()
    world["u0"].silent = False
    world.round()
    assert world.steps(OpenGate) == []


def test_one_missed_poll_of_a_service_that_is_polled_rarely_cancels_no_restart() -> None:
    world = World.of(3, policy(poll=120.0, drain=60.0))
    world.rounds(600.0)
    world["u0"].alerts, world["u0"].busy = ERRORS, 1
    until(world, BeginRestart, seconds=1200.0)
    world.round()
    world["u0"].silent = True
    world.round()
    world["u0"].silent = False
    world.rounds(200.0)
    assert all(step.outcome != "Cancelled" for step in world.steps(FinishRestart) if isinstance(step, FinishRestart))
    assert world["u0"].pod.restarts == 1


def test_a_service_that_is_polled_rarely_lets_a_silent_pod_in_after_three_polls() -> None:
    world = World.of(2, policy(poll=120.0))
    world["u0"].alerts, world["u0"].generates = HUNG, False
    until(world, CloseGate, seconds=600.0)
    world["u0"].silent = True
    world.rounds(500.0)
    assert world.gate("u0") is Gate.OPEN

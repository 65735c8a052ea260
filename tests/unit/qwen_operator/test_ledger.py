"""The ledger in the status of a service: the budget, the back-off, and the history."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from qwen_operator.api import HistoryEntry, RemediationStatus, RestartIntent
from qwen_operator.remediation import ledger as ledgers
from qwen_operator.remediation.writes import remediation_patch
from tests.unit.qwen_operator.remediation_world import EPOCH, World, policy


def intent(seconds: float = 0.0, **changes: Any) -> RestartIntent:
    time = ledgers.whole_second(EPOCH + timedelta(seconds=seconds))
    return RestartIntent(**{"pod_uid": "u0", "pod": "p0", "method": "InPlace", "time": time, **changes})


def test_backoff_doubles_up_to_its_maximum() -> None:
    rules = policy(backoff_base=30.0, backoff_max=100.0, max_restarts=10)
    ledger = RemediationStatus()
    pauses = []
    for number in range(4):
        now = EPOCH + timedelta(seconds=number)
        ledger = ledgers.finish(ledgers.begin(ledger, intent(number), rules, ledger.restart_times), intent(number))
        assert ledger.backoff_until is not None
        pauses.append((ledger.backoff_until - now).total_seconds())
    assert pauses == [30.0, 60.0, 100.0, 100.0]


def test_restarts_leave_the_window() -> None:
    rules = policy(window=600.0, max_restarts=1)
    ledger = ledgers.begin(RemediationStatus(), intent(), rules, [])
    assert ledgers.budget_left(ledger, rules, EPOCH + timedelta(seconds=599)) == 0
    assert ledgers.budget_left(ledger, rules, EPOCH + timedelta(seconds=600)) == 1


def test_a_refunded_restart_does_not_count() -> None:
    rules = policy(max_restarts=1)
    ledger = ledgers.begin(RemediationStatus(), intent(), rules, [])
    refunded = ledgers.finish(ledger, intent(), refund=True)
    assert refunded.intents == []
    assert ledgers.budget_left(refunded, rules, EPOCH) == 1


def test_a_clock_that_jumps_back_does_not_block_restarts_forever() -> None:
    rules = policy(backoff_max=60.0, window=600.0)
    ahead = RemediationStatus(backoff_until=EPOCH + timedelta(days=1), restart_times=[EPOCH + timedelta(days=1)])
    assert ledgers.backoff_left(ahead, rules, EPOCH) <= 60.0
    assert ledgers.budget_left(ahead, rules, EPOCH) == 2


def test_history_keeps_the_last_twenty() -> None:
    world = World.of(1)
    ledger = world.ledger
    for number in range(30):
        entry: Any = {"time": EPOCH, "pod": f"p{number}", "action": "Unready"}
        ledger = ledgers.remember(ledger, [HistoryEntry(**entry)])
    assert [entry.pod for entry in ledger.history] == [f"p{number}" for number in range(10, 30)]


def test_the_patch_of_status_removes_what_is_no_longer_there() -> None:
    patch = remediation_patch(RemediationStatus(), "7")
    assert patch["metadata"] == {"resourceVersion": "7"}
    assert patch["status"]["remediation"]["backoffUntil"] is None
    assert patch["status"]["remediation"]["intents"] == []


def test_the_new_value_of_the_annotation_resets_the_budget_once() -> None:
    world = World.of(2, policy(max_restarts=1))
    world.ledger = ledgers.begin(RemediationStatus(), intent(), world.policy, []).model_copy(update={"intents": []})
    world.reset = "again"
    world.round()
    assert world.ledger.handled_reset == "again"
    assert ledgers.budget_left(world.ledger, world.policy, world.wall) == 1
    assert world.round().steps == ()


def test_refused_evictions_share_one_entry_and_wait_longer_each_time() -> None:
    rules = policy(backoff_base=30.0, backoff_max=600.0)
    earlier: Any = {"time": EPOCH, "pod": "p9", "action": "Unready"}
    ledger = ledgers.remember(RemediationStatus(), [HistoryEntry(**earlier)])
    now, pauses = EPOCH, []
    for _ in range(8):
        tried = intent((now - EPOCH).total_seconds(), method="Evict")
        decided: Any = {"time": now, "pod": "p0", "pod_uid": "u0", "action": "Evict"}
        ledger = ledgers.remember(ledgers.begin(ledger, tried, rules, ledger.restart_times), [HistoryEntry(**decided)])
        refused: Any = {**decided, "time": now + timedelta(seconds=1), "action": "Blocked"}
        ledger = ledgers.blocked(ledger, tried, HistoryEntry(**refused), rules)
        assert ledger.backoff_until is not None
        pauses.append((ledger.backoff_until - now).total_seconds())
        now = ledger.backoff_until
    assert [(entry.pod, entry.action) for entry in ledger.history] == [("p9", "Unready"), ("p0", "Blocked")]
    assert ledger.history[-1].time == EPOCH  # since when
    assert pauses == [30.0, 30.0, 60.0, 120.0, 240.0, 480.0, 600.0, 600.0]
    assert ledger.restart_times == []

"""Which changes of conditions become Events."""

from __future__ import annotations

from typing import Any

from qwen_operator.status.transitions import transitions


def condition(kind: str, status: str, reason: str) -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": f"about {reason}"}


def events_for(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(severity, item["type"], item["reason"]) for severity, item in transitions(old, new)]


def test_conditions_that_change_for_one_reason_make_one_event() -> None:
    old = [condition("Ready", "False", "Starting"), condition("Available", "False", "Starting")]
    new = [condition("Ready", "False", "ModelLoading"), condition("Available", "False", "ModelLoading")]
    assert events_for(old, new) == [("Normal", "Ready", "ModelLoading")]


def test_losing_readiness_is_a_warning() -> None:
    old = [condition("Ready", "True", "Serving")]
    new = [condition("Ready", "False", "EngineUnresponsive"), condition("Degraded", "True", "EngineUnresponsive")]
    assert events_for(old, new) == [("Warning", "Ready", "EngineUnresponsive")]


def test_degraded_for_another_reason_than_ready_gets_an_event() -> None:
    old = [condition("Ready", "True", "Serving"), condition("Degraded", "False", "AsExpected")]
    new = [condition("Ready", "True", "Serving"), condition("Degraded", "True", "OutOfMemory")]
    assert events_for(old, new) == [("Warning", "Degraded", "OutOfMemory")]


def test_the_first_event_of_a_failure_is_a_warning() -> None:
    new = [condition("Ready", "False", "ImagePullError"), condition("Degraded", "True", "ImagePullError")]
    assert events_for([], new) == [("Warning", "Ready", "ImagePullError")]


def test_a_failing_update_of_a_service_that_serves_is_a_warning() -> None:
    ready = condition("Ready", "True", "Serving")
    old = [ready, condition("Progressing", "True", "RollingOut"), condition("Degraded", "False", "AsExpected")]
    failing = [condition("Progressing", "True", "ModelLoadFailed"), condition("Degraded", "True", "ModelLoadFailed")]
    assert events_for(old, [ready, *failing]) == [("Warning", "Degraded", "ModelLoadFailed")]
    stalled = [condition("Progressing", "False", "RolloutStalled"), condition("Degraded", "True", "RolloutStalled")]
    assert events_for(old, [ready, *stalled]) == [("Warning", "Progressing", "RolloutStalled")]


def test_a_new_service_that_starts_is_no_warning() -> None:
    new = [
        condition("Ready", "False", "Starting"),
        condition("Progressing", "True", "Starting"),
        condition("Available", "False", "Starting"),
        condition("Degraded", "False", "AsExpected"),
    ]
    assert events_for([], new) == [("Normal", "Ready", "Starting")]
    assert events_for([], [condition("Ready", "False", "ScaledToZero")]) == [("Normal", "Ready", "ScaledToZero")]
    done = [condition("Progressing", "False", "Complete")]
    assert events_for([condition("Progressing", "True", "RollingOut")], done) == [("Normal", "Progressing", "Complete")]


def test_what_is_unchanged_or_initially_fine_gets_no_event() -> None:
    ready = condition("Ready", "True", "Serving")
    rest = [condition("Degraded", "False", "AsExpected"), condition("HasWarnings", "True", "RolloutMeansDowntime")]
    assert events_for([ready], [ready, *rest]) == []


def test_a_gate_that_stays_shut_is_a_warning() -> None:
    waiting = [condition("Ready", "False", "GatePending"), condition("Degraded", "False", "AsExpected")]
    assert events_for([], waiting) == [("Normal", "Ready", "GatePending")]
    overdue = [condition("Ready", "False", "GatePending"), condition("Degraded", "True", "GatePending")]
    assert events_for(waiting, overdue) == [("Warning", "Degraded", "GatePending")]

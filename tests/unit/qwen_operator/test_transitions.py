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


def test_what_is_unchanged_or_initially_fine_gets_no_event() -> None:
    ready = condition("Ready", "True", "Serving")
    rest = [condition("Degraded", "False", "AsExpected"), condition("HasWarnings", "True", "RolloutMeansDowntime")]
    assert events_for([ready], [ready, *rest]) == []

"""When an engine counts as hung or stalled."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from qwen_server.engine.base import Vitals, hung_seconds, stalled_seconds

NOW = 1000.0
times = st.none() | st.floats(0, NOW, allow_nan=False)
vitals_of_any_kind = st.builds(
    Vitals,
    state=st.sampled_from(["starting", "ready", "dead"]),
    unfinished=st.integers(0, 5),
    last_step_at=times,
    last_token_at=times,
    ping_sent_at=times,
    busy_since=times,
    cpu_active_at=times,
)


def busy(**values: float | None) -> Vitals:
    return replace(Vitals(state="ready", unfinished=1), **values)  # type: ignore[arg-type]


def test_work_without_a_step_is_a_hang() -> None:
    assert hung_seconds(busy(busy_since=990.0, last_step_at=980.0), NOW) == 10
    assert hung_seconds(busy(busy_since=900.0, last_step_at=995.0), NOW) == 5


def test_an_idle_engine_that_answers_is_not_hung_however_long_ago_it_worked() -> None:
    assert hung_seconds(Vitals(state="ready", last_step_at=1.0, busy_since=1.0), NOW) == 0


def test_an_idle_engine_that_does_not_answer_is_hung() -> None:
    assert hung_seconds(Vitals(state="ready", ping_sent_at=980.0), NOW) == 20


def test_a_long_step_on_a_cpu_is_not_a_hang() -> None:
    long_step = busy(busy_since=900.0, last_step_at=900.0)
    assert hung_seconds(long_step, NOW) == 100
    assert hung_seconds(replace(long_step, cpu_active_at=999.0), NOW) == 1


def test_requests_without_tokens_are_a_stall() -> None:
    assert stalled_seconds(busy(busy_since=900.0, last_token_at=960.0, last_step_at=999.0), NOW) == 39
    assert stalled_seconds(Vitals(state="ready", last_token_at=1.0), NOW) == 0


def test_a_long_step_is_no_stall_whatever_it_will_bring() -> None:
    assert stalled_seconds(busy(busy_since=900.0, last_token_at=950.0, last_step_at=950.0), NOW) == 0
    assert stalled_seconds(busy(busy_since=900.0), NOW) == 0


@given(vitals_of_any_kind)
def test_only_a_ready_engine_can_be_hung_or_stalled(vitals: Vitals) -> None:
    for seconds in (hung_seconds(vitals, NOW), stalled_seconds(vitals, NOW)):
        assert 0 <= seconds <= NOW
        assert seconds == 0 or vitals.state == "ready"


@given(vitals_of_any_kind, st.floats(0, NOW))
def test_a_recent_step_clears_a_busy_engine(vitals: Vitals, ago: float) -> None:
    alive = replace(vitals, unfinished=1, last_step_at=NOW - ago)
    assert hung_seconds(alive, NOW) <= ago + 1e-9


def test_compiling_a_grammar_is_no_stall() -> None:
    vitals = busy(busy_since=900.0, last_token_at=940.0, last_step_at=999.0)
    assert stalled_seconds(replace(vitals, compiling_seconds=20.0), NOW) == 39
    assert stalled_seconds(replace(vitals, compiling_seconds=80.0), NOW) == 0

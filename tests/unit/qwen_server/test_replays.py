"""What becomes of a request whose engine has died, and how often an engine may be restarted."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_server.control.restarts import (
    BUDGET_SECONDS,
    EngineRestarts,
    Pause,
    may_restart,
    overlap,
    patience,
    restarts_left,
)
from qwen_server.engine.base import Delta, EngineRestartedError, Output
from qwen_server.engine.replays import Continued, FromStart, Interrupted, Observations, obstacle_of, plan

FLAGS = ("known", "samples", "seeded", "grammar", "penalties", "bad_words", "repetition_detection", "logprobs")
interrupted = st.builds(
    Interrupted,
    made=st.integers(0, 50),
    streamed=st.booleans(),
    max_tokens=st.integers(1, 50),
    min_tokens=st.integers(0, 50),
    **{name: st.booleans() for name in FLAGS},
)


@given(interrupted)
def test_every_sequence_goes_on_honestly_or_says_why_not(found: Interrupted) -> None:
    try:
        decided = plan(found)
    except EngineRestartedError:
        # Only what the client has seen keeps an answer from starting over.
        assert found.streamed
        assert found.made > 0
        return
    if isinstance(decided, Continued):
        assert obstacle_of(found) is None
        assert decided.max_tokens + found.made == found.max_tokens
        assert decided.max_tokens > 0
        assert decided.min_tokens == max(found.min_tokens - found.made, 0)
    else:
        assert decided == FromStart()
        assert found.made == 0 or not found.streamed


@given(interrupted)
def test_a_sequence_without_tokens_always_starts_over(found: Interrupted) -> None:
    assert plan(replace(found, made=0)) == FromStart()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"grammar": True}, "grammar"),
        ({"seeded": True, "samples": True}, "seed"),
        ({"penalties": True}, "penalty"),
        ({"bad_words": True}, "bad_words"),
        ({"repetition_detection": True}, "repetition_detection"),
        ({"logprobs": True}, "log probabilities"),
        ({"known": False}, "which tokens"),
    ],
)
def test_the_error_names_what_does_not_survive(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(EngineRestartedError, match=reason):
        plan(Interrupted(made=3, streamed=True, max_tokens=10, **fields))


def test_a_seed_without_sampling_changes_nothing() -> None:
    found = Interrupted(made=3, streamed=True, max_tokens=10, min_tokens=4, seeded=True)
    assert plan(found) == Continued(max_tokens=7, min_tokens=1)


attempts = st.lists(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), max_size=6), min_size=1, max_size=4)


@given(attempts)
def test_a_token_is_observed_once_over_all_attempts(attempts: list[list[tuple[int, int]]]) -> None:
    """The last attempt may be shorter: sampling without a seed is not repeated."""
    seen: list[Output] = []
    observations = Observations(seen.append)
    most: Counter[int] = Counter()
    for attempt in attempts:
        observations.begin()
        made: Counter[int] = Counter()
        for position, (index, tokens) in enumerate(attempt):
            observations(Output((Delta(index, "x", tokens),), finished=False, prompt_tokens=7 * (position == 0)))
            made[index] += tokens
        most |= made
    total: Counter[int] = Counter()
    for output in seen:
        for delta in output.deltas:
            assert delta.tokens >= 0
            total[delta.index] += delta.tokens
    assert +total == +most
    assert sum(output.prompt_tokens for output in seen) == 7 * any(attempts)


times = st.lists(st.floats(0, 5000, allow_nan=False), max_size=30)


@given(st.integers(0, 5), times)
def test_never_more_restarts_than_the_budget_in_any_window(limit: int, asked: list[float]) -> None:
    begun: list[float] = []
    for now in sorted(asked):
        if may_restart(limit, begun, now):
            begun.append(now)
    for start in begun:
        assert sum(start <= at < start + BUDGET_SECONDS for at in begun) <= limit
    if limit and asked:
        assert begun[0] == min(asked)


@given(st.integers(0, 5), times, st.floats(0, 5000, allow_nan=False))
def test_what_is_left_says_whether_a_restart_is_allowed(limit: int, begun: list[float], now: float) -> None:
    left = restarts_left(limit, [at for at in begun if at <= now], now)
    assert 0 <= left <= limit
    assert may_restart(limit, [at for at in begun if at <= now], now) == (left > 0)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), max_size=5), st.floats(0, 100), st.floats(0, 100))
def test_a_pause_counts_as_far_as_it_overlaps(spans: list[tuple[float, float]], since: float, waited: float) -> None:
    pauses = [Pause(begin, begin + length) for begin, length in spans]
    total = overlap(pauses, since, since + waited)
    assert 0 <= total <= sum(length for _, length in spans) + 1e-6
    assert overlap(pauses, 0.0, 300.0) == pytest.approx(sum(length for _, length in spans))


def test_the_pauses_and_the_patience_of_a_process() -> None:
    now = 100.0
    restarts = EngineRestarts(lambda: now)
    restarts.begin("died")
    now = 104.0
    assert restarts.paused_seconds(102.0) == 2.0
    assert not restarts.takes_too_long(10.0)
    restarts.end()
    now = 200.0
    assert (restarts.paused_seconds(0.0), restarts.paused_seconds(103.0)) == (4.0, 1.0)
    assert restarts.latest_seconds == 4.0
    restarts.begin("failed")
    now = 200.0 + patience(300.0)
    assert not restarts.takes_too_long(300.0)
    now += 1
    assert restarts.takes_too_long(300.0)
    assert restarts.counts == {"died": 1, "failed": 1}

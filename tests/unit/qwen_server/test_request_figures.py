import math
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_server.observe.request_figures import (
    OUTCOMES,
    Distribution,
    Histogram,
    Outcome,
    RequestFigures,
    RequestRecord,
    Sample,
    Summary,
    percentile,
)

# Three requests that produce the specification's example: latency, time to first token, tokens.
EXAMPLE = ((3.467, 0.5203, 11), (4.0945, 0.6143, 13), (6.2639, 0.9588, 19))


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def answer(figures: RequestFigures, clock: Clock, latency: float, ttft: float, tokens: int) -> RequestRecord:
    """Records one request that arrives now; the clock advances to its end."""
    record = RequestRecord("id", arrival=clock.now, prompt_tokens=9)
    figures.accept()
    record.granted = clock.now
    for index in range(tokens):
        at = record.arrival + ttft + (latency - ttft) * index / max(1, tokens - 1)
        figures.gain(record, 1, at)
    clock.now = record.arrival + latency
    figures.finish(record, "successful")
    return record


def test_the_specifications_example_numbers_come_out() -> None:
    clock = Clock()
    figures = RequestFigures(clock=clock)
    for latency, ttft, tokens in EXAMPLE:
        answer(figures, clock, latency, ttft, tokens)
    summary = figures.summary()
    ttft_, latency_ = summary.ttft, summary.latency
    assert [round(value or 0, 4) for value in (ttft_.mean, ttft_.p50, ttft_.p95, ttft_.p99)] == [
        0.6978,
        0.6143,
        0.9588,
        0.9588,
    ]
    assert [
        round(value or 0, 4)
        for value in (latency_.mean, latency_.p50, latency_.p95, latency_.p99, latency_.min, latency_.max)
    ] == [4.6085, 4.0945, 6.2639, 6.2639, 3.467, 6.2639]
    assert round(summary.decoding.mean or 0, 2) == 3.41
    assert round(summary.decoding.p50 or 0, 2) == 3.39
    assert round(summary.throughput or 0, 2) == 3.11
    assert summary.sample_size == 3
    assert figures.counters.latency_histogram == [0, 0, 0, 0, 2, 1, 0]
    assert (figures.counters.input_tokens, figures.counters.output_tokens) == (27, 43)


def test_refused_rejected_aborted_and_failed_requests_enter_no_percentile() -> None:
    clock = Clock()
    figures = RequestFigures(clock=clock)
    outcomes: tuple[Outcome, ...] = ("failed", "aborted", "rejected", "refused")
    for outcome in outcomes:
        figures.accept()
        figures.finish(RequestRecord("id", clock.now), outcome, "why")
    figures.turn_away(RequestRecord("id", clock.now), "refused", "queue_full")
    assert figures.summary().sample_size == 0
    assert figures.counters.outcomes == {"failed": 1, "aborted": 1, "rejected": 1, "refused": 2}
    assert figures.counters.errors == {"why": 1}
    assert figures.counters.refusals == {"why": 1, "queue_full": 1}
    assert figures.total == 4


@given(st.lists(st.sampled_from(["accept", "turn away", *OUTCOMES])))
def test_total_counts_who_was_accepted_and_never_falls(events: list[str]) -> None:
    figures = RequestFigures(clock=Clock())
    accepted = 0
    for event in events:
        before = figures.total
        if event == "turn away":
            figures.turn_away(RequestRecord("id", 0), "refused", "queue_full")
        elif event == "accept":
            figures.accept()
            accepted += 1
        elif figures.in_progress:
            figures.finish(RequestRecord("id", 0), cast("Outcome", event), "why")
        assert before <= figures.total == accepted


def test_the_length_of_a_prompt_is_that_of_one_of_several() -> None:
    figures = RequestFigures(clock=Clock())
    figures.accept()
    figures.finish(RequestRecord("id", 0, prompts=4, prompt_tokens=42), "successful")
    assert figures.summary().prompt_tokens_p95 == 11
    assert figures.counters.input_tokens == 42


def test_percentiles_forget_what_is_older_than_five_minutes() -> None:
    clock = Clock()
    figures = RequestFigures(clock=clock)
    answer(figures, clock, 20, 10, 3)
    clock.now += 301
    answer(figures, clock, 1, 0.5, 3)
    assert figures.summary().latency.max == 1
    assert figures.counters.outcomes["successful"] == 2


def test_percentiles_cover_at_most_a_thousand_requests() -> None:
    clock = Clock()
    figures = RequestFigures(clock=clock)
    answer(figures, clock, 9, 1, 2)
    for _ in range(1000):
        answer(figures, clock, 0.1, 0.05, 2)
    assert figures.summary().sample_size == 1000
    assert figures.summary().latency.max == pytest.approx(0.1)


def test_recent_errors_cover_one_minute() -> None:
    clock = Clock()
    figures = RequestFigures(clock=clock)
    figures.accept()
    figures.finish(RequestRecord("id", clock.now), "failed", "engine_error")
    answer(figures, clock, 1, 0.5, 2)
    assert figures.recent_errors() == (2, 1)
    clock.now += 59.5
    assert figures.recent_errors() == (1, 0)


def test_a_busy_minute_is_remembered_in_little_memory() -> None:
    clock = Clock()
    figures = RequestFigures(clock=clock)
    for _ in range(20_000):
        clock.now += 0.01
        figures.accept()
        figures.finish(RequestRecord("id", clock.now), "failed", "engine_error")
    ended, failed = figures.recent_errors()
    assert 5900 <= ended == failed <= 6000
    assert len(figures._recent) <= 61


def test_nothing_measured_is_none() -> None:
    summary = RequestFigures(clock=Clock()).summary()
    assert summary == Summary.of(())
    assert summary.ttft == Distribution(None, None, None, None, None, None)
    assert summary.throughput is None


def test_one_token_has_no_decoding_rate() -> None:
    assert Sample(0, latency=1, ttft=1, prompt_tokens=1, output_tokens=1).decoding is None
    assert Sample(0, latency=2, ttft=1, prompt_tokens=1, output_tokens=1).decoding is None


def test_time_to_first_token_is_the_engines_when_one_output_carries_all() -> None:
    clock = Clock()
    figures = RequestFigures(clock=clock)
    record = RequestRecord("id", clock.now)
    figures.accept()
    figures.gain(record, 11, clock.now + 3, first_at=clock.now + 1)
    assert record.ttft == 1
    assert sum(figures.inter_token.counts) == 10
    assert figures.inter_token.total == pytest.approx(2)


def test_inter_token_times_of_parallel_choices_are_each_ones_own() -> None:
    figures = RequestFigures(clock=Clock())
    record = RequestRecord("id", 0)
    for at in (1.0, 1.1, 1.2):
        figures.gain(record, 4, at, choices=4)
    assert sum(figures.inter_token.counts) == 8
    assert figures.inter_token.total / 8 == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("latency", "label"),
    [(0.0999, 0), (0.1, 1), (0.4999, 1), (0.5, 2), (1, 3), (2, 4), (5, 5), (9.99, 5), (10, 6), (100, 6)],
)
def test_latency_histogram_has_the_specifications_edges(latency: float, label: int) -> None:
    clock = Clock(0.0)
    figures = RequestFigures(clock=clock)
    answer(figures, clock, latency, latency / 2, 2)
    assert figures.counters.latency_histogram.index(1) == label


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.sampled_from([50, 95, 99, 100]))
def test_percentile_is_the_smallest_value_that_covers_its_share(values: list[float], percent: float) -> None:
    ordered = sorted(values)
    found = percentile(ordered, percent)
    need = percent / 100 * len(ordered)
    covered = sum(value <= (found or 0) for value in ordered)
    below = sum(value < (found or 0) for value in ordered)
    assert covered >= need - 1e-9
    assert below < need + 1e-9


def test_percentile_is_not_misled_by_floating_point() -> None:
    assert percentile([float(value) for value in range(1, 21)], 95) == 19


@given(st.lists(st.floats(0, 100), max_size=50))
def test_histogram_counts_every_value_once(values: list[float]) -> None:
    histogram = Histogram((1, 10, 50))
    for value in values:
        histogram.observe(value)
    assert sum(histogram.counts) == len(values)
    assert histogram.counts[0] == sum(value <= 1 for value in values)
    assert histogram.total == pytest.approx(math.fsum(values))

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_server.observe.request_figures import (
    Distribution,
    Histogram,
    Outcome,
    Sample,
    Summary,
    Telemetry,
    Trace,
    percentile,
)

# Three requests that produce the specification's example: latency, time to first token, tokens.
EXAMPLE = ((3.467, 0.5203, 11), (4.0945, 0.6143, 13), (6.2639, 0.9588, 19))


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def answer(telemetry: Telemetry, clock: Clock, latency: float, ttft: float, tokens: int) -> Trace:
    """Records one request that arrives now; the clock advances to its end."""
    trace = Trace("id", arrival=clock.now, prompt_tokens=9)
    telemetry.accept()
    trace.granted = clock.now
    for index in range(tokens):
        at = trace.arrival + ttft + (latency - ttft) * index / max(1, tokens - 1)
        telemetry.gain(trace, 1, at)
    clock.now = trace.arrival + latency
    telemetry.finish(trace, "successful")
    return trace


def test_the_specifications_example_numbers_come_out() -> None:
    clock = Clock()
    telemetry = Telemetry(clock=clock)
    for latency, ttft, tokens in EXAMPLE:
        answer(telemetry, clock, latency, ttft, tokens)
    summary = telemetry.summary()
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
    assert telemetry.counters.latency_histogram == [0, 0, 0, 0, 2, 1, 0]
    assert (telemetry.counters.input_tokens, telemetry.counters.output_tokens) == (27, 43)


def test_refused_rejected_aborted_and_failed_requests_enter_no_percentile() -> None:
    clock = Clock()
    telemetry = Telemetry(clock=clock)
    outcomes: tuple[Outcome, ...] = ("failed", "aborted", "rejected", "refused")
    for outcome in outcomes:
        telemetry.accept()
        telemetry.finish(Trace("id", clock.now), outcome, "why")
    telemetry.turn_away(Trace("id", clock.now), "refused", "queue_full")
    assert telemetry.summary().sample_size == 0
    assert telemetry.counters.outcomes == {"failed": 1, "aborted": 1, "rejected": 1, "refused": 2}
    assert telemetry.counters.errors == {"why": 1}
    assert telemetry.counters.refusals == {"why": 1, "queue_full": 1}
    assert telemetry.total == 1


def test_total_is_successful_and_failed_and_in_progress() -> None:
    clock = Clock()
    telemetry = Telemetry(clock=clock)
    answer(telemetry, clock, 1, 0.5, 3)
    telemetry.accept()
    telemetry.finish(Trace("id", clock.now), "failed", "engine_error")
    telemetry.accept()
    assert (telemetry.total, telemetry.in_progress) == (3, 1)


def test_percentiles_forget_what_is_older_than_five_minutes() -> None:
    clock = Clock()
    telemetry = Telemetry(clock=clock)
    answer(telemetry, clock, 20, 10, 3)
    clock.now += 301
    answer(telemetry, clock, 1, 0.5, 3)
    assert telemetry.summary().latency.max == 1
    assert telemetry.counters.outcomes["successful"] == 2


def test_percentiles_cover_at_most_a_thousand_requests() -> None:
    clock = Clock()
    telemetry = Telemetry(clock=clock)
    answer(telemetry, clock, 9, 1, 2)
    for _ in range(1000):
        answer(telemetry, clock, 0.1, 0.05, 2)
    assert telemetry.summary().sample_size == 1000
    assert telemetry.summary().latency.max == pytest.approx(0.1)


def test_recent_errors_cover_one_minute() -> None:
    clock = Clock()
    telemetry = Telemetry(clock=clock)
    telemetry.accept()
    telemetry.finish(Trace("id", clock.now), "failed", "engine_error")
    answer(telemetry, clock, 1, 0.5, 2)
    assert telemetry.recent_errors() == (2, 1)
    clock.now += 59.5
    assert telemetry.recent_errors() == (1, 0)


def test_a_busy_minute_is_remembered_in_little_memory() -> None:
    clock = Clock()
    telemetry = Telemetry(clock=clock)
    for _ in range(20_000):
        clock.now += 0.01
        telemetry.accept()
        telemetry.finish(Trace("id", clock.now), "failed", "engine_error")
    ended, failed = telemetry.recent_errors()
    assert 5900 <= ended == failed <= 6000
    assert len(telemetry._recent) <= 61


def test_nothing_measured_is_none() -> None:
    summary = Telemetry(clock=Clock()).summary()
    assert summary == Summary.of(())
    assert summary.ttft == Distribution(None, None, None, None, None, None)
    assert summary.throughput is None


def test_one_token_has_no_decoding_rate() -> None:
    assert Sample(0, latency=1, ttft=1, prompt_tokens=1, output_tokens=1).decoding is None
    assert Sample(0, latency=2, ttft=1, prompt_tokens=1, output_tokens=1).decoding is None


def test_time_to_first_token_is_the_engines_when_one_output_carries_all() -> None:
    clock = Clock()
    telemetry = Telemetry(clock=clock)
    trace = Trace("id", clock.now)
    telemetry.accept()
    telemetry.gain(trace, 11, clock.now + 3, first_at=clock.now + 1)
    assert trace.ttft == 1
    assert sum(telemetry.inter_token.counts) == 10
    assert telemetry.inter_token.total == pytest.approx(2)


def test_inter_token_times_of_parallel_choices_are_each_ones_own() -> None:
    telemetry = Telemetry(clock=Clock())
    trace = Trace("id", 0)
    for at in (1.0, 1.1, 1.2):
        telemetry.gain(trace, 4, at, choices=4)
    assert sum(telemetry.inter_token.counts) == 8
    assert telemetry.inter_token.total / 8 == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("latency", "label"),
    [(0.0999, 0), (0.1, 1), (0.4999, 1), (0.5, 2), (1, 3), (2, 4), (5, 5), (9.99, 5), (10, 6), (100, 6)],
)
def test_latency_histogram_has_the_specifications_edges(latency: float, label: int) -> None:
    clock = Clock(0.0)
    telemetry = Telemetry(clock=clock)
    answer(telemetry, clock, latency, latency / 2, 2)
    assert telemetry.counters.latency_histogram.index(1) == label


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

"""Request statistics: counters, histograms, and the percentiles that the specification asks for.

vLLM's own statistics do not suffice: they have no time to first token per request and do not know
the queue in front of the engine. All times are readings of one monotonic clock, which is passed in.
Only answered requests enter the percentiles; failed, aborted and refused ones have counters of
their own. Counters cover the life of the process, percentiles a sliding window.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

WINDOW_SECONDS = 300.0
WINDOW_REQUESTS = 1000
ERROR_WINDOW_SECONDS = 60.0
MOST_ADAPTERS = 128  # whose figures are kept
_RECENT_SECONDS = 1.0  # the resolution of the error window: a minute may have many requests

LATENCY_LABELS = ("0-100ms", "100-500ms", "500-1000ms", "1-2s", "2-5s", "5-10s", ">10s")
_LATENCY_EDGES = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)

# There are edges at the alerts' default thresholds (5 s), and the low ones resolve small, fast
# models.
_SECONDS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 2, 2.5, 5, 7.5, 10, 20, 30, 60, 120, 300, 600)
_TOKEN_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 5, 10, 30)

Outcome = Literal["successful", "failed", "aborted", "refused", "rejected"]
OUTCOMES: tuple[Outcome, ...] = ("successful", "failed", "aborted", "refused", "rejected")

# The reasons for which requests fail and are refused. Their counters exist before they first grow.
ERRORS = ("draining", "engine_dead", "engine_error", "internal", "out_of_memory", "timeout")
REFUSALS = (
    "draining",
    "engine_dead",
    "grammars_busy",
    "queue_full",
    "queue_timeout",
    "starting",
    "unresponsive",
    "uploads_full",
)


class Histogram:
    """A histogram for Prometheus.

    `counts` has the observations per bucket, not cumulated, with one more bucket for +Inf. `total`
    is the sum of the observed values.
    """

    __slots__ = ("counts", "edges", "total")

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges = tuple(edges)
        self.counts = [0] * (len(self.edges) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.edges, value)] += times
        self.total += value * times


@dataclass(slots=True, eq=False)
class RequestRecord:
    """The times (seconds of the monotonic clock) and token counts of a request while it is served.

    A request with `generates` False, such as a tokenization, is counted but enters no statistics
    about generation. `prompt_tokens` is the sum over its `prompts`. `param` is the place of a
    client's mistake in the body, `adapter` the LoRA adapter that it names.
    """

    request_id: str
    arrival: float
    generates: bool = True
    granted: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    finished: float | None = None
    prompts: int = 1
    prompt_tokens: int = 0
    output_tokens: int = 0
    outcome: Outcome | None = None
    error: str | None = None
    param: str | None = None
    adapter: str | None = None

    @property
    def queue_wait(self) -> float | None:
        return None if self.granted is None else self.granted - self.arrival

    @property
    def ttft(self) -> float | None:
        return None if self.first_token is None else self.first_token - self.arrival

    @property
    def latency(self) -> float | None:
        return None if self.finished is None else self.finished - self.arrival


@dataclass(frozen=True, slots=True)
class Sample:
    """One answered request, finished at `at`.

    `ttft` is None if it produced no token. `prompt_tokens` is the mean of its prompts.
    """

    at: float
    latency: float
    ttft: float | None
    prompt_tokens: int
    output_tokens: int

    @property
    def decoding(self) -> float | None:
        """Tokens per second after the first token; None for fewer than two tokens."""
        if self.ttft is None or self.output_tokens < 2 or self.latency <= self.ttft:
            return None
        return (self.output_tokens - 1) / (self.latency - self.ttft)


def mean(values: Sequence[float]) -> float | None:
    """Returns the arithmetic mean, or None without values."""
    return math.fsum(values) / len(values) if values else None


def percentile(ordered: Sequence[float], percent: float) -> float | None:
    """Returns the nearest-rank percentile (numpy's `inverted_cdf`), or None without values.

    `ordered` must be in ascending order.
    """
    if not ordered:
        return None
    # Round first: 95 % of 20 is 19.000000000000004 in floating point.
    rank = math.ceil(round(percent / 100 * len(ordered), 9))
    return ordered[min(max(rank, 1), len(ordered)) - 1]


@dataclass(frozen=True, slots=True)
class Distribution:
    """Mean, percentiles and extremes of a set of values. All are None if the set is empty."""

    mean: float | None
    p50: float | None
    p95: float | None
    p99: float | None
    min: float | None
    max: float | None

    @classmethod
    def of(cls, values: Iterable[float]) -> Distribution:
        ordered = sorted(values)
        if not ordered:
            return cls(None, None, None, None, None, None)
        p50, p95, p99 = (percentile(ordered, percent) for percent in (50, 95, 99))
        return cls(mean(ordered), p50, p95, p99, ordered[0], ordered[-1])


@dataclass(frozen=True, slots=True)
class Summary:
    """The statistics of the window.

    `ttft` and `latency` are in seconds, the rates in tokens per second. `throughput` is the sum of
    the output tokens divided by the sum of the latencies. `prompt_tokens_p95` is that of a prompt.
    """

    ttft: Distribution
    latency: Distribution
    decoding: Distribution
    throughput: float | None
    prompt_tokens_p95: float | None
    sample_size: int

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Summary:
        seconds = math.fsum(sample.latency for sample in samples)
        return cls(
            ttft=Distribution.of(sample.ttft for sample in samples if sample.ttft is not None),
            latency=Distribution.of(sample.latency for sample in samples),
            decoding=Distribution.of(rate for sample in samples if (rate := sample.decoding) is not None),
            throughput=sum(sample.output_tokens for sample in samples) / seconds if seconds > 0 else None,
            prompt_tokens_p95=percentile(sorted(sample.prompt_tokens for sample in samples), 95),
            sample_size=len(samples),
        )


@dataclass(slots=True)
class AdapterCounters:
    """Counters of the requests to one adapter."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(slots=True)
class Counters:
    """Counters over the life of the process. They only grow.

    `adapters` has those of the adapters that were asked last, at most MOST_ADAPTERS.
    """

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    adapters: dict[str, AdapterCounters] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    input_tokens: int = 0
    output_tokens: int = 0
    latency_histogram: list[int] = field(default_factory=lambda: [0] * len(LATENCY_LABELS))


@dataclass(slots=True)
class _Recent:
    """How many requests ended and failed in the second that starts at `begins`."""

    begins: float
    ended: int = 0
    failed: int = 0


class RequestFigures:
    """Collects the statistics of requests. One event loop owns it.

    `total` counts every request that got a slot or a place in the queue, however it ended. It only
    grows. `in_progress` are those of them that have not ended.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples: deque[Sample] = deque(maxlen=WINDOW_REQUESTS)
        self._recent: deque[_Recent] = deque()  # the last minute
        self._summary: tuple[float, Summary] | None = None
        self.started = clock()
        self.in_progress = 0
        self.total = 0
        self.counters = Counters()
        self.ttft = Histogram(_SECONDS_BUCKETS)
        self.inter_token = Histogram(_TOKEN_BUCKETS)
        self.duration = Histogram(_SECONDS_BUCKETS)
        self.queue_wait = Histogram(_SECONDS_BUCKETS)

    @property
    def uptime(self) -> float:
        return self._clock() - self.started

    def accept(self) -> None:
        """Counts a request that got a slot or a place in the queue. One `finish` must follow."""
        self.in_progress += 1
        self.total += 1

    def gain(
        self, record: RequestRecord, tokens: int, now: float, *, choices: int = 1, first_at: float | None = None
    ) -> None:
        """Records `tokens` new tokens in `choices` choices.

        One call may carry many tokens, even the complete answer. The time since the previous call
        is then divided among them. `first_at` is when the very first token was made, if known.
        """
        if tokens <= 0:
            return
        record.output_tokens += tokens
        intervals = tokens
        if record.first_token is None:
            record.first_token = record.last_token = now if first_at is None else min(first_at, now)
            intervals -= choices
        if record.last_token is not None and intervals > 0:
            self.inter_token.observe((now - record.last_token) * choices / intervals, intervals)
        record.last_token = now

    def finish(self, record: RequestRecord, outcome: Outcome, error: str | None = None, *, judged: bool = True) -> None:
        """Records the end of an accepted request. `error` is the reason of a failure or refusal.

        A failure that says nothing about the health of the server is not `judged`: it is counted,
        but not among the recent errors.
        """
        self.in_progress -= 1
        now = self._clock()
        record.finished = now
        self._count(record, outcome, error)
        if record.queue_wait is not None:
            self.queue_wait.observe(record.queue_wait)
        if judged and outcome in ("successful", "failed"):
            if not self._recent or now - self._recent[-1].begins >= _RECENT_SECONDS:
                self._recent.append(_Recent(now))
            self._recent[-1].ended += 1
            self._recent[-1].failed += outcome == "failed"
        if outcome == "successful" and record.generates:
            self._succeed(record, now)

    def turn_away(self, record: RequestRecord, outcome: Literal["refused", "rejected"], reason: str) -> None:
        """Records a request that was not accepted.

        It was `refused` because of load or state, or `rejected` because of a client error, or
        because its client left.
        """
        self._count(record, outcome, reason)

    def summary(self) -> Summary:
        """Returns the statistics of the window. They are cached for half a second."""
        now = self._clock()
        if self._summary is None or not 0 <= now - self._summary[0] < 0.5:
            while self._samples and self._samples[0].at < now - WINDOW_SECONDS:
                self._samples.popleft()
            self._summary = (now, Summary.of(tuple(self._samples)))
        return self._summary[1]

    def recent_errors(self) -> tuple[int, int]:
        """Returns how many requests ended in the last minute, and how many of them failed.

        Both are without those that were not judged.
        """
        horizon = self._clock() - ERROR_WINDOW_SECONDS
        while self._recent and self._recent[0].begins < horizon:
            self._recent.popleft()
        return sum(some.ended for some in self._recent), sum(some.failed for some in self._recent)

    def _count(self, record: RequestRecord, outcome: Outcome, error: str | None) -> None:
        record.outcome = outcome
        record.error = error
        self.counters.outcomes[outcome] += 1
        if record.adapter is not None:
            self._of_adapter(record.adapter).outcomes[outcome] += 1
        if outcome == "failed":
            self.counters.errors[error or "internal"] += 1
        elif outcome == "refused":
            self.counters.refusals[error or "unknown"] += 1

    def _of_adapter(self, name: str) -> AdapterCounters:
        """The counters of an adapter. The one that was asked the longest time ago makes room."""
        adapters = self.counters.adapters
        counters = adapters[name] = adapters.pop(name) if name in adapters else AdapterCounters()
        while len(adapters) > MOST_ADAPTERS:
            del adapters[next(iter(adapters))]
        return counters

    def _succeed(self, record: RequestRecord, now: float) -> None:
        latency = now - record.arrival
        self._summary = None
        prompt_tokens = math.ceil(record.prompt_tokens / record.prompts)
        self._samples.append(Sample(now, latency, record.ttft, prompt_tokens, record.output_tokens))
        self.counters.input_tokens += record.prompt_tokens
        self.counters.output_tokens += record.output_tokens
        if record.adapter is not None:
            of_adapter = self._of_adapter(record.adapter)
            of_adapter.input_tokens += record.prompt_tokens
            of_adapter.output_tokens += record.output_tokens
        self.counters.latency_histogram[bisect_right(_LATENCY_EDGES, latency)] += 1
        self.duration.observe(latency)
        if record.ttft is not None:
            self.ttft.observe(record.ttft)

"""The engine's own `vllm:` metrics, with the times between tokens observed a step at a time."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from typing import Any

from vllm.v1.metrics.loggers import PrometheusStatLogger


class EngineMetrics(PrometheusStatLogger):
    """vLLM's logger. It takes a request's token after another's; in a step most of them took the same time."""

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        """Called once a step."""
        if iteration_stats is not None and iteration_stats.inter_token_latencies_iter:
            observe_all(self.histogram_inter_token_latency[engine_idx], iteration_stats.inter_token_latencies_iter)
            iteration_stats.inter_token_latencies_iter = []
        super().record(scheduler_stats, iteration_stats, mm_cache_stats, engine_idx)


def observe_all(histogram: Any, values: Iterable[float]) -> None:
    """`histogram.observe` of each value: prometheus_client has no way to observe one several times."""
    for value, times in Counter(values).items():
        histogram._sum.inc(value * times)  # noqa: SLF001
        histogram._buckets[bisect_left(histogram._upper_bounds, value)].inc(times)  # noqa: SLF001

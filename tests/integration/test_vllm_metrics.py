"""The engine's metrics with fewer operations per step: the same page as vLLM's own logger."""

# ruff: noqa: PLC0415 - vLLM takes seconds to import: only when these tests run

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from qwen_server.config.settings import Settings

pytestmark = pytest.mark.vllm

# What `only_decoded` checks, and what a decoding step may change: every new field must be listed.
SCHEDULER = {
    "looked at": {
        "prefix_cache_stats",
        "connector_prefix_cache_stats",
        "kv_cache_eviction_events",
        "spec_decoding_stats",
        "kv_connector_stats",
        "ec_connector_stats",
        "waiting_lora_adapters",
        "running_lora_adapters",
        "perf_stats",
    },
    "the queue": {"num_running_reqs", "num_waiting_reqs", "num_skipped_waiting_reqs", "num_kv_fetch_reqs_by_stage"},
    "a gauge that follows": {"kv_cache_usage"},
    "in no metric": {"step_counter", "current_wave", "iteration_details", "cudagraph_stats"},
}
ITERATION = {
    "looked at": {
        "prompt_token_stats",
        "num_preempted_reqs",
        "finished_requests",
        "max_num_generation_tokens_iter",
        "n_params_iter",
        "time_to_first_tokens_iter",
        "num_corrupted_reqs",
        "num_watermarked_reqs",
        "num_watermark_skipped_reqs",
        "num_not_watermarked_reqs",
    },
    "counted": {"num_generation_tokens", "inter_token_latencies_iter"},
    "in no metric": {"iteration_timestamp"},
}
# Since 0.33: a setting, read once a step.
NO_FIGURES = {"compute_nans_in_logits"}

STEPS = st.lists(
    st.fixed_dictionaries(
        {
            "tokens": st.integers(0, 64),
            "gaps": st.lists(st.sampled_from([0.001, 0.01, 0.05, 0.3, 900.0]), max_size=8),
            "running": st.integers(0, 64),
            "begins": st.booleans(),
            "ends": st.booleans(),
            "preempts": st.booleans(),
            "hits": st.integers(0, 3),
            "outputs": st.booleans(),
        }
    ),
    max_size=12,
)
DECODING: dict[str, Any] = {"tokens": 3, "gaps": [], "running": 3, "begins": False, "ends": False}
DECODING |= {"preempts": False, "hits": 0, "outputs": True}


@pytest.fixture(scope="module")
def config(vllm_without_side_effects: None) -> Any:
    from qwen_server.engine.vllm.build import engine_arguments, parsed

    return parsed([*engine_arguments(Settings(), "cpu"), "--enforce-eager"]).create_engine_config()


def stats_of(step: dict[str, Any]) -> tuple[Any, Any]:
    """The statistics of a step as the scheduler and the output processor create them."""
    from vllm.v1.engine import FinishReason
    from vllm.v1.metrics.stats import KV_FETCH_STAGES, FinishedRequestStats, IterationStats, SchedulerStats

    # The scheduler lists its stages in every step, even if nothing is fetched.
    stages = dict.fromkeys(KV_FETCH_STAGES, 0)
    scheduler = SchedulerStats(
        num_running_reqs=step["running"], kv_cache_usage=step["running"] / 64, num_kv_fetch_reqs_by_stage=stages
    )
    if not step["outputs"]:
        return scheduler, None
    iteration = IterationStats()
    iteration.num_generation_tokens = step["tokens"]
    iteration.inter_token_latencies_iter = list(step["gaps"])
    iteration.num_preempted_reqs = int(step["preempts"])
    if step["begins"]:
        iteration.prompt_token_stats.computed = iteration.prompt_token_stats.total = 40
        iteration.time_to_first_tokens_iter = [0.02]
        scheduler.prefix_cache_stats.record(40, step["hits"], preempted=False)
    if step["ends"]:
        iteration.finished_requests = [
            FinishedRequestStats(finish_reason=FinishReason.STOP, e2e_latency=1.5, num_generation_tokens=9)
        ]
    return scheduler, iteration


def page_of(logger_class: Any, config: Any, steps: list[dict[str, Any]]) -> dict[tuple[str, ...], float]:
    """Every sample of the engine's metrics after the steps."""
    from prometheus_client import REGISTRY

    logger = logger_class(config, [0])
    for step in steps:
        logger.record(*stats_of(step), None, 0)
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in REGISTRY.collect()
        if family.name.startswith("vllm:")
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


@hypothesis_settings(max_examples=60, deadline=None)
@given(STEPS)
def test_the_page_is_vllms(config: Any, steps: list[dict[str, Any]]) -> None:
    """The cache's gauge follows the last step that did more than decode, here without outputs."""
    from vllm.v1.metrics.loggers import PrometheusStatLogger

    from qwen_server.engine.vllm.patches.fast_metrics import EngineMetrics

    steps = [*steps, DECODING | {"outputs": False}]
    ours, theirs = page_of(EngineMetrics, config, steps), page_of(PrometheusStatLogger, config, steps)
    assert len(ours) > 100
    assert ours == pytest.approx(theirs)


def test_the_gauges_follow_in_time(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from qwen_server.engine.vllm.patches.fast_metrics import EngineMetrics

    now = 100.0
    monkeypatch.setattr("qwen_server.engine.vllm.patches.fast_metrics.time.monotonic", lambda: now)
    logger = EngineMetrics(config, [0])

    def gauges_after(running: int, usage: float) -> tuple[float, float]:
        scheduler, iteration = stats_of(DECODING | {"running": running})
        scheduler.kv_cache_usage = usage
        logger.record(scheduler, iteration, None, 0)
        gauges = (logger.gauge_scheduler_running[0], logger.gauge_kv_cache_usage[0])
        return gauges[0]._value.get(), gauges[1]._value.get()

    assert gauges_after(3, 0.1) == (3, 0.1)
    now += 0.09
    assert gauges_after(3, 0.2) == (3, 0.1)
    assert gauges_after(4, 0.3) == (4, 0.3)
    now += 0.09
    assert gauges_after(4, 0.4) == (4, 0.3)
    now += 0.02
    assert gauges_after(4, 0.5) == (4, 0.5)
    assert logger.counter_generation_tokens[0]._value.get() == 5 * DECODING["tokens"]


def test_other_loggers_see_what_ours_has_counted(config: Any) -> None:
    """vLLM passes one object to all loggers, also to those of plugins."""
    from qwen_server.engine.vllm.patches.fast_metrics import EngineMetrics

    logger = EngineMetrics(config, [0])
    for _ in range(2):  # the second step takes the short way
        scheduler, iteration = stats_of(DECODING | {"gaps": [0.01, 0.02]})
        latencies = list(iteration.inter_token_latencies_iter)
        assert latencies
        logger.record(scheduler, iteration, None, 0)
        assert iteration.inter_token_latencies_iter == latencies


def test_a_new_statistic_does_not_go_unseen() -> None:
    from vllm.v1.metrics.loggers import PrometheusStatLogger
    from vllm.v1.metrics.stats import IterationStats, SchedulerStats

    from qwen_server.engine.vllm.patches.fast_metrics import EngineMetrics

    assert {field.name for field in dataclasses.fields(SchedulerStats)} == set().union(*SCHEDULER.values())
    assert set(vars(IterationStats())) - NO_FIGURES == set().union(*ITERATION.values())
    assert inspect.signature(EngineMetrics.record).parameters.keys() == (
        inspect.signature(PrometheusStatLogger.record).parameters.keys()
    )


def test_observing_a_step_at_once_is_observing_each_token() -> None:
    from prometheus_client import CollectorRegistry, Histogram

    from qwen_server.engine.vllm.patches.fast_metrics import observe_all

    values = [0.005, 0.01, 0.010001, 0.01, 7.0, 0.005, 0.0, 1e9]
    pages = []
    for at_once in (True, False):
        registry = CollectorRegistry()
        histogram = Histogram("time", "-", ["engine"], buckets=(0.005, 0.01, 1.0), registry=registry).labels("0")
        if at_once:
            observe_all(histogram, values)
        else:
            for value in values:
                histogram.observe(value)
        pages.append({(s.name, s.labels.get("le")): s.value for m in registry.collect() for s in m.samples})
    assert pages[0].keys() == pages[1].keys()
    for key, value in pages[0].items():
        if not key[0].endswith("_created"):
            assert value == pytest.approx(pages[1][key]), key


def test_the_page_has_what_the_dashboards_ask_for(config: Any) -> None:
    from charts.dashboards import queries
    from vllm.v1.metrics.loggers import PrometheusStatLogger

    asked = {name for query in queries("default", "news") for name in re.findall(r"vllm:\w+", query.expression)}
    assert asked
    assert asked <= {name for name, *_ in page_of(PrometheusStatLogger, config, [DECODING | {"outputs": False}])}

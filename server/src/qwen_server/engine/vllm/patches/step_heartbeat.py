"""Records each step of the engine's scheduler with a statistics logger.

vLLM calls its loggers at every step, but does not promise that the statistics are stable. Without
this patch, an answered ping counts as a step, because the engine core answers between two steps.
The server then does not know whether the steps produce tokens or how full the KV cache is, so
GenerationStalled and KVCacheSaturated cannot fire.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from vllm.v1.metrics.loggers import StatLoggerBase
from vllm.v1.metrics.stats import IterationStats, SchedulerStats

from qwen_server.config.patches import Patch, absent, changed_parameters
from qwen_server.engine.vllm.heartbeat import Heartbeat


def _missing() -> Iterator[str]:
    expected = ("self", "scheduler_stats", "iteration_stats", "mm_cache_stats", "engine_idx")
    yield from changed_parameters(StatLoggerBase.record, *expected)
    yield from absent(SchedulerStats, "kv_cache_usage", "num_running_reqs", "num_waiting_reqs")
    yield from absent(SchedulerStats, "num_skipped_waiting_reqs")
    yield from absent(IterationStats, "num_generation_tokens", "num_prompt_tokens")


STEP_HEARTBEAT: Final = Patch(
    name="step-heartbeat",
    gains="the detection of stalls and of a full KV cache",
    relies_on="the fields of vLLM's SchedulerStats and IterationStats",
    missing=_missing,
)


def stat_logger(heartbeat: Heartbeat) -> Callable[..., StatLoggerBase]:
    """A factory for a logger that records each step of the scheduler in `heartbeat`."""

    class HeartbeatLogger(StatLoggerBase):
        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            """Needs no configuration."""

        def record(
            self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
        ) -> None:
            """Records one step, even if it produced no output."""
            if scheduler_stats is None:
                return
            tokens = 0
            if iteration_stats is not None:
                tokens = iteration_stats.num_generation_tokens + iteration_stats.num_prompt_tokens
            heartbeat.on_step(
                time.monotonic(),
                tokens=tokens,
                kv_cache_usage=scheduler_stats.kv_cache_usage,
                compiling=_all_blocked(scheduler_stats),
            )

        def log_engine_initialized(self) -> None:
            """Logs nothing."""

    return HeartbeatLogger


def _all_blocked(stats: SchedulerStats) -> bool:
    """Whether all requests wait for something that is not the model: their grammars."""
    blocked: int = stats.num_skipped_waiting_reqs
    return blocked > 0 and stats.num_running_reqs == 0 and stats.num_waiting_reqs == 0

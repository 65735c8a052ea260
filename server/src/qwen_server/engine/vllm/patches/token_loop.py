"""Handles the plain tokens of a step in one short loop.

vLLM takes each token through six methods, because any output may carry log probabilities, a stop
string or another extra. Most tokens of a tapped stream carry nothing. Every other output, and the
first and last one of each request, takes vLLM's own loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from vllm.v1.engine import EngineCoreOutput
from vllm.v1.engine.detokenizer import FastIncrementalDetokenizer
from vllm.v1.engine.output_processor import OutputProcessor, RequestState
from vllm.v1.metrics.stats import IterationStats, RequestStateStats

from qwen_server.config.patches import Patch, absent, changed_parameters
from qwen_server.engine.vllm.patches.output_tap import TappedState, TappingProcessor

# What an output may carry besides tokens. A release with another field needs another look.
_EXTRAS: Final = (
    "new_logprobs",
    "new_prompt_logprobs_tensors",
    "pooling_output",
    "finish_reason",
    "stop_reason",
    "events",
    "kv_transfer_params",
    "ec_transfer_params",
    "trace_headers",
    "prefill_stats",
    "routed_experts",
    "num_nans_in_logits",
    "mm_cache_miss_hashes",
    "new_sampling_mask",
    "spec_decode_metrics",
    "prompt_token_id_logprobs",
    "error",  # of 0.33; it comes with a finish
)
_DETOKENIZER: Final = ("_last_output_text_offset", "decode_next", "output_text", "stop", "token_ids")


def _missing() -> Iterator[str]:
    for name in EngineCoreOutput.__struct_fields__:
        if name not in ("request_id", "new_token_ids", *_EXTRAS):
            yield f"an EngineCoreOutput without {name}"
    parameters = ("engine_core_outputs", "engine_core_timestamp", "iteration_stats", "weight_version")
    yield from changed_parameters(OutputProcessor.process_outputs, "self", *parameters)
    yield from absent(RequestState, "is_prefilling", "stats", "streaming_input", "track_weight_version")
    yield from absent(RequestState, "weight_version_starts")
    yield from absent(FastIncrementalDetokenizer, *_DETOKENIZER)
    yield from absent(IterationStats, "inter_token_latencies_iter", "num_generation_tokens")
    yield from absent(RequestStateStats, "last_token_ts", "num_generation_tokens")


TOKEN_LOOP: Final = Patch(
    name="token-loop",
    gains="about a tenth of the frontend's CPU time for a streamed token (docs/decisions/0014)",
    relies_on="vLLM's OutputProcessor does nothing else for an output that carries only tokens",
    missing=_missing,
)


class PlainState(TappedState):
    """The state of a tapped request with statistics, whose text needs no check for stop strings."""

    stats: RequestStateStats
    detokenizer: FastIncrementalDetokenizer

    def accepts(self) -> bool:
        """Whether the tap accepts the next text, which is never the first."""
        return not self.is_prefilling and self._takes()

    def gain(self, token_ids: list[int], at: float, weight_version: str | None) -> None:
        """Does what vLLM does for `token_ids`, made at the engine's time `at`."""
        stats, detokenizer = self.stats, self.detokenizer
        stats.num_generation_tokens += len(token_ids)
        stats.last_token_ts = at
        if token_ids and weight_version is not None:
            starts = self.weight_version_starts
            if not starts or starts[-1][0] != weight_version:
                self.track_weight_version(weight_version)
        for token_id in token_ids:
            detokenizer.token_ids.append(token_id)
            detokenizer.output_text += detokenizer.decode_next(token_id)
        text = detokenizer.output_text[detokenizer._last_output_text_offset :]  # noqa: SLF001
        detokenizer._last_output_text_offset = len(detokenizer.output_text)  # noqa: SLF001
        self._offer(text, len(token_ids))


class LoopingProcessor(TappingProcessor):
    """The tapping processor with a short loop for plain tokens."""

    def add_request(self, request: Any, prompt: str | None, parent_req: Any = None, *rest: Any, **options: Any) -> None:
        """vLLM's method, which creates the request's state."""
        super().add_request(request, prompt, parent_req, *rest, **options)
        state: Any = self.request_states.get(request.request_id)
        if type(state) is TappedState and _is_simple(state):
            state.__class__ = PlainState

    def process_outputs(
        self,
        engine_core_outputs: list[EngineCoreOutput],
        engine_core_timestamp: float | None = None,
        iteration_stats: IterationStats | None = None,
        weight_version: str | None = None,
    ) -> Any:
        """vLLM's method, which handles one step."""
        left = engine_core_outputs
        if engine_core_timestamp is not None and iteration_stats is not None:
            left = []
            states, latencies = self.request_states, iteration_stats.inter_token_latencies_iter
            tokens = 0
            for output in engine_core_outputs:
                state = states.get(output.request_id)
                if type(state) is not PlainState or not state.accepts() or not _carries_only_tokens(output):
                    left.append(output)
                    continue
                tokens += len(output.new_token_ids)
                latencies.append(engine_core_timestamp - state.stats.last_token_ts)
                state.gain(output.new_token_ids, engine_core_timestamp, weight_version)
            iteration_stats.num_generation_tokens += tokens
        return super().process_outputs(left, engine_core_timestamp, iteration_stats, weight_version)


def loop_tokens(processor: TappingProcessor) -> None:
    """Turns a TappingProcessor into a LoopingProcessor."""
    changing: Any = processor
    changing.__class__ = LoopingProcessor


def _is_simple(state: TappedState) -> bool:
    detokenizer = state.detokenizer
    return (
        type(detokenizer) is FastIncrementalDetokenizer
        and not detokenizer.stop
        and state.stats is not None
        and not state.streaming_input
    )


def _carries_only_tokens(output: EngineCoreOutput) -> bool:
    """Whether an output has none of `_EXTRAS`.

    `trace_headers`, `stop_reason` and `error` need a finish.
    """
    return (
        output.finish_reason is None
        and output.events is None
        and output.prefill_stats is None
        and output.new_logprobs is None
        and output.new_prompt_logprobs_tensors is None
        and output.prompt_token_id_logprobs is None
        and output.pooling_output is None
        and output.routed_experts is None
        and output.new_sampling_mask is None
        and output.spec_decode_metrics is None
        and output.mm_cache_miss_hashes is None
        and output.kv_transfer_params is None
        and output.ec_transfer_params is None
        and not output.num_nans_in_logits
    )

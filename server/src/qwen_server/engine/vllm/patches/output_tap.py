"""Gains handed on inside of vLLM's output handler, before it makes a RequestOutput and wakes the request's task.

The only place that reaches into AsyncLLM's output processing; tests/integration/test_vllm_contract.py names what it
needs. All that is no plain gain (the first output, the end, errors, several choices) goes vLLM's own way.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any, Final, cast

from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.detokenizer import IncrementalDetokenizer
from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector, RequestState

from qwen_server.config.patches import Patch, absent, changed_parameters
from qwen_server.engine.base import Tap


def _missing() -> Iterator[str]:
    yield from changed_parameters(
        RequestState.make_request_output, "self", "new_token_ids", "pooling_output", "finish_reason"
    )
    yield from absent(RequestState, "detokenizer", "output_kind", "parent_req", "queue", "stream_interval")
    yield from absent(RequestOutputCollector, "output", "put")
    yield from changed_parameters(IncrementalDetokenizer.get_next_output_text, "self", "finished", "delta")
    yield from changed_parameters(OutputProcessor.add_request, "self", "request", "prompt", "parent_req")
    yield from absent(OutputProcessor, "request_states")
    yield from absent(AsyncLLM, "output_processor")
    yield from absent(EngineCoreRequest, "external_req_id")


OUTPUT_TAP: Final = Patch(
    name="output-tap",
    gains="about half of the frontend's CPU time for a streamed token (docs/decisions/0006)",
    relies_on="vLLM's OutputProcessor makes a RequestState, whose make_request_output is called for each gain",
    missing=_missing,
)


class TappedState(RequestState):
    """A request's state whose plain gains a tap may take."""

    tap: Tap

    def make_request_output(
        self, new_token_ids: list[int], pooling_output: Any, finish_reason: Any, *rest: Any, **options: Any
    ) -> Any:
        """vLLM's; None means that there is nothing to put into the request's queue."""
        queue = self.queue
        if finish_reason is None and queue.output is None and self.tap.ready():
            try:
                self.tap.take(self.detokenizer.get_next_output_text(False, True), len(new_token_ids))
            except Exception as error:  # noqa: BLE001 - a fault of one request must not end the handler of all
                queue.put(error)
            return None
        return super().make_request_output(new_token_ids, pooling_output, finish_reason, *rest, **options)


class TappingProcessor(OutputProcessor):
    """vLLM's output processor with taps: those that wait for their request, by the id that `generate` is given."""

    taps: dict[str, Tap]

    def add_request(self, request: Any, prompt: str | None, parent_req: Any = None, *rest: Any, **options: Any) -> None:
        """vLLM's, which makes the request's state."""
        super().add_request(request, prompt, parent_req, *rest, **options)
        tap = self.taps.pop(request.external_req_id, None)
        if tap is None:
            return
        state: Any = self.request_states[request.request_id]
        if _is_plain(state):
            state.__class__ = TappedState
            state.tap = tap


def _is_plain(state: RequestState) -> bool:
    return (
        type(state) is RequestState
        and state.parent_req is None
        and state.queue is not None
        and state.output_kind == RequestOutputKind.DELTA
        and state.stream_interval == 1
    )


def install(llm: AsyncLLM) -> TappingProcessor:
    """Gives the engine's output processor its taps."""
    processor: Any = llm.output_processor
    processor.__class__ = TappingProcessor
    processor.taps = {}
    return cast("TappingProcessor", processor)


async def tapped(
    source: AsyncGenerator[RequestOutput, None], processor: TappingProcessor, request_id: str, tap: Tap
) -> AsyncGenerator[RequestOutput, None]:
    """What `source`, AsyncLLM's generate, brings past the tap."""
    processor.taps[request_id] = tap
    try:
        async with aclosing(source):
            async for output in source:
                yield output
    finally:
        processor.taps.pop(request_id, None)

"""Passes new text to the client inside of vLLM's output handler.

This happens before vLLM creates a RequestOutput and wakes the request's task. Only plain new text
takes this path. The first and last output, errors and requests with several choices take vLLM's own
path.
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
    relies_on="vLLM's OutputProcessor creates a RequestState and calls its make_request_output for each output",
    missing=_missing,
)


class TappedState(RequestState):
    """The state of a request whose plain new text a tap may accept."""

    tap: Tap

    def _takes(self) -> bool:
        """Whether the tap accepts the next text. Not while the queue holds older text."""
        return self.queue.output is None and self.tap.ready()

    def _offer(self, text: str, tokens: int) -> None:
        """Gives new text to the tap. Its error becomes the request's."""
        try:
            self.tap.take(text, tokens)
        except Exception as error:  # noqa: BLE001 - one request's error must not stop the handler of all
            self.queue.put(error)

    def make_request_output(
        self, new_token_ids: list[int], pooling_output: Any, finish_reason: Any, *rest: Any, **options: Any
    ) -> Any:
        """vLLM's method. None means that nothing goes into the request's queue."""
        if finish_reason is None and self._takes():
            self._offer(self.detokenizer.get_next_output_text(False, True), len(new_token_ids))
            return None
        return super().make_request_output(new_token_ids, pooling_output, finish_reason, *rest, **options)


class TappingProcessor(OutputProcessor):
    """vLLM's output processor with taps.

    taps: the taps whose requests are not registered yet, by the request ID given to `generate`.
    """

    taps: dict[str, Tap]

    def add_request(self, request: Any, prompt: str | None, parent_req: Any = None, *rest: Any, **options: Any) -> None:
        """vLLM's method, which creates the request's state. Adds the tap to the state."""
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
    """Turns the engine's output processor into a TappingProcessor."""
    processor: Any = llm.output_processor
    processor.__class__ = TappingProcessor
    processor.taps = {}
    return cast("TappingProcessor", processor)


async def tapped(
    source: AsyncGenerator[RequestOutput, None], processor: TappingProcessor, request_id: str, tap: Tap
) -> AsyncGenerator[RequestOutput, None]:
    """Yields the outputs of `source`, AsyncLLM's generate, that the tap does not accept."""
    processor.taps[request_id] = tap
    try:
        async with aclosing(source):
            async for output in source:
                yield output
    finally:
        processor.taps.pop(request_id, None)

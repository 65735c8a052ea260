"""A thin wrapper around AsyncLLM.

It sets each request's arrival time to its HTTP arrival and passes every output to an observer.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

from vllm.outputs import PoolingRequestOutput, RequestOutput
from vllm.v1.engine.async_llm import AsyncLLM

from qwen_server.config.patches import Patches
from qwen_server.engine.base import BusyError, InvalidRequestError, Observer, Output, Tap, Turn
from qwen_server.engine.vllm.grammars.params import Grammars
from qwen_server.engine.vllm.heartbeat import Heartbeat
from qwen_server.engine.vllm.outputs import Merger
from qwen_server.engine.vllm.patches import replay
from qwen_server.engine.vllm.patches.output_tap import OUTPUT_TAP, install, tapped
from qwen_server.engine.vllm.patches.token_loop import TOKEN_LOOP, loop_tokens
from qwen_server.engine.vllm.prompt_streams import PromptStreams
from qwen_server.engine.vllm.shared_turns import SharedTurns
from qwen_server.observe.tracing import current_headers

MAX_PROMPT_LOGPROBS: Final = 1 << 15
# A text to pool is one pass through the model, which takes many of them together.
TEXTS_PER_TURN: Final = 16


@dataclass(slots=True)
class ObservedRequest:
    """One HTTP request that vLLM's serving code answers. It may have several prompts.

    turn: what each prompt waits for before the engine gets it.
    shared: the same for texts to pool, of which several share a turn.
    streams: the engine's streams, one per prompt.
    error: the original error. vLLM's serving code reports it with a different text.
    """

    arrival: float
    observe: Observer
    turn: Turn
    merger: Merger = field(default_factory=lambda: Merger(0))
    streams: PromptStreams = field(default_factory=PromptStreams)
    error: Exception | None = None
    prompt_logprobs: int = 0
    shared: SharedTurns = field(init=False)

    def __post_init__(self) -> None:
        self.shared = SharedTurns(self.turn, TEXTS_PER_TURN)

    def charge_prompt_logprobs(self, prompt: Any, params: Any) -> None:
        """Raises InvalidRequestError if all prompts together ask for too many log probabilities.

        vLLM makes an object of each at once, in the event loop.
        """
        asked = getattr(params, "prompt_logprobs", None)
        if asked is None:
            return
        self.prompt_logprobs += (asked + 1) * len(prompt["prompt_token_ids"])
        if self.prompt_logprobs > MAX_PROMPT_LOGPROBS:
            self.error = InvalidRequestError(
                f"the log probabilities of the prompt are more than {MAX_PROMPT_LOGPROBS} values "
                f"({asked} alternatives and the token itself, for each token of each prompt)",
                param="prompt_logprobs",
            )
            raise self.error


current_request: ContextVar[ObservedRequest | None] = ContextVar("current_request", default=None)


class EngineProxy:
    """AsyncLLM with an observed `generate`. vLLM's serving objects use it as the engine."""

    def __init__(self, llm: AsyncLLM, heartbeat: Heartbeat, patches: Patches, grammars: Grammars) -> None:
        self._llm = llm
        self._grammars = grammars
        self._generate: Callable[..., AsyncGenerator[RequestOutput, None]] = llm.generate
        self._encode: Callable[..., AsyncGenerator[PoolingRequestOutput[Any], None]] = llm.encode
        self._processor = install(llm) if patches.use(OUTPUT_TAP) else None
        if patches.use(TOKEN_LOOP) and self._processor is not None:
            loop_tokens(self._processor)
        self.keeps_states = patches.use(replay.REPLAY)
        if self.keeps_states:
            replay.install(llm)
        self._heartbeat = heartbeat
        self._traced = llm.observability_config.otlp_traces_endpoint is not None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    def generate(
        self, prompt: Any, sampling_params: Any, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        """AsyncLLM's generate. vLLM's latencies start at the HTTP arrival and include the queue."""
        observed = current_request.get()
        if observed is not None:
            observed.charge_prompt_logprobs(prompt, sampling_params)
        constrained = getattr(sampling_params, "structured_outputs", None) is not None
        if observed is not None:
            date(prompt, observed.arrival)
        if constrained:
            outputs = self._generate_checked(prompt, sampling_params, request_id, options)
        else:
            self._begin(options)
            outputs = self._generate(prompt, sampling_params, request_id, **options)
        if observed is None:
            return outputs
        index = observed.merger.add_prompt(getattr(sampling_params, "n", 1) or 1, constrained=constrained)
        stream = _observed(outputs, observed, index)
        observed.streams.add(stream)
        return stream

    async def _generate_checked(
        self, prompt: Any, params: Any, request_id: str, options: dict[str, Any]
    ) -> AsyncGenerator[RequestOutput, None]:
        """Generates with a grammar that is checked, which it nearly always is already."""
        params.structured_outputs = await self._grammars.checked(params.structured_outputs)
        self._begin(options)
        async with aclosing(self._generate(prompt, params, request_id, **options)) as outputs:
            async for output in outputs:
                yield output

    def follow(
        self, seam: replay.Seam, request_id: str, options: dict[str, Any], tap: Tap | None
    ) -> AsyncGenerator[RequestOutput, None]:
        """`generate` for the fast path: prompts have an arrival time, a tap may take new text.

        The `options` are those of `AsyncLLM.generate`, such as `lora_request`.
        """
        self._begin(options)
        if self.keeps_states:
            replay.expect(self._llm, request_id, seam)
        outputs = self._generate(seam.inputs, seam.sampling, request_id, **options)
        if tap is None or self._processor is None:
            return outputs
        return tapped(outputs, self._processor, request_id, tap)

    def unfollow(self, request_id: str) -> None:
        """The stream that `follow` returned has ended, or never began."""
        if self.keeps_states:
            replay.forget(self._llm, request_id)

    def encode(
        self, prompt: Any, pooling_params: Any, request_id: str, **options: Any
    ) -> AsyncGenerator[PoolingRequestOutput[Any], None]:
        """AsyncLLM's encode: one output for one text."""
        observed = current_request.get()
        if observed is not None:
            date(prompt, observed.arrival)
        index = 0 if observed is None else len(observed.streams)
        stream = self._pooled(prompt, pooling_params, request_id, options, observed=observed, index=index)
        if observed is not None:
            observed.streams.add(stream)
        return stream

    async def _pooled(
        self,
        prompt: Any,
        params: Any,
        request_id: str,
        options: dict[str, Any],
        *,
        observed: ObservedRequest | None,
        index: int,
    ) -> AsyncGenerator[PoolingRequestOutput[Any], None]:
        if observed is not None:
            observed.streams.read(index)
        async with nullcontext() if observed is None else observed.shared.next():
            self._begin(options)
            async with aclosing(self._encode(prompt, params, request_id, **options)) as outputs:
                async for output in outputs:
                    self._heartbeat.on_result(time.monotonic())
                    if observed is not None:
                        observed.observe(Output((), output.finished, prompt_tokens=len(output.prompt_token_ids)))
                    yield output
                    if observed is not None:
                        observed.streams.read(index)

    def _begin(self, options: dict[str, Any]) -> None:
        self._heartbeat.on_request(time.monotonic(), self._llm.get_num_unfinished_requests())
        if self._traced:
            options["trace_headers"] = current_headers()
        # Without reasoning, a grammar applies from the first token. With a parser of reasoning, the
        # engine core finds out from the prompt, unless vLLM's serving code has already.
        if options.get("reasoning_parser_kwargs") is None:
            options.setdefault("reasoning_ended", True)


def date(prompt: Any, arrival: float) -> None:
    """Sets the arrival time of a rendered prompt.

    `arrival` is in monotonic seconds. vLLM uses wall-clock time.
    """
    prompt["arrival_time"] = time.time() - (time.monotonic() - arrival)


async def _observed(
    source: AsyncGenerator[RequestOutput, None], observed: ObservedRequest, index: int
) -> AsyncGenerator[RequestOutput, None]:
    observed.streams.read(index)
    async with observed.turn(), aclosing(source):
        try:
            async for output in source:
                observed.observe(observed.merger.convert(index, output))
                for choice in output.outputs:
                    if choice.finish_reason == "repetition":  # OpenAI's API does not know it
                        choice.finish_reason = "stop"
                yield output
                observed.streams.read(index)
        except (BusyError, InvalidRequestError) as error:
            observed.error = error
            raise

"""Lets the answers of a dead engine go on in the next one.

The engine that died has left the state of each request in this process: its tokens, its text, and
the decoder between them. The next engine gets the prompt and the tokens as its prompt, and its
state takes over the decoder. So a character or a stop string may begin before the interruption and
end after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from typing import Any, Final

from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.detokenizer import IncrementalDetokenizer
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector, RequestState
from vllm.v1.metrics.stats import RequestStateStats

from qwen_server.config.patches import Patch, absent, changed_parameters
from qwen_server.engine.replays import Continued, Interrupted, plan, require_innocence, restarted


def _missing() -> Iterator[str]:
    yield from changed_parameters(OutputProcessor.add_request, "self", "request", "prompt", "parent_req")
    yield from changed_parameters(OutputProcessor.propagate_error, "self", "e")
    yield from absent(OutputProcessor, "request_states")
    yield from absent(RequestState, "detokenizer", "queue", "stats")
    yield from absent(RequestStateStats, "first_token_ts")
    yield from absent(RequestOutputCollector, "output", "put")
    yield from absent(IncrementalDetokenizer, "output_token_ids")
    yield from absent(AsyncLLM, "output_processor")
    yield from absent(EngineCoreRequest, "external_req_id")


REPLAY: Final = Patch(
    name="replay",
    gains="answers that go on after a restart of the engine (docs/decisions/0018)",
    relies_on="vLLM's OutputProcessor keeps a RequestState with a detokenizer for each request",
    missing=_missing,
)


class ReplayingProcessor(OutputProcessor):
    """The class that `install` adds to the output processor's own class.

    seams: those whose requests are not registered yet, by the request ID given to `generate`.
    """

    seams: dict[str, Seam]

    def add_request(self, request: Any, prompt: str | None, parent_req: Any = None, *rest: Any, **options: Any) -> None:
        """vLLM's method, which creates the request's state."""
        super().add_request(request, prompt, parent_req, *rest, **options)
        seam = self.seams.pop(request.external_req_id, None)
        if seam is not None:
            seam.join(self.request_states[request.request_id])

    def propagate_error(self, e: Exception) -> None:
        """vLLM's method, which replaces an output that nobody has read yet by the error."""
        for state in self.request_states.values():
            unread = None if state.queue is None else state.queue.output
            if isinstance(unread, RequestOutput):
                state.unread = unread
        super().propagate_error(e)


def install(llm: AsyncLLM) -> None:
    """Makes the engine's output processor keep what a seam needs. The last of its patches."""
    processor: Any = llm.output_processor
    own = type(processor)
    processor.__class__ = type(f"Replaying{own.__name__}", (ReplayingProcessor, own), {})
    processor.seams = {}


def fail_all(llm: AsyncLLM) -> None:
    """Fails the requests of an engine that is dead. vLLM does not if it was told to shut down."""
    llm.output_processor.propagate_error(EngineDeadError())


def expect(llm: AsyncLLM, request_id: str, seam: Seam) -> None:
    """The sequence's request comes next. `forget` must follow."""
    processor: Any = llm.output_processor
    processor.seams[request_id] = seam


def forget(llm: AsyncLLM, request_id: str) -> None:
    """The request has ended, or never came."""
    processor: Any = llm.output_processor
    processor.seams.pop(request_id, None)


class Seam:
    """One sequence over all engines that generate it.

    prompt, params: vLLM's for the whole sequence. The engine gets `inputs` and `sampling`.
    """

    def __init__(self, prompt: Mapping[str, Any], params: SamplingParams) -> None:
        self._prompt = prompt
        self._params = params
        self._state: RequestState | None = None
        self._before: RequestState | None = None
        self._first_token_at = 0.0
        self._deaths = 0
        self.inputs: Any = prompt
        self.sampling = params

    def join(self, state: RequestState) -> None:
        """The next engine has registered the sequence."""
        if self._before is not None:
            state.detokenizer = self._before.detokenizer
        self._state = state

    def whole(self, result: RequestOutput) -> RequestOutput:
        """The output as if one engine had made the sequence: with its prompt and its first time."""
        if self._before is not None:
            result.prompt_token_ids = self._prompt["prompt_token_ids"]
        if self._first_token_at and result.metrics is not None:
            result.metrics.first_token_ts = self._first_token_at
        return result

    def unread(self) -> RequestOutput | None:
        """The output that came before the engine died and that nobody has read."""
        return None if self._state is None else self._state.__dict__.pop("unread", None)

    def cut(self, *, begun: bool, known: bool) -> None:
        """The engine has died: prepares for the next one. Raises EngineRestartedError.

        begun: whether there was an output. known: whether states are kept (see `install`).
        """
        state = self._state or self._before
        if self._state is not None or not known:
            self._deaths += 1
            require_innocence(self._deaths)
        if _had_by_the_engine(self._prompt):
            raise restarted("it has an image that was sent before, which only the engine had that died")
        self._state = None
        made = [] if state is None or state.detokenizer is None else list(state.detokenizer.output_token_ids)
        decided = plan(_interrupted(self._params, max(len(made), int(begun and not known)), known=known))
        if isinstance(decided, Continued):
            self._before = state
            if not self._first_token_at and state is not None and state.stats is not None:
                self._first_token_at = state.stats.first_token_ts
            self.inputs = {**self._prompt, "prompt_token_ids": [*self._prompt["prompt_token_ids"], *made]}
            self.sampling = copy(self._params)
            self.sampling.max_tokens, self.sampling.min_tokens = decided.max_tokens, decided.min_tokens
        else:
            self._before, self._first_token_at = None, 0.0
            self.inputs, self.sampling = self._prompt, self._params


def _had_by_the_engine(prompt: Mapping[str, Any]) -> bool:
    """Whether a part of a prompt is only in the engine's cache: an image that it had got before."""
    parts: Mapping[str, Any] = prompt.get("mm_kwargs") or {}
    return any(part is None for kind in parts.values() for part in kind)


def _interrupted(params: SamplingParams, made: int, *, known: bool) -> Interrupted:
    return Interrupted(
        made=made,
        streamed=params.output_kind != RequestOutputKind.FINAL_ONLY,
        max_tokens=params.max_tokens or 0,
        min_tokens=params.min_tokens,
        known=known,
        samples=params.temperature > 0,
        seeded=params.seed is not None,
        grammar=params.structured_outputs is not None,
        penalties=bool(params.presence_penalty or params.frequency_penalty),
        bad_words=bool(params.bad_words),
        repetition_detection=getattr(params, "repetition_detection", None) is not None,
        logprobs=params.logprobs is not None or params.prompt_logprobs is not None,
    )

"""Text completions over vLLM's own serving code."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from copy import copy
from typing import Any

from pydantic import BaseModel, PrivateAttr
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.sampling_params import SamplingParams

# Quotes inside of a text are escaped, so that this matches only the field.
_CACHED = re.compile(r'("prompt_tokens_details":\{"cached_tokens":)\d+')


class _Remembering(BaseModel):
    """A request that keeps the sampling parameters it has made, by their `max_tokens`."""

    _made: dict[int, SamplingParams] = PrivateAttr(default_factory=dict)


class CompletionOfPrompts(_Remembering, CompletionRequest):
    """vLLM's request. Its prompts share what is expensive in the sampling parameters.

    vLLM makes them for each prompt at once, in the event loop, and 1,024 biases take a millisecond.
    """

    def to_sampling_params(self, max_tokens: int, default_sampling_params: dict[str, Any]) -> SamplingParams:
        """The parameters of one prompt. vLLM itself copies them in the same way for its choices."""
        if max_tokens not in self._made:
            self._made[max_tokens] = super().to_sampling_params(max_tokens, default_sampling_params)
        return copy(self._made[max_tokens])


class Completion(OpenAIServingCompletion):
    """vLLM's serving object. It counts the cached tokens of all prompts, not only of one.

    A prompt that is only echoed has no token after it. To compute the prompt's log probabilities,
    the engine generates a token. vLLM leaves its text out, but counts it and gives its reason to
    stop.
    """

    def completion_stream_generator(
        self, request: CompletionRequest, engine_inputs: Any, result_generator: Any, *arguments: Any, **options: Any
    ) -> AsyncGenerator[str, None]:
        """The events of a stream."""
        if request.max_tokens == 0:
            result_generator = _prompts_only(result_generator)
        cached: dict[int, int] = {}
        events: AsyncGenerator[str, None] = super().completion_stream_generator(
            request, engine_inputs, _noting_cached(result_generator, cached), *arguments, **options
        )
        return _with_all_cached(events, cached) if self.enable_prompt_tokens_details else events

    def request_output_to_completion_response(
        self, final_res_batch: Any, request: CompletionRequest, *arguments: Any, **options: Any
    ) -> Any:
        """An answer that is not streamed."""
        if request.max_tokens == 0:
            for result in final_res_batch:
                _leave_the_prompt(result)
        response = super().request_output_to_completion_response(final_res_batch, request, *arguments, **options)
        if response.usage.prompt_tokens_details is not None:
            cached = sum(result.num_cached_tokens or 0 for result in final_res_batch)
            response.usage.prompt_tokens_details.cached_tokens = cached
        return response


async def _noting_cached(
    source: AsyncGenerator[tuple[int, Any], None], cached: dict[int, int]
) -> AsyncGenerator[tuple[int, Any], None]:
    """Notes how many tokens of each prompt were in the cache."""
    async with aclosing(source):
        async for index, result in source:
            cached.setdefault(index, result.num_cached_tokens or 0)
            yield index, result


async def _with_all_cached(source: AsyncGenerator[str, None], cached: dict[int, int]) -> AsyncGenerator[str, None]:
    """The events of a stream with the cached tokens of all prompts in its usage."""
    async with aclosing(source):
        async for event in source:
            yield _CACHED.sub(lambda found: f"{found[1]}{sum(cached.values())}", event, count=1)


async def _prompts_only(source: AsyncGenerator[tuple[int, Any], None]) -> AsyncGenerator[tuple[int, Any], None]:
    async with aclosing(source):
        async for index, result in source:
            _leave_the_prompt(result)
            yield index, result


def _leave_the_prompt(result: Any) -> None:
    for output in result.outputs:
        output.text, output.token_ids = "", []
        output.finish_reason, output.stop_reason = "length", None

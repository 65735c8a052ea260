"""Converts vLLM's RequestOutputs to plain values and merges the prompts of a request."""

from __future__ import annotations

from typing import Any

from qwen_server.engine.base import Delta, EngineError, FinishReason, InvalidRequestError, Output

_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length", "repetition": "stop"}


class Merger:
    """Numbers the choices of a request's prompts and tracks when all are finished."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._open: set[int] = set()
        self._unreported: set[int] = set()
        self._constrained: set[int] = set()
        self._prompts = 0
        self._first_token_at: float | None = None

    def add_prompt(self, n: int, *, constrained: bool = False) -> int:
        """Registers the next prompt with `n` choices and returns its index.

        constrained: the answer follows a grammar.
        """
        index = self._prompts
        self._n = n
        self._prompts += 1
        self._open.add(index)
        self._unreported.add(index)
        if constrained:
            self._constrained.add(index)
        return index

    def convert(self, index: int, result: Any) -> Output:
        """Converts an output of the prompt `index`.

        Raises:
            EngineError: the engine aborted a choice.
            InvalidRequestError: no token fits the grammar any more, or it does not compile. Only
                the engine can find this out, and it is not the engine's failure.
        """
        if index in self._constrained and any(choice.finish_reason == "error" for choice in result.outputs):
            raise InvalidRequestError("the grammar of the answer cannot be followed", param="response_format")
        if result.finished:
            self._open.discard(index)
        metrics = result.metrics
        if metrics is not None and metrics.first_token_ts > 0:
            first = metrics.first_token_ts
            self._first_token_at = first if self._first_token_at is None else min(first, self._first_token_at)
        prompt_tokens = cached_tokens = 0
        if index in self._unreported and result.prompt_token_ids is not None:
            self._unreported.discard(index)
            prompt_tokens = len(result.prompt_token_ids)
            cached_tokens = result.num_cached_tokens or 0
        first_choice = index * self._n
        return Output(
            deltas=tuple(
                Delta(
                    first_choice + choice.index,
                    choice.text,
                    len(choice.token_ids),
                    _reason(choice.finish_reason),
                    choice.stop_reason,
                )
                for choice in result.outputs
            ),
            finished=not self._open,
            first_token_at=self._first_token_at,
            prompt_tokens=prompt_tokens,
            cached_tokens=cached_tokens,
        )


def _reason(reason: str | None) -> FinishReason | None:
    if reason is None:
        return None
    known = _REASONS.get(reason)
    if known is None:
        raise EngineError(f"the engine aborted the request ({reason})")
    return known

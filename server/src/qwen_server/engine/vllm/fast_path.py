"""The fast path: turns a request body into sampling parameters and token streams.

It does not use vLLM's response models.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, nullcontext
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.utils.api_utils import get_max_tokens
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from qwen_server.engine.base import Output, Prepared, Tap, Turn
from qwen_server.engine.merging import merged
from qwen_server.engine.vllm.build import Parts
from qwen_server.engine.vllm.client import EngineProxy, date
from qwen_server.engine.vllm.completion_api import CompletionOfPrompts
from qwen_server.engine.vllm.outputs import Merger
from qwen_server.engine.vllm.patches.replay import Seam
from qwen_server.engine.vllm.thoughts import readable
from qwen_server.engine.vllm.translation import invalid, of_response, translated

NextClient = Callable[[EngineProxy], Awaitable[EngineProxy]]


@dataclass(frozen=True, slots=True)
class Work:
    """The engine's input for one request.

    inputs, params: the rendered prompt and the sampling parameters of each sequence, in the order
        of the choices. The choices of one prompt are sequences of their own, so that each can wait
        for its turn.
    lora: the adapter that all of them use.
    """

    prompt_param: str
    inputs: tuple[Any, ...]
    params: tuple[Any, ...]
    priority: int
    lora: LoRARequest | None


class FastPath:
    """Prepares and runs requests. Calls `death_cause` for the error text if the engine is dead.

    next_client: waits for the engine that follows one that has died. Without it, none follows.
    """

    def __init__(self, parts: Parts, death_cause: Callable[[], str], next_client: NextClient | None = None) -> None:
        self._parts = parts
        self._death_cause = death_cause
        self._next_client = next_client
        self._max_model_len = parts.info.max_model_len

    async def prepare_chat(self, body: Mapping[str, Any], request_id: str, arrival: float) -> Prepared:
        """Renders and tokenizes a conversation with vLLM's renderer, which uses threads."""
        with translated("messages", self._death_cause, body):
            self._parts.images.check(body, "chat")
            body = self._parts.images.readable(body)
            fields = self._identified(body, request_id)
            request = ChatCompletionRequest.model_validate(fields)
            result = await self._parts.plain.render_chat(request)
            if isinstance(result, ErrorResponse):
                raise of_response(result, "messages")
            # Not from the request: pydantic warns at each access to a deprecated field.
            limit = fields.get("max_completion_tokens") or fields.get("max_tokens")
            work = await self._work(request, "messages", result[1], limit)
        return _prepared(work, len(result[1]), request_id, arrival)

    async def prepare_completion(self, body: Mapping[str, Any], request_id: str, arrival: float) -> Prepared:
        """Tokenizes one prompt or several."""
        with translated("prompt", self._death_cause, body):
            request = CompletionOfPrompts.model_validate(self._identified(body, request_id))
            result = await self._parts.plain.render_completion(request)
            if isinstance(result, ErrorResponse):
                raise of_response(result, "prompt")
            work = await self._work(request, "prompt", result, request.max_tokens)
        return _prepared(work, len(result), request_id, arrival)

    def _identified(self, body: Mapping[str, Any], request_id: str) -> dict[str, Any]:
        """The body with an ID, which saves vLLM from reading random bytes for one."""
        return fitted(body, self._max_model_len) | {"request_id": request_id}

    async def _work(self, request: Any, param: str, inputs: list[Any], limit: int | None) -> Work:
        lengths = [len(item["prompt_token_ids"]) for item in inputs]
        if max(lengths) >= self._max_model_len:
            raise invalid(
                f"This model's maximum context length is {self._max_model_len} tokens. However, your prompt contains "
                f"{max(lengths)} input tokens, which leaves no room for an answer.",
                param,
                400,
                param,
            )
        params = []
        for length in lengths:
            max_tokens = get_max_tokens(self._max_model_len, limit, length, self._parts.default_sampling)
            params += _choices(request.to_sampling_params(max_tokens, self._parts.default_sampling))
        if params[0].structured_outputs is not None:
            grammar = await self._parts.grammars.checked(params[0].structured_outputs)
            for each in params:
                each.structured_outputs = grammar
        self._verify(params[0])
        n = len(params) // len(inputs)
        each = tuple(dict(item) for item in inputs for _ in range(n))
        return Work(param, each, tuple(params), request.priority, self._parts.adapters.lora_of(request.model))

    def _verify(self, params: Any) -> None:
        """Rejects what depends on the model, such as token IDs.

        This happens before the response starts, so the client still gets an HTTP error.
        """
        config = self._parts.llm.vllm_config
        params.verify(
            self._parts.llm.model_config,
            config.speculative_config,
            config.structured_outputs_config,
            self._parts.llm.get_tokenizer(),
        )

    async def generate(
        self, prepared: Prepared, tap: Tap | None = None, turn: Turn | None = None
    ) -> AsyncGenerator[Output, None]:
        """See Engine."""
        work: Work = prepared.payload
        merger = Merger(1)
        with translated(work.prompt_param, self._death_cause):
            for params in work.params:
                merger.add_prompt(1, constrained=params.structured_outputs is not None)
            if len(work.params) == 1:
                only = self._follow(prepared, 0, tap)
                async with aclosing(only):
                    async for result in only:
                        yield merger.convert(0, result)
                return
            sequences = [self._in_turn(prepared, index, turn or nullcontext) for index in range(len(work.params))]
            async with aclosing(merged(sequences)) as results:
                async for index, result in results:
                    output = merger.convert(index, result)
                    # The other choices of a prompt find it in the cache because of the first one.
                    repeated = output.cached_tokens and index % prepared.n
                    yield replace(output, cached_tokens=0) if repeated else output

    async def _follow(
        self, prepared: Prepared, index: int, tap: Tap | None = None
    ) -> AsyncGenerator[RequestOutput, None]:
        """The outputs of one sequence, whichever engines make them.

        Raises EngineRestartedError if the next engine cannot go on with it.
        """
        work: Work = prepared.payload
        request_id = f"{prepared.request_id}-{index}"
        client, seam, begun = self._parts.client, Seam(work.inputs[index], work.params[index]), False
        while True:
            self._parts.adapters.require(work.lora)
            options = {"priority": work.priority, "lora_request": work.lora}
            try:
                async with aclosing(client.follow(seam, request_id, options, tap)) as results:
                    async for result in results:
                        begun = True
                        yield seam.whole(result)
                    return
            except (EngineDeadError, EngineGenerateError):
                if self._next_client is None or not client.errored:
                    raise
            finally:
                client.unfollow(request_id)
            if (unread := seam.unread()) is not None:
                begun = True
                yield seam.whole(unread)
            known = client.keeps_states
            client = await self._next_client(client)
            seam.cut(begun=begun, known=known)

    async def _in_turn(self, prepared: Prepared, index: int, turn: Turn) -> AsyncGenerator[RequestOutput, None]:
        async with turn(), aclosing(self._follow(prepared, index)) as results:
            async for result in results:
                yield result


def _choices(params: Any) -> list[Any]:
    """The parameters of each choice, as vLLM makes them for `n` choices of one prompt."""
    choices = []
    for index in range(params.n):
        choice = copy(params)
        choice.n = 1
        if choice.seed is not None:
            choice.seed += index
        choices.append(choice)
    return choices


def _prepared(work: Work, prompts: int, request_id: str, arrival: float) -> Prepared:
    for item in work.inputs:
        date(item, arrival)
    n = len(work.inputs) // prompts
    return Prepared(
        request_id=request_id,
        prompt_tokens=sum(len(item["prompt_token_ids"]) for item in work.inputs[::n]),
        prompts=prompts,
        n=n,
        payload=work,
    )


def fitted(body: Mapping[str, Any], max_model_len: int) -> dict[str, Any]:
    """The body as vLLM can take it: its messages readable, its token limits within the context.

    A client's large default must not make a request invalid.
    """
    fit = dict(body)
    if fit.get("truncate_prompt_tokens") is not None:
        # The default, but if it is named, vLLM cuts a long text before it tokenizes it. The
        # tokenizer would make an object of each piece that it cuts off.
        fit.setdefault("truncation_side", "left")
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        if isinstance(fit.get(name), int):
            fit[name] = min(fit[name], max_model_len)
    if "messages" in fit:
        fit["messages"] = readable(fit["messages"])
    return fit

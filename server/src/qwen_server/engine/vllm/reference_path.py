"""The reference path: answers requests with vLLM's own serving code.

It serves tools, reasoning, logprobs and the further APIs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager, nullcontext
from typing import Any

from starlette.responses import Response
from vllm.entrypoints.serve.engine.protocol import ErrorResponse

from qwen_server.config.values import Task
from qwen_server.engine.base import BusyError, InvalidRequestError, Kind, Observer, ReferenceAnswer, Turn
from qwen_server.engine.vllm.build import Parts
from qwen_server.engine.vllm.client import ObservedRequest, current_request
from qwen_server.engine.vllm.constraints import grammar_of
from qwen_server.engine.vllm.fast_path import fitted
from qwen_server.engine.vllm.further_apis import build
from qwen_server.engine.vllm.patches.vllm_texts import DISCONNECTED
from qwen_server.engine.vllm.serving_objects import Api, RefusedError, chat_and_completion, prompt_param_of
from qwen_server.engine.vllm.translation import of_response, translated

_log = logging.getLogger(__name__)


class ReferencePath:
    """Answers requests of any kind. Passes each of the engine's outputs to `observe`."""

    def __init__(self, parts: Parts, death_cause: Callable[[], str], task: Task = "generate") -> None:
        self._parts = parts
        self._task = task
        self._death_cause = death_cause
        self._apis: dict[Kind, Api] = chat_and_completion(parts)
        self._building: dict[Kind, asyncio.Task[None]] = {}

    async def answer(
        self,
        kind: Kind,
        body: Mapping[str, Any],
        request_id: str,
        arrival: float,
        observe: Observer,
        *,
        turn: Turn | None = None,
    ) -> ReferenceAnswer:
        """See Engine.reference."""
        self._parts.adapters.lora_of(body.get("model"))  # vLLM knows an adapter only by its key
        api = self._apis.get(kind) or await self._built(kind)
        param = prompt_param_of(api, body)
        observed = ObservedRequest(arrival, observe, turn or nullcontext)
        if body.get("tools") and kind != "tokenize":
            self._require_tool_parser(body)
        with self._translated(api, observed, param, body):
            self._parts.images.check(body, kind)
            body = self._parts.images.readable(body)
            fit = fitted(body, self._parts.info.max_model_len)
            if api.slow:
                request = await asyncio.to_thread(api.request, fit, request_id)
            else:
                request = api.request(fit, request_id)
            token = current_request.set(observed)
            try:
                result = await api.create(request)
            finally:
                current_request.reset(token)
                if api.pools:
                    await observed.streams.close()  # its tasks may outlive a cancellation
            if isinstance(result, ErrorResponse):
                if result.error.message == DISCONNECTED:
                    # vLLM turns a cancellation into a response.
                    raise asyncio.CancelledError
                raise _refusal(observed, result, param)
            if isinstance(result, AsyncGenerator):
                return ReferenceAnswer(stream=self._events(api, result, observed, param, body))
            if isinstance(result, Response):
                return ReferenceAnswer(content=bytes(result.body))
            return ReferenceAnswer(body=api.body(result))

    def _require_tool_parser(self, body: Mapping[str, Any]) -> None:
        """Raises InvalidRequestError if no parser could read the model's calls, in any API."""
        choice = body.get("tool_choice")
        kind = choice.get("type") if isinstance(choice, dict) else choice
        if self._parts.serving_options["tool_parser"] is None and kind != "none":
            text = "tools: this model cannot call tools, because no parser reads its calls (--tool-call-parser)"
            raise InvalidRequestError(text, param="tools")

    async def check_grammar(self, kind: Kind, body: Mapping[str, Any]) -> None:
        """See Engine. A request that cannot be read is left to `answer`, which says why."""
        api = self._apis.get(kind) or await self._built(kind)
        fit = fitted(body, self._parts.info.max_model_len)
        renderer = self._parts.serving_options["online_renderer"]
        try:
            grammar = await asyncio.to_thread(grammar_of, api, fit, renderer)
        except Exception as error:  # noqa: BLE001 - vLLM raises anything for what it cannot read
            _log.debug("found no grammar: %r", error)
            return
        if grammar is not None:
            try:
                await self._parts.grammars.checked(grammar)
            except InvalidRequestError as error:
                error.param = api.names.get(str(error.param), error.param)
                raise

    async def _built(self, kind: Kind) -> Api:
        """Builds the serving objects for `kind` in a thread, once for all concurrent requests."""
        task = self._building.get(kind)
        if task is None:
            task = self._building[kind] = asyncio.create_task(self._build(kind), name=f"build-{kind}")
            task.add_done_callback(lambda _: self._building.pop(kind))
        # The build continues if this client disconnects, because others may wait for it.
        await asyncio.shield(task)
        return self._apis[kind]

    async def _build(self, kind: Kind) -> None:
        started = time.monotonic()
        tasks = () if self._task == "generate" else await self._parts.llm.get_supported_tasks()
        self._apis |= await asyncio.to_thread(build, kind, self._parts, self._task, tasks)
        _log.info("built the serving objects for %s in %.2f s, at the first request", kind, time.monotonic() - started)

    async def _events(
        self,
        api: Api,
        source: AsyncGenerator[Any, None],
        observed: ObservedRequest,
        param: str,
        body: Mapping[str, Any],
    ) -> AsyncGenerator[str, None]:
        """Yields the events of a stream and raises its errors."""
        # The Responses API calls the engine only now. This task serves no other request and starts
        # no task that inherits its context, so the variable needs no reset.
        current_request.set(observed)
        try:
            with self._translated(api, observed, param, body):
                async with aclosing(api.events(source)) as events:
                    async for event in events:
                        yield event
        finally:
            await observed.streams.close()  # vLLM leaves inner generators to the garbage collector

    @contextmanager
    def _translated(self, api: Api, observed: ObservedRequest, param: str, body: Mapping[str, Any]) -> Iterator[None]:
        """Raises errors with the client's names of the parameters."""
        try:
            with translated(param, self._death_cause, body):
                try:
                    yield
                except RefusedError as error:
                    raise _refusal(observed, error.response, param) from error
                except (AttributeError, IndexError, KeyError) as error:
                    if observed.streams:
                        raise
                    # An error before the first call of the engine is due to the client's input.
                    _log.warning("vLLM could not read a request: %r", error)
                    raise InvalidRequestError(f"{param} could not be read", param=param) from error
        except InvalidRequestError as error:
            error.param = None if error.param is None else api.names.get(error.param, error.param)
            raise


def _refusal(observed: ObservedRequest, response: ErrorResponse, param: str) -> Exception:
    """The error that our code raised inside of vLLM's, or else the response as an error."""
    ours = isinstance(observed.error, BusyError | InvalidRequestError)
    return observed.error if observed.error is not None and ours else of_response(response, param)

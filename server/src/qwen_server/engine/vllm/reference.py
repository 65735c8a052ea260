"""The reference path: answers by vLLM's own serving code, for tools, reasoning, logprobs and echo."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorInfo, ErrorResponse

from qwen_server.engine.base import Observer, ReferenceAnswer
from qwen_server.engine.vllm.build import Parts
from qwen_server.engine.vllm.errors import of_response, translated
from qwen_server.engine.vllm.fast import fitted
from qwen_server.engine.vllm.proxy import Call, current_call

_ERROR_EVENT = 'data: {"error"'
_DISCONNECTED = "Client disconnected"


class ReferencePath:
    """Answers whole requests. The engine's outputs are shown to `observe` as they come."""

    def __init__(self, parts: Parts, death_cause: Callable[[], str]) -> None:
        self._parts = parts
        self._death_cause = death_cause

    async def chat(
        self, body: Mapping[str, Any], request_id: str, arrival: float, observe: Observer
    ) -> ReferenceAnswer:
        """A chat completion."""
        with translated("messages", self._death_cause):
            request = ChatCompletionRequest.model_validate(self._identified(body, request_id, "chatcmpl-"))
            return await self._answer(
                self._parts.chat.create_chat_completion, request, "messages", Call(arrival, observe)
            )

    async def completion(
        self, body: Mapping[str, Any], request_id: str, arrival: float, observe: Observer
    ) -> ReferenceAnswer:
        """A completion."""
        with translated("prompt", self._death_cause):
            request = CompletionRequest.model_validate(self._identified(body, request_id, "cmpl-"))
            return await self._answer(
                self._parts.completion.create_completion, request, "prompt", Call(arrival, observe)
            )

    def _identified(self, body: Mapping[str, Any], request_id: str, prefix: str) -> dict[str, Any]:
        """The body with the request's id, which vLLM prefixes itself."""
        return fitted(body, self._parts.info.max_model_len) | {"request_id": request_id.removeprefix(prefix)}

    async def _answer(
        self, create: Callable[[Any], Awaitable[Any]], request: Any, param: str, call: Call
    ) -> ReferenceAnswer:
        token = current_call.set(call)
        try:
            result = await create(request)
        finally:
            current_call.reset(token)
        if isinstance(result, ErrorResponse):
            if result.error.message == _DISCONNECTED:
                # vLLM turns a cancellation into a response.
                raise asyncio.CancelledError
            raise of_response(result, param)
        if isinstance(result, AsyncGenerator):
            return ReferenceAnswer(stream=self._events(result, param))
        return ReferenceAnswer(body=result.model_dump(mode="json"))

    async def _events(self, source: AsyncGenerator[str, None], param: str) -> AsyncGenerator[str, None]:
        """The events of a stream; vLLM's error events are raised, because they may come before any other."""
        with translated(param, self._death_cause):
            async with aclosing(source):
                async for event in source:
                    if event.startswith(_ERROR_EVENT):
                        raise of_response(_error_of(event), param)
                    yield event


def _error_of(event: str) -> ErrorResponse:
    error = json.loads(event.removeprefix("data: "))["error"]
    return ErrorResponse(error=ErrorInfo(**error))

"""vLLM's serving objects as the reference path uses them.

Each `Api` knows how a body becomes a request of vLLM and how vLLM answers it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorInfo, ErrorResponse

from qwen_server.engine.base import Kind
from qwen_server.engine.vllm.build import Parts
from qwen_server.engine.vllm.completion_api import CompletionOfPrompts
from qwen_server.engine.vllm.finish_events import finished_apart
from qwen_server.engine.vllm.patches.vllm_texts import ERROR_EVENT
from qwen_server.engine.vllm.thoughts import named_twice, streamed_twice


class RefusedError(Exception):
    """vLLM's serving code answered with an error response."""

    def __init__(self, response: ErrorResponse) -> None:
        super().__init__(response.error.message)
        self.response = response


def json_of(result: Any) -> dict[str, Any]:
    """The body of an answer that is not streamed."""
    body: dict[str, Any] = result.model_dump(mode="json", by_alias=True)
    return body


async def passed_on(source: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    """Yields OpenAI's events unchanged. Raises RefusedError for an error event.

    An error event may be the first event.
    """
    async with aclosing(source):
        async for event in source:
            if event.startswith(ERROR_EVENT):
                error = json.loads(event.removeprefix("data: "))["error"]
                raise RefusedError(ErrorResponse(error=ErrorInfo(**error)))
            yield event


@dataclass(frozen=True, slots=True)
class Api:
    """How to serve one kind of request.

    prompt_param: the body's field with the prompt.
    request: builds vLLM's request from the body and our request ID.
    create: answers vLLM's request.
    body: converts an answer to the JSON for the client.
    events: converts a stream to the events for the client. It may raise RefusedError.
    names: the API's names of parameters by vLLM's names, where they differ.
    chat: the request that vLLM's parsers know, where it is another one.
    slow: build the request in a thread.
    pools: the model reads the texts of the request and generates none.
    """

    prompt_param: str
    request: Callable[[dict[str, Any], str], Any]
    create: Callable[[Any], Awaitable[Any]]
    body: Callable[[Any], dict[str, Any]] = json_of
    events: Callable[[AsyncGenerator[Any, None]], AsyncGenerator[str, None]] = passed_on
    names: Mapping[str, str] = field(default_factory=dict)
    chat: Callable[[Any], Any] = lambda request: request
    slow: bool = False
    pools: bool = False


def chat_and_completion(parts: Parts) -> dict[Kind, Api]:
    """The two kinds that exist from the start. vLLM adds the prefix of their IDs itself."""

    def chat(body: dict[str, Any], request_id: str) -> ChatCompletionRequest:
        return ChatCompletionRequest.model_validate(body | {"request_id": request_id.removeprefix("chatcmpl-")})

    def completion(body: dict[str, Any], request_id: str) -> CompletionOfPrompts:
        fields = body | {"request_id": request_id.removeprefix("cmpl-")}
        made: CompletionOfPrompts = CompletionOfPrompts.model_validate(fields)
        return made

    return {
        "chat": Api("messages", chat, parts.chat.create_chat_completion, _chat_body, _chat_events),
        "completion": Api("prompt", completion, parts.completion.create_completion),
    }


def _chat_body(result: Any) -> dict[str, Any]:
    return named_twice(json_of(result))


def _chat_events(source: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    return streamed_twice(finished_apart(passed_on(source)))


def prompt_param_of(api: Api, body: Mapping[str, Any]) -> str:
    """The field of `body` with the prompt. Tokenization and scores have two names for it."""
    return next((name for name in ("messages", "text_2") if name in body), api.prompt_param)

"""vLLM's serving objects, each as the reference path uses it: how a body becomes a request, and how it is answered."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorInfo, ErrorResponse

from qwen_server.engine.base import Kind
from qwen_server.engine.vllm.build import Parts
from qwen_server.engine.vllm.patches.vllm_texts import ERROR_EVENT


class RefusedError(Exception):
    """vLLM's serving code answered with an error instead of what was asked for."""

    def __init__(self, response: ErrorResponse) -> None:
        super().__init__(response.error.message)
        self.response = response


def json_of(result: Any) -> dict[str, Any]:
    """The body of a whole answer."""
    body: dict[str, Any] = result.model_dump(mode="json", by_alias=True)
    return body


async def passed_on(source: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    """OpenAI's events as they are, but for the error events, which are raised: they may come before any other."""
    async with aclosing(source):
        async for event in source:
            if event.startswith(ERROR_EVENT):
                error = json.loads(event.removeprefix("data: "))["error"]
                raise RefusedError(ErrorResponse(error=ErrorInfo(**error)))
            yield event


@dataclass(frozen=True, slots=True)
class Api:
    """One kind of request. `request` takes the body and our id of it; `prompt_param` is where the prompt stands in it.

    `body` and `events` turn what `create` answers into what the client is sent; `events` raises RefusedError. `names`
    are the API's own of the parameters that vLLM calls otherwise. `slow`: the request is made in a thread.
    """

    prompt_param: str
    request: Callable[[dict[str, Any], str], Any]
    create: Callable[[Any], Awaitable[Any]]
    body: Callable[[Any], dict[str, Any]] = json_of
    events: Callable[[AsyncGenerator[Any, None]], AsyncGenerator[str, None]] = passed_on
    names: Mapping[str, str] = field(default_factory=dict)
    slow: bool = False


def chat_and_completion(parts: Parts) -> dict[Kind, Api]:
    """The two that exist from the start. vLLM prefixes their ids itself."""

    def chat(body: dict[str, Any], request_id: str) -> ChatCompletionRequest:
        return ChatCompletionRequest.model_validate(body | {"request_id": request_id.removeprefix("chatcmpl-")})

    def completion(body: dict[str, Any], request_id: str) -> CompletionRequest:
        return CompletionRequest.model_validate(body | {"request_id": request_id.removeprefix("cmpl-")})

    return {
        "chat": Api("messages", chat, parts.chat.create_chat_completion),
        "completion": Api("prompt", completion, parts.completion.create_completion),
    }


def prompt_param_of(api: Api, body: Mapping[str, Any]) -> str:
    """Where the prompt stands in `body`: tokenization takes a conversation too."""
    return "messages" if "messages" in body else api.prompt_param

"""Anthropic's Messages API over vLLM's own serving code.

vLLM translates requests to chat completions and answers back to messages.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from pydantic import BaseModel, FailFast, PrivateAttr
from vllm.entrypoints.anthropic.protocol import AnthropicCountTokensRequest, AnthropicMessage, AnthropicMessagesRequest
from vllm.entrypoints.anthropic.serving import AnthropicServingMessages
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest, ChatCompletionResponse
from vllm.entrypoints.serve.engine.protocol import ErrorResponse

from qwen_server.engine.base import EngineError, Kind
from qwen_server.engine.vllm.build import Parts
from qwen_server.engine.vllm.client import current_request
from qwen_server.engine.vllm.patches.vllm_texts import MESSAGES_ERROR_EVENT
from qwen_server.engine.vllm.serving_objects import Api, RefusedError, passed_on
from qwen_server.engine.vllm.tool_calls import WholeCallsChat

_CHAT_ID = "chatcmpl-"
# True since vLLM 0.33.
_STREAMS_CHUNKS = hasattr(AnthropicServingMessages, "chat_completion_stream_generator_raw")
_NAMES = {"response_format": "output_config", "max_completion_tokens": "max_tokens", "stop": "stop_sequences"}


class _Serving(WholeCallsChat, AnthropicServingMessages):
    """vLLM's serving object, but it keeps the errors of a stream.

    vLLM's converter fails on them and would report its own failure instead.
    """

    @classmethod
    def to_chat_completion_request(
        cls, anthropic_request: Any, *, merge_inline_system: bool = False, disabled_thinking_effort: Any = "none"
    ) -> ChatCompletionRequest:
        """The conversion that `_converted` has made in a thread, if there is one."""
        kept = anthropic_request.take() if disabled_thinking_effort == "none" else None
        return kept or super().to_chat_completion_request(
            anthropic_request,
            merge_inline_system=merge_inline_system,
            disabled_thinking_effort=disabled_thinking_effort,
        )

    async def create_chat_completion(self, request: ChatCompletionRequest, raw_request: Any = None) -> Any:
        result = await super().create_chat_completion(request, raw_request)
        if _STREAMS_CHUNKS or not isinstance(result, AsyncGenerator):
            return result
        return _noting_errors(passed_on(result))

    def chat_completion_stream_generator_raw(self, *arguments: Any, **options: Any) -> AsyncGenerator[Any, None]:
        """The source of vLLM's events since 0.33. Earlier, vLLM parsed the texts of a stream."""
        return _noting_errors(_accepted(super().chat_completion_stream_generator_raw(*arguments, **options)))

    def messages_full_converter(self, generator: ChatCompletionResponse) -> Any:
        for call in generator.choices[0].message.tool_calls:
            if not _is_object(call.function.arguments):
                call.function.arguments = "{}"  # the answer was truncated, see its stop_reason
        return super().messages_full_converter(generator)


class _Convertible(BaseModel):
    """A request that keeps its conversion to a chat until it is needed."""

    _chat: ChatCompletionRequest | None = PrivateAttr(None)

    def keep(self, chat: ChatCompletionRequest) -> None:
        self._chat = chat

    def take(self) -> ChatCompletionRequest | None:
        chat, self._chat = self._chat, None
        return chat


class _Request(_Convertible, AnthropicMessagesRequest):
    """vLLM's request. Validation stops at the first invalid message."""

    messages: Annotated[list[AnthropicMessage], FailFast()]


class _CountRequest(_Convertible, AnthropicCountTokensRequest):
    """The same for counting tokens."""

    messages: Annotated[list[AnthropicMessage], FailFast()]


async def _accepted(source: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
    """Yields the chunks of a chat. Raises RefusedError for an error among them."""
    async with aclosing(source):
        async for chunk in source:
            if isinstance(chunk, ErrorResponse):
                raise RefusedError(chunk)
            yield chunk


async def _noting_errors(source: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
    """Yields the items of `source`. Keeps an error in the observed request."""
    try:
        async with aclosing(source):
            async for item in source:
                yield item
    except Exception as error:
        if (observed := current_request.get()) is not None and observed.error is None:
            observed.error = error
        raise


def _converted(serving: _Serving, request: Any) -> Any:
    """Converts a request to a chat already now, in a thread. Thousands of messages take long."""
    merge = serving._merge_inline_system  # noqa: SLF001
    request.keep(serving.to_chat_completion_request(request, merge_inline_system=merge))
    return request


def messages_apis(parts: Parts) -> dict[Kind, Api]:
    """Builds the serving object."""
    serving = _Serving(parts.client, parts.models, "assistant", **parts.serving_options)

    def messages(body: dict[str, Any], _: str) -> _Request:
        made: _Request = _converted(serving, _Request.model_validate(_with_switch(body)))
        return made

    def count(body: dict[str, Any], _: str) -> _CountRequest:
        made: _CountRequest = _converted(serving, _CountRequest.model_validate(_with_switch(body)))
        return made

    return {
        "messages": Api(
            "messages",
            messages,
            serving.create_messages,
            _body,
            _events,
            _NAMES,
            serving.to_chat_completion_request,
            slow=True,
        ),
        "count_tokens": Api("messages", count, serving.count_tokens, _compact, names=_NAMES, slow=True),
    }


def _with_switch(body: dict[str, Any]) -> dict[str, Any]:
    """The body with Anthropic's `thinking` translated into a switch for the chat template.

    Only the type `enabled` turns thinking on. vLLM takes an effort for a switch, too, but agents
    send one with every request, and a model without much room left would answer with a thought
    only. With `disabled`, the whole answer would even count as reasoning.
    """
    thinking = body.get("thinking", {}).get("type")
    if thinking is None and body.get("output_config", {}).get("effort") is None:
        return body
    given = {"enable_thinking": thinking == "enabled"} | body.get("chat_template_kwargs", {})
    off = thinking in ("adaptive", "disabled")
    rest = {name: value for name, value in body.items() if not (off and name == "thinking")}
    return rest | {"chat_template_kwargs": given}


def _body(result: Any) -> dict[str, Any]:
    result.id = _renamed(result.id)
    return _compact(result) | {"stop_sequence": result.stop_sequence}


def _compact(result: Any) -> dict[str, Any]:
    body: dict[str, Any] = result.model_dump(mode="json", exclude_none=True)
    return body


async def _events(source: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    """Yields typed server-sent events with an ID in Anthropic's format. Raises errors."""
    begun = False
    async with aclosing(source):
        async for event in source:
            if event.startswith(MESSAGES_ERROR_EVENT):
                raise _failure(event)
            yield event if begun else event.replace(f'"id":"{_CHAT_ID}', '"id":"msg_', 1)
            begun = True


def _renamed(chat_id: str) -> str:
    return "msg_" + chat_id.removeprefix(_CHAT_ID)


def _failure(event: str) -> Exception:
    """The error that was kept, or else the one that the event describes."""
    observed = current_request.get()
    if observed is not None and observed.error is not None:
        return observed.error
    return EngineError(str(json.loads(event.partition("data: ")[2])["error"]["message"]))


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except json.JSONDecodeError:
        return False

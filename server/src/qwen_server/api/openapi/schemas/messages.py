"""The answers of Anthropic's Messages API."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from qwen_server.api.openapi.schemas.base import Exact, Open


class MessagesUsage(Open):
    """Token counts."""

    input_tokens: int = Field(ge=0)
    output_tokens: int = Field(ge=0)
    cache_read_input_tokens: int | None = Field(
        None, ge=0, description="with --enable-prompt-tokens-details; `input_tokens` does not hold them then"
    )


class MessagesAnswer(Open):
    """An answered conversation."""

    id: str = Field(pattern="^msg_")
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]] = Field(min_length=1, description="blocks: text, thoughts, uses of tools")
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
    stop_sequence: str | None
    usage: MessagesUsage


class MessagesEvent(Open):
    """An event of a streamed answer."""

    type: Literal[
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "error",
    ]


class CountTokensAnswer(Open):
    """The tokens of a prompt."""

    input_tokens: int = Field(ge=0)


class AnthropicErrorDetail(Exact):
    """Anthropic's error object."""

    type: str = Field(description="such as invalid_request_error")
    message: str = Field(min_length=1, description="what is wrong, naming the parameter and the limit")


class AnthropicError(Exact):
    """A mistake of the client, in Anthropic's shape."""

    type: Literal["error"]
    error: AnthropicErrorDetail

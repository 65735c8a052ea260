"""The bodies of Anthropic's Messages API. `protocol_messages` checks the requests."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from qwen_server.api.openapi.schemas.base import Exact, Open
from qwen_server.api.openapi.schemas.generation import StopText


class AnthropicMessage(Open):
    """A message of the conversation."""

    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Any]] = Field(description="the text, or its blocks")


class CountTokensRequest(Open):
    """A conversation whose tokens are to be counted."""

    messages: list[AnthropicMessage] = Field(min_length=1, max_length=4096, description="the conversation")
    model: str | None = Field(None, description="the served model; may be left out, any other name is 404")
    system: str | list[dict[str, Any]] | None = Field(None, description="the system message")
    tools: list[dict[str, Any]] | None = Field(None, description="functions, where the model's family has a parser")
    tool_choice: dict[str, Any] | None = Field(None, examples=[{"type": "auto"}])
    thinking: dict[str, Any] | None = Field(
        None, description="off unless its type is enabled; the budget must be below max_tokens"
    )


class MessagesRequest(CountTokensRequest):
    """A conversation to answer. Unknown fields are ignored; `null` means the default."""

    max_tokens: int = Field(description="the longest answer, in tokens")
    temperature: float | None = Field(None, description="0: always the likeliest token")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=1 << 31)
    stop_sequences: list[StopText] | None = Field(None, max_length=4, description="strings that end the answer")
    stream: bool | None = Field(None, description="server-sent events instead of one body")


class MessagesUsage(Open):
    """Counts of tokens."""

    input_tokens: int = Field(ge=0)
    output_tokens: int = Field(ge=0)


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
    """A mistake that the client can mend, in Anthropic's shape."""

    type: Literal["error"]
    error: AnthropicErrorDetail

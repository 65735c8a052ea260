"""The answers to chats and text completions."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from qwen_server.api.openapi.schemas.base import Open


class PromptTokensDetails(Open):
    """More about the tokens of the prompt."""

    cached_tokens: int = Field(ge=0, description="how many of them were in the prefix cache")


class Usage(Open):
    """Token counts."""

    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)
    total_tokens: int = Field(ge=0)
    prompt_tokens_details: PromptTokensDetails | None = Field(None, description="with --enable-prompt-tokens-details")


class AnswerMessage(Open):
    """The model's message."""

    role: Literal["assistant"]
    content: str | None = Field(description="null where the model only calls tools")
    reasoning: str | None = Field(None, description="the thought before the answer, where the model thinks")
    reasoning_content: str | None = Field(None, description="the same, for clients that know this name")


class ChatChoice(Open):
    """One of the answers."""

    index: int = Field(ge=0)
    message: AnswerMessage
    logprobs: dict[str, Any] | None = None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatAnswer(Open):
    """An answered conversation."""

    id: str = Field(pattern="^chatcmpl-")
    object: Literal["chat.completion"]
    created: int = Field(ge=0, description="Unix seconds")
    model: str
    choices: list[ChatChoice] = Field(min_length=1)
    usage: Usage


class CompletionChoice(Open):
    """One of the answers: of the first prompt the first `n`, and so on."""

    text: str
    index: int = Field(ge=0)
    logprobs: dict[str, Any] | None = None
    finish_reason: Literal["stop", "length"]


class CompletionAnswer(Open):
    """A continued text."""

    id: str = Field(pattern="^cmpl-")
    object: Literal["text_completion"]
    created: int = Field(ge=0, description="Unix seconds")
    model: str
    choices: list[CompletionChoice] = Field(min_length=1)
    usage: Usage


class Delta(Open):
    """The text that an answer gained."""

    role: Literal["assistant"] | None = Field(None, description="with the first text of each answer")
    content: str | None = None
    reasoning: str | None = Field(None, description="the thought before the answer, where the model thinks")
    reasoning_content: str | None = Field(None, description="the same, for clients that know this name")


class ChatChunkChoice(Open):
    """The progress of one of the answers."""

    index: int = Field(ge=0)
    delta: Delta
    logprobs: dict[str, Any] | None = None
    finish_reason: Literal["stop", "length", "tool_calls"] | None


class ChatChunk(Open):
    """An event of a streamed conversation; the one with `usage` has no choices."""

    id: str = Field(pattern="^chatcmpl-")
    object: Literal["chat.completion.chunk"]
    created: int = Field(ge=0, description="Unix seconds")
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class CompletionChunkChoice(Open):
    """The progress of one of the answers."""

    text: str
    index: int = Field(ge=0)
    logprobs: dict[str, Any] | None = None
    finish_reason: Literal["stop", "length"] | None


class CompletionChunk(Open):
    """An event of a streamed text; the one with `usage` has no choices."""

    id: str = Field(pattern="^cmpl-")
    object: Literal["text_completion"]
    created: int = Field(ge=0, description="Unix seconds")
    model: str
    choices: list[CompletionChunkChoice]
    usage: Usage | None = None

"""The answers of OpenAI's Responses API."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from qwen_server.api.openapi.schemas.base import Open


class ResponsesUsage(Open):
    """Token counts."""

    input_tokens: int = Field(ge=0)
    output_tokens: int = Field(ge=0)
    total_tokens: int = Field(ge=0)


class ResponsesAnswer(Open):
    """An answered request."""

    id: str = Field(pattern="^resp_")
    object: Literal["response"]
    created_at: int = Field(ge=0, description="Unix seconds")
    model: str
    status: Literal["completed", "incomplete"] = Field(description="incomplete: max_output_tokens was reached")
    output: list[dict[str, Any]] = Field(description="messages, thoughts and calls of functions")
    usage: ResponsesUsage


class ResponsesEvent(Open):
    """An event of a streamed answer."""

    type: str = Field(
        description="such as response.output_text.delta; the last is response.completed, response.incomplete or error"
    )
    sequence_number: int = Field(ge=0)

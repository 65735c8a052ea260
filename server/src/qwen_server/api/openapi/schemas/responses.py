"""The bodies of OpenAI's Responses API. `protocol_responses` checks the requests."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from qwen_server.api.openapi.schemas.base import Open
from qwen_server.api.openapi.schemas.generation import Int64, StopText


class ResponsesRequest(Open):
    """A text or a conversation to answer. Unknown fields are ignored; `null` means the default."""

    input: str | list[dict[str, Any]] = Field(
        min_length=1,
        description="a text, or the items of the conversation: messages, calls of functions, their outputs",
    )
    model: str | None = Field(None, description="the served model; may be left out, any other name is 404")
    instructions: str | None = Field(None, description="the system message")
    max_output_tokens: int | None = Field(None, description="the longest answer, in tokens")
    temperature: float | None = Field(None, description="0: always the likeliest token")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=1 << 31)
    seed: Int64 | None = Field(None, description="the same seed and request give the same answer")
    stop: StopText | list[StopText] | None = Field(None, description="at most 4 strings that end the answer")
    stream: bool | None = Field(None, description="server-sent events instead of one body")
    text: dict[str, Any] | None = Field(
        None, description="the format of the answer", examples=[{"format": {"type": "json_object"}}]
    )
    reasoning: dict[str, Any] | None = Field(
        None, description="an effort other than none lets the model think", examples=[{"effort": "low"}]
    )
    tools: list[dict[str, Any]] | None = Field(None, description="functions, where the model's family has a parser")
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    truncation: Literal["auto", "disabled"] | None = Field(None, description="auto cuts a prompt that is too long")
    metadata: dict[str, str] | None = Field(None, description="returned as it is")
    store: bool | None = Field(None, description="accepted and ignored: nothing is stored")
    background: Literal[False] | None = Field(None, description="not supported, because nothing is stored")
    previous_response_id: None = Field(None, description="not supported, because nothing is stored")


class ResponsesUsage(Open):
    """Counts of tokens."""

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

    type: str = Field(description="such as response.output_text.delta; the last is response.completed, or error")
    sequence_number: int = Field(ge=0)

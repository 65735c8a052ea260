"""The bodies of chat and text completions. `protocol` checks the requests; the bounds in force are filled in later."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from qwen_server.api.openapi.schemas.base import Open

Int64 = Annotated[int, Field(ge=-(1 << 63), le=(1 << 63) - 1)]
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
StopText = Annotated[str, Field(min_length=1, max_length=1024)]
TokenIds = Annotated[list[TokenId], Field(max_length=1024)]


class StreamOptions(Open):
    """What a stream tells beside the text."""

    include_usage: bool | None = Field(None, description="one more event with the token counts")
    continuous_usage_stats: bool | None = Field(None, description="token counts in every event")


class Sampling(Open):
    """What both kinds of requests take. Unknown fields are ignored; `null` means the default."""

    model: str | None = Field(None, description="the served model; may be left out, any other name is 404")
    max_tokens: int | None = Field(None, description="最大生成token数 (the longest answer, in tokens)")
    min_tokens: int | None = Field(None, description="the shortest answer, in tokens")
    temperature: float | None = Field(None, description="温度 (0: always the likeliest token)")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=1 << 31)
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, ge=0.01, le=10)
    seed: Int64 | None = Field(None, description="the same seed and request give the same answer")
    n: int | None = Field(None, description="answers to each prompt; each counts as a request in the queue")
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] | None = Field(
        None, description="strings that end the answer"
    )
    stop_token_ids: TokenIds | None = None
    logit_bias: (
        dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]] | None
    ) = Field(None, max_length=1024, description="added to the logits of token ids")
    ignore_eos: bool | None = Field(None, description="generate up to max_tokens")
    stream: bool | None = Field(None, description="server-sent events instead of one body")
    stream_options: StreamOptions | None = Field(None, description="only with stream")
    response_format: dict[str, Any] | None = Field(
        None,
        description="json_object or json_schema, as in OpenAI's API",
        examples=[{"type": "json_schema", "json_schema": {"name": "label", "schema": {"type": "object"}}}],
    )
    structured_outputs: dict[str, Any] | None = Field(
        None, description="vLLM's: one of json, regex, choice, grammar", examples=[{"choice": ["财经", "科技"]}]
    )
    user: str | None = Field(None, description="accepted and ignored")


class TextPart(Open):
    """A part of a message's text."""

    type: Literal["text"]
    text: str


class Message(Open):
    """A message of the conversation."""

    role: str = Field(description="system, user, assistant or tool", examples=["user"])
    content: str | list[str | TextPart] = Field(description="the text, or its parts")


class SilentMessage(Open):
    """A message that may have no text, such as the model's calls of tools."""

    role: Literal["assistant", "tool", "function"]
    content: str | list[str | TextPart] | None = None


class ChatRequest(Sampling):
    """A conversation to answer."""

    messages: list[Message | SilentMessage] = Field(
        min_length=1, max_length=4096, description="对话消息列表 (the conversation)"
    )
    max_completion_tokens: int | None = Field(None, description="OpenAI's newer name of max_tokens")
    logprobs: bool | None = Field(None, description="return the log probabilities of the tokens")
    top_logprobs: int | None = Field(None, ge=0, le=20, description="of so many alternatives; needs logprobs")
    tools: list[dict[str, Any]] | None = Field(None, description="functions, where the model's family has a parser")
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="thinking is off by default", examples=[{"enable_thinking": True}]
    )


class CompletionRequest(Sampling):
    """A text, or several, to continue."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1)]
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1)]
    ) = Field(description="a text, texts, token ids, or several of those")
    logprobs: int | None = Field(None, ge=0, le=20, description="log probabilities of the token and of so many others")
    echo: bool | None = Field(None, description="return the prompt too")
    suffix: str | None = None
    best_of: Literal[1] | None = None


class Usage(Open):
    """Counts of tokens."""

    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)
    total_tokens: int = Field(ge=0)


class AnswerMessage(Open):
    """The model's message."""

    role: Literal["assistant"]
    content: str | None = Field(description="null where the model only calls tools")


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
    """What an answer gained."""

    role: Literal["assistant"] | None = Field(None, description="with the first text of each answer")
    content: str | None = None


class ChatChunkChoice(Open):
    """The gain of one of the answers."""

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
    """The gain of one of the answers."""

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

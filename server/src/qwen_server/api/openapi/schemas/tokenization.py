"""The bodies of /tokenize and /detokenize. `protocol_tokenize` checks the requests."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from qwen_server.api.openapi.schemas.base import Open
from qwen_server.api.openapi.schemas.generation import Message, TokenId


class TokenizeRequest(Open):
    """A text or a conversation: one of the two."""

    prompt: str | None = Field(None, description="a text")
    messages: list[Message] | None = Field(None, min_length=1, max_length=4096, description="a conversation")
    model: str | None = Field(None, description="the served model; may be left out, any other name is 404")
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = Field(None, description="return the tokens' texts too")
    add_generation_prompt: bool | None = Field(None, description="only with messages; true by default")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="only with messages")
    tools: list[dict[str, Any]] | None = Field(None, description="only with messages")


class TokenizeAnswer(Open):
    """The tokens."""

    count: int = Field(ge=0)
    max_model_len: int = Field(ge=1, description="tokens of prompt and answer together")
    tokens: list[TokenId]
    token_strs: list[str] | None = None


class DetokenizeRequest(Open):
    """Token ids."""

    tokens: list[TokenId] = Field(min_length=1)
    model: str | None = Field(None, description="the served model; may be left out, any other name is 404")


class DetokenizeAnswer(Open):
    """Their text."""

    prompt: str

"""The answers of /tokenize and /detokenize."""

from __future__ import annotations

from pydantic import Field

from qwen_server.api.bodies.common import TokenId
from qwen_server.api.openapi.schemas.base import Open


class TokenizeAnswer(Open):
    """The tokens."""

    count: int = Field(ge=0)
    max_model_len: int = Field(ge=1, description="tokens of prompt and answer together")
    tokens: list[TokenId]
    token_strs: list[str] | None = None


class DetokenizeAnswer(Open):
    """Their text."""

    prompt: str

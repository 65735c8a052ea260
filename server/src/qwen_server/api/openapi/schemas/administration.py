"""The bodies of the admin paths, and of the small paths that vLLM's server also has."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qwen_server.api.openapi.schemas.base import Exact, Open


class CacheReset(Exact):
    """Whether the prefix cache is empty."""

    success: bool


class Slept(Exact):
    """The engine sleeps."""

    status: Literal["sleeping"]
    level: int = Field(ge=0, le=2)


class WokenUp(Exact):
    """Whether the engine is fully awake."""

    status: Literal["awake", "sleeping"]
    tags: list[str] | None = Field(description="the parts that were to wake up; null means all")


class IsSleeping(Exact):
    """Whether the engine sleeps."""

    is_sleeping: bool


class Version(Exact):
    """The version of vLLM."""

    version: str


class Load(Exact):
    """How busy the server is."""

    server_load: int = Field(ge=0, description="requests that were accepted and are not finished")


class TokenizerInfo(Open):
    """The configuration of the tokenizer."""

    tokenizer_class: str

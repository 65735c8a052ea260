"""The bodies of /v1/models."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qwen_server.api.openapi.schemas.base import Exact


class Model(Exact):
    """A model that is served."""

    id: str = Field(description="its name in the API")
    object: Literal["model"]
    created: int = Field(description="when the server started, in Unix seconds")
    owned_by: str
    root: str = Field(description="the path or repository it was loaded from")
    parent: str | None = Field(description="of an alias or a LoRA adapter: the model")
    max_model_len: int = Field(ge=1, description="tokens of prompt and answer together")


class ModelList(Exact):
    """The models that are served."""

    object: Literal["list"]
    data: list[Model]

"""The bodies of the requests that load and unload LoRA adapters. The routes check them by these."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qwen_server.api.openapi.schemas.base import Exact


class LoadAdapterRequest(Exact):
    """An adapter to load."""

    lora_name: str = Field(min_length=1, description="its name in the API")
    lora_path: str = Field(min_length=1, description="its folder, in one of --lora-dirs")
    load_inplace: bool = Field(
        default=False, strict=True, description="replace the adapter of this name, whose requests finish with it"
    )
    is_3d_lora_weight: Literal[False] | None = Field(default=None, description="weights of experts are not supported")


class UnloadAdapterRequest(Exact):
    """An adapter to unload."""

    lora_name: str = Field(min_length=1, description="its name in the API")
    lora_int_id: int | None = Field(default=None, description="not needed: the name decides")

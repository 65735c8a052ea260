"""The LoRA adapters of a QwenService: spec.adapters and spec.lora."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from qwen_operator.api.base import ApiObject, ValidationRule
from qwen_operator.api.replica import REPOSITORY, SCOPED_REPOSITORY, ModelSource, Revision

MAX_ADAPTERS = 32
DEFAULT_ADAPTERS = 16
_SOURCES = ("huggingFace", "modelScope", "path")


class HuggingFaceAdapter(ApiObject):
    """An adapter in a repository on the Hugging Face Hub."""

    repo: Annotated[str, Field(max_length=253, pattern=REPOSITORY)] = Field(
        description="The repository, such as me/news-lora."
    )
    revision: Revision = Field(default="main", description="Branch, tag or commit.")


class ModelScopeAdapter(ApiObject):
    """An adapter in a repository on ModelScope."""

    repo: Annotated[str, Field(max_length=253, pattern=SCOPED_REPOSITORY)] = Field(
        description="The repository, such as me/news-lora."
    )
    revision: Revision = Field(default="master", description="Branch, tag or commit.")


class AdapterSource(ApiObject):
    """Where an adapter comes from. Exactly one source must be set."""

    checks = (
        ValidationRule(
            f"[{', '.join(f'has(self.{name})' for name in _SOURCES)}].filter(given, given).size() == 1",
            f"exactly one of {', '.join(_SOURCES)} must be set",
            lambda source: len(source.model_dump(exclude_none=True)) == 1,
        ),
    )

    hugging_face: HuggingFaceAdapter | None = Field(
        default=None,
        description="A repository on the Hugging Face Hub. Each pod downloads it, with the token in HF_TOKEN (that of "
        "model.source, or one in engine.env).",
    )
    model_scope: ModelScopeAdapter | None = Field(
        default=None,
        description="A repository on ModelScope. Each pod downloads it, with the token in MODELSCOPE_API_TOKEN.",
    )
    path: Annotated[str, Field(min_length=2, max_length=1024, pattern=r"^/[^\x00-\x1f\x7f]*$")] | None = Field(
        default=None,
        description="A folder in the server's container: in the model's volume (`/models/...`), in the cache "
        "(`/cache/...`), or in a volume of podTemplate.",
    )


class AdapterSpec(ApiObject):
    """A LoRA adapter."""

    name: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[^\s,=*\x00-\x1f\x7f]+$")] = Field(
        description="Name of the adapter in the API: requests with this `model` use it."
    )
    source: AdapterSource = Field(description="Where the adapter comes from. Exactly one source must be set.")


def _has_default_name(name: str, source: ModelSource) -> bool:
    """Whether a name is that of the model, as far as DEFAULT_NAME_RULE reads it from the source."""
    if source.builtin is not None:
        return name == (source.builtin if source.builtin.startswith("qwen") else f"qwen-{source.builtin}")
    hub = source.hugging_face or source.model_scope
    path = hub.repo if hub is not None else source.pvc.path if source.pvc is not None else ""
    return "/" not in name and f"/{path}/".endswith(f"/{name}/")


def _no_default_name(spec: Any) -> bool:
    names = [adapter.name for adapter in spec.adapters]
    return spec.model.served_name is not None or not any(_has_default_name(name, spec.model.source) for name in names)


_IS_BUILTIN = (
    "has(self.model.source.builtin) && adapter.name == "
    "(self.model.source.builtin.startsWith('qwen') ? '' : 'qwen-') + self.model.source.builtin"
)
_IS_LAST_PART = " || ".join(
    f"has(self.model.source.{field.partition('.')[0]}) && "
    f"('/' + self.model.source.{field} + '/').endsWith('/' + adapter.name + '/')"
    for field in ("huggingFace.repo", "modelScope.repo", "pvc.path")
)
DEFAULT_NAME_RULE = ValidationRule(
    "!has(self.adapters) || has(self.model.servedName) || !self.adapters.exists(adapter, "
    f"{_IS_BUILTIN} || !adapter.name.contains('/') && ({_IS_LAST_PART}))",
    "adapters must not have the model's default name: set model.servedName, or rename the adapter",
    _no_default_name,
    "adapters",
)
"""Not for the default names that follow from an image or the name of a claim."""


class LoraSpec(ApiObject):
    """What the engine keeps room for. A change restarts the pods."""

    max_adapters: int = Field(
        default=DEFAULT_ADAPTERS, ge=1, le=MAX_ADAPTERS, description="Most adapters that are loaded at a time."
    )
    max_at_once: int = Field(
        default=4, ge=1, le=MAX_ADAPTERS, description="Most adapters in one step of the engine. Ignored on a CPU."
    )
    max_rank: Literal[8, 16, 32, 64, 128, 256, 320, 512] = Field(
        default=16, description="Highest rank of an adapter. A higher one takes more memory, also if it is not used."
    )

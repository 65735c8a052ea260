"""spec.model, spec.engine and what else decides how one replica runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from qwen_operator.api.base import (
    ApiObject,
    CountOrAuto,
    Duration,
    ObjectName,
    ShortText,
    ValidationRule,
    duration_field,
)
from qwen_operator.api.core import EnvVar, LocalObjectReference, SecretKeyRef

SOURCES = ("builtin", "huggingFace", "modelScope", "pvc", "image")
_RELATIVE_PATH = r"^[^/].*$|^$"


class HuggingFaceSource(ApiObject):
    """A repository of the Hugging Face hub."""

    repo: Annotated[str, Field(min_length=1, max_length=253)] = Field(
        description="The repository, such as Qwen/Qwen3-8B."
    )
    revision: ShortText = Field(default="main", description="Branch, tag or commit.")
    token_secret_ref: SecretKeyRef | None = Field(
        default=None, description="The access token for gated repositories; absent: anonymous."
    )


class ModelScopeSource(ApiObject):
    """A repository of ModelScope."""

    repo: Annotated[str, Field(min_length=1, max_length=253)] = Field(
        description="The repository, such as Qwen/Qwen3-8B."
    )
    revision: ShortText = Field(default="master", description="Branch, tag or commit.")
    token_secret_ref: SecretKeyRef | None = Field(default=None, description="The access token; absent: anonymous.")


class PvcSource(ApiObject):
    """A folder of a volume that holds the model already."""

    claim_name: ObjectName = Field(description="The PersistentVolumeClaim; it is mounted read-only.")
    path: Annotated[str, Field(max_length=1024, pattern=_RELATIVE_PATH)] = Field(
        default="", description="The model's folder in the volume; empty: the volume's root."
    )


class ImageSource(ApiObject):
    """An OCI image or artifact that holds the model, mounted as an image volume (Kubernetes 1.33 or newer)."""

    reference: Annotated[str, Field(min_length=1, max_length=1024)] = Field(description="The image's reference.")
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="When the image is pulled."
    )


class ModelSource(ApiObject):
    """Where the model comes from; exactly one is given."""

    checks = (
        ValidationRule(
            f"[{', '.join(f'has(self.{name})' for name in SOURCES)}].filter(given, given).size() == 1",
            f"exactly one of {', '.join(SOURCES)} must be given",
            lambda source: len(source.model_dump(exclude_none=True)) == 1,
        ),
    )

    builtin: Annotated[str, Field(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")] | None = Field(
        default=None, description="A model that is part of the server's image; `news-classifier` is one."
    )
    hugging_face: HuggingFaceSource | None = Field(default=None, description="A repository of the Hugging Face hub.")
    model_scope: ModelScopeSource | None = Field(default=None, description="A repository of ModelScope.")
    pvc: PvcSource | None = Field(default=None, description="A folder of a volume that holds the model already.")
    image: ImageSource | None = Field(
        default=None, description="An OCI image that holds the model (Kubernetes 1.33 or newer)."
    )


class ModelSpec(ApiObject):
    """The model and the name that clients use for it."""

    served_name: Annotated[str, Field(min_length=1, max_length=253)] | None = Field(
        default=None,
        description="The model's name in the API; absent: `qwen-NAME` for a built-in model, else the last part of the "
        "repository, path or image.",
    )
    source: ModelSource = Field(description="Where the model comes from; exactly one is given.")


class EngineSpec(ApiObject):
    """How vLLM runs the model."""

    device: Literal["cuda", "cpu"] = Field(default="cuda", description="What the model runs on.")
    image: Annotated[str, Field(max_length=1024)] = Field(
        default="", description="The server's image; empty: the operator's default for the device."
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="When the server's image is pulled."
    )
    image_pull_secrets: list[LocalObjectReference] = Field(
        default_factory=list, max_length=16, description="Secrets for private registries."
    )
    tensor_parallel_size: int = Field(default=1, ge=1, le=1024, description="GPUs that share each layer.")
    pipeline_parallel_size: int = Field(
        default=1, ge=1, le=1024, description="Groups of GPUs that the layers are split over."
    )
    max_model_len: int | None = Field(
        default=None, ge=1, description="Longest prompt plus answer in tokens; absent: the model's own."
    )
    gpu_memory_utilization: float = Field(
        default=0.9, gt=0, le=1, description="Share of each GPU's memory that vLLM allocates; not used on a CPU."
    )
    dtype: Literal["auto", "half", "float16", "bfloat16", "float", "float32"] = Field(
        default="auto", description="Number format of weights and activations."
    )
    quantization: Annotated[str, Field(min_length=1, max_length=63)] | None = Field(
        default=None, description="vLLM's quantization method, such as fp8; absent: what the model says."
    )
    extra_args: list[Annotated[str, Field(max_length=4096)]] = Field(
        default_factory=list,
        max_length=64,
        description="More of vLLM's own flags, each as one item (`--max-num-seqs=64`). Those that the service owns are "
        "refused by the server.",
    )
    env: list[EnvVar] = Field(
        default_factory=list,
        max_length=128,
        description="More environment variables of the server's container.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )

    @property
    def world_size(self) -> int:
        """How many GPUs one replica needs."""
        return self.tensor_parallel_size * self.pipeline_parallel_size


class GpuSpec(ApiObject):
    """The GPUs of one replica."""

    count: int | None = Field(
        default=None,
        ge=0,
        le=1024,
        description="GPUs a replica; absent: tensorParallelSize x pipelineParallelSize, and none on a CPU.",
    )
    resource_name: Annotated[str, Field(min_length=1, max_length=253)] = Field(
        default="nvidia.com/gpu", description="The extended resource that stands for a GPU."
    )


class LimitsSpec(ApiObject):
    """What one replica accepts."""

    checks = (
        ValidationRule(
            "string(self.maxConcurrentRequests) != '0'",
            "maxConcurrentRequests must be at least 1, or auto",
            lambda limits: limits.max_concurrent_requests != 0,
            "maxConcurrentRequests",
        ),
        ValidationRule(
            "self.minTemperature <= self.maxTemperature",
            "minTemperature must be at most maxTemperature",
            lambda limits: limits.min_temperature <= limits.max_temperature,
            "minTemperature",
        ),
        ValidationRule(
            "self.defaultMaxTokens <= self.maxTokens",
            "defaultMaxTokens must be at most maxTokens",
            lambda limits: limits.default_max_tokens <= limits.max_tokens,
            "defaultMaxTokens",
        ),
    )

    max_concurrent_requests: CountOrAuto = Field(
        default=3, description="Requests that run at the same time; `auto` follows the KV cache's capacity."
    )
    max_queue_size: CountOrAuto = Field(
        default=10, description="Requests that wait; the next is refused with 503. `auto` follows the completion rate."
    )
    queue_timeout: Duration = duration_field("30s", "How long a request may wait.")
    default_max_tokens: int = Field(default=100, ge=1, description="max_tokens of requests that give none.")
    max_tokens: int = Field(default=512, ge=1, description="Largest max_tokens that is accepted.")
    min_temperature: float = Field(default=0.0, ge=0, le=2, description="Smallest temperature that is accepted.")
    max_temperature: float = Field(default=1.0, ge=0, le=2, description="Largest temperature that is accepted.")
    rate_limit: Annotated[str, Field(max_length=32, pattern=r"^[1-9][0-9]*/(second|minute|hour)$")] | None = Field(
        default=None, description="Requests a client and replica, such as 600/minute; absent: unlimited."
    )


class AuthSpec(ApiObject):
    """Who may use the API."""

    api_key_secret_ref: LocalObjectReference | None = Field(
        default=None, description="A Secret; the value of each of its keys is an API key. Absent: no key is asked for."
    )

"""How one replica runs: spec.model, spec.engine, spec.limits and spec.auth."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from qwen_operator.api.base import (
    ApiObject,
    CountOrAuto,
    DataKey,
    Duration,
    ObjectName,
    ValidationRule,
    Word,
    duration_field,
    from_to,
    map_list,
)
from qwen_operator.api.core import EnvVar, LocalObjectReference, SecretKeyRef
from qwen_operator.api.flags import FLAG_RULE

SOURCES = ("builtin", "huggingFace", "modelScope", "pvc", "image")
# The models of the server's images. An image of one's own may have others.
BUILTIN_MODELS = ("news-classifier",)
_RELATIVE_PATH = r"^([^/\x00-\x1f\x7f][^\x00-\x1f\x7f]*)?$"
_REPOSITORY_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
# What git allows in a reference, without a path that leaves it.
_REVISION = r"^[^\s\x00-\x1f\x7f~^:?*\[\\./-][^\s\x00-\x1f\x7f~^:?*\[\\]*$"
_IMAGE = r"[A-Za-z0-9\[][]A-Za-z0-9._:/@+-]*"
REPOSITORY = f"^({_REPOSITORY_PART}/)?{_REPOSITORY_PART}$"
SCOPED_REPOSITORY = f"^{_REPOSITORY_PART}/{_REPOSITORY_PART}$"
Revision = Annotated[str, Field(max_length=253, pattern=_REVISION)]


class HuggingFaceSource(ApiObject):
    """A repository on the Hugging Face Hub."""

    repo: Annotated[str, Field(max_length=253, pattern=REPOSITORY)] = Field(
        description="The repository, such as Qwen/Qwen3-8B."
    )
    revision: Revision = Field(default="main", description="Branch, tag or commit.")
    token_secret_ref: SecretKeyRef | None = Field(
        default=None, description="Access token for gated repositories. Defaults to anonymous access."
    )


class ModelScopeSource(ApiObject):
    """A repository on ModelScope."""

    repo: Annotated[str, Field(max_length=253, pattern=SCOPED_REPOSITORY)] = Field(
        description="The repository, such as Qwen/Qwen3-8B."
    )
    revision: Revision = Field(default="master", description="Branch, tag or commit.")
    token_secret_ref: SecretKeyRef | None = Field(
        default=None, description="Access token. Defaults to anonymous access."
    )


class PvcSource(ApiObject):
    """A folder of a volume that already holds the model."""

    checks = (
        ValidationRule(
            "!('..' in self.path.split('/'))",
            "path must not contain .., so that it stays in the volume",
            lambda pvc: ".." not in pvc.path.split("/"),
            "path",
        ),
    )

    claim_name: ObjectName = Field(description="Name of the PersistentVolumeClaim. It is mounted read-only.")
    path: Annotated[str, Field(max_length=1024, pattern=_RELATIVE_PATH)] = Field(
        default="", description="Folder of the model in the volume. Empty means the root of the volume."
    )


class ImageSource(ApiObject):
    """An OCI image or artifact with the model, mounted as an image volume (Kubernetes 1.33+)."""

    reference: Annotated[str, Field(max_length=1024, pattern=f"^{_IMAGE}$")] = Field(
        description="Reference of the image."
    )
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="When to pull the image."
    )


class ModelSource(ApiObject):
    """Where the model comes from. Exactly one source must be set."""

    checks = (
        ValidationRule(
            f"[{', '.join(f'has(self.{name})' for name in SOURCES)}].filter(given, given).size() == 1",
            f"exactly one of {', '.join(SOURCES)} must be set",
            lambda source: len(source.model_dump(exclude_none=True)) == 1,
        ),
    )

    builtin: Annotated[str, Field(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")] | None = Field(
        default=None, description="A model that is part of the server's image, such as `news-classifier`."
    )
    hugging_face: HuggingFaceSource | None = Field(default=None, description="A repository on the Hugging Face Hub.")
    model_scope: ModelScopeSource | None = Field(default=None, description="A repository on ModelScope.")
    pvc: PvcSource | None = Field(default=None, description="A folder of a volume that already holds the model.")
    image: ImageSource | None = Field(
        default=None, description="An OCI image that holds the model (Kubernetes 1.33 or newer)."
    )


class TemplateRef(ApiObject):
    """A chat template in a ConfigMap."""

    name: ObjectName = Field(description="Name of the ConfigMap.")
    key: DataKey = Field(default="chat_template.jinja", description="Key of the template in the ConfigMap, in Jinja.")


class ChatTemplate(ApiObject):
    """How the server turns a conversation into a prompt."""

    config_map_ref: TemplateRef = Field(description="The template.")


class ModelSpec(ApiObject):
    """The model and the name that clients use for it."""

    served_name: Word | None = Field(
        default=None,
        description="Name of the model in the API. Defaults to `qwen-NAME` for a built-in model, else to the last part "
        "of the repository, path or image.",
    )
    aliases: list[Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[^,*\s\x00-\x1f\x7f]*\*?$")]] = Field(
        default_factory=list,
        max_length=32,
        description="Further names that clients may use for the model, such as those that an agent's sub-agents ask "
        "for. An ending `*` stands for any ending (`claude-haiku-*`).",
    )
    chat_template: ChatTemplate | None = Field(
        default=None,
        description="A chat template to use instead of the model's own. Pods read it when they start: restart them "
        "after a change of the ConfigMap (`kubectl rollout restart deployment/NAME`).",
    )
    source: ModelSource = Field(description="Where the model comes from. Exactly one source must be set.")
    task: Literal["generate", "embed", "rerank", "classify"] = Field(
        default="generate",
        description="What the model is for: to generate text, or to embed, rerank or classify texts, as "
        "docs/embeddings.md describes. The paths of the API follow from it.",
    )


class BundleRef(ApiObject):
    """A bundle of certificates in a ConfigMap."""

    name: ObjectName = Field(description="Name of the ConfigMap.")
    key: DataKey = Field(default="ca-bundle.crt", description="Key of the bundle in the ConfigMap, in PEM format.")


class TrustedCA(ApiObject):
    """The certificate authorities that the server trusts."""

    config_map_ref: BundleRef = Field(description="The bundle.")


class EngineSpec(ApiObject):
    """How vLLM runs the model."""

    device: Literal["cuda", "cpu"] = Field(default="cuda", description="Device that the model runs on.")
    image: Annotated[str, Field(max_length=1024, pattern=f"^({_IMAGE})?$")] = Field(
        default="", description="Image of the server. Empty uses the operator's default for the device."
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="When to pull the server's image."
    )
    image_pull_secrets: list[LocalObjectReference] = Field(
        default_factory=list, max_length=16, description="Secrets for pulling from private registries."
    )
    trusted_ca: TrustedCA | None = Field(
        default=None,
        alias="trustedCA",
        description="Certificate authorities for mirrors and registries of models inside a company. They replace those "
        "of the image, so the bundle must be a whole one: it includes the public authorities that are needed. "
        "Defaults to those of the image.",
    )
    tensor_parallel_size: int = Field(default=1, ge=1, le=1024, description="GPUs that share each layer.")
    pipeline_parallel_size: int = Field(
        default=1, ge=1, le=1024, description="Groups of GPUs that the layers are distributed over."
    )
    max_model_len: int | None = Field(
        default=None, ge=2, description="Maximum length of prompt plus answer, in tokens. Defaults to the model's own."
    )
    gpu_memory_utilization: float = Field(
        default=0.9, gt=0, le=1, description="Fraction of each GPU's memory that vLLM allocates. Ignored on a CPU."
    )
    dtype: Literal["auto", "half", "float16", "bfloat16", "float", "float32"] = Field(
        default="auto",
        description="Data type of weights and activations. `auto` is the model's own (float16 or bfloat16); for a "
        "built-in model on a CPU without AVX-512 it is float32.",
    )
    quantization: Annotated[str, Field(max_length=63, pattern=r"^[A-Za-z0-9][-_.A-Za-z0-9]*$")] | None = Field(
        default=None, description="Quantization method of vLLM, such as fp8. Defaults to the model's own."
    )
    restarts: Annotated[int, Field(ge=0, le=100)] | None = Field(
        default=None,
        description="How often the server may restart a dead engine within 10 minutes, before its container restarts. "
        "0 turns it off. Defaults to that of the server.",
    )
    extra_args: list[Annotated[str, Field(min_length=1, max_length=4096), FLAG_RULE]] = Field(
        default_factory=list,
        max_length=64,
        description="Additional flags of vLLM, one per item (`--max-num-seqs=64`). Flags that the operator or the "
        "server sets are refused.",
    )
    env: list[EnvVar] = Field(
        default_factory=list,
        max_length=128,
        description="Additional environment variables of the server's container.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )

    @property
    def world_size(self) -> int:
        """The number of GPUs that one replica needs."""
        return self.tensor_parallel_size * self.pipeline_parallel_size


class TenantShare(ApiObject):
    """The share of one tenant."""

    name: DataKey = Field(description="The tenant: a key of the Secret in `auth.apiKeySecretRef`.")
    weight: int = Field(ge=1, le=1000, description="Its weight. A tenant that is not listed has the weight 1.")


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
        default=3, description="Requests that run at the same time. `auto` follows the capacity of the KV cache."
    )
    max_queue_size: CountOrAuto = Field(
        default=10, description="Requests that wait. Further requests get a 503. `auto` follows the completion rate."
    )
    queue_timeout: Annotated[Duration, from_to("1ms", "1h")] = duration_field(
        "30s", "How long a request may wait in the queue."
    )
    default_max_tokens: int = Field(default=100, ge=1, description="max_tokens of requests that do not set it.")
    max_tokens: int = Field(default=512, ge=1, description="Maximum for max_tokens.")
    on_exceed: Literal["Refuse", "Clamp"] = Field(
        default="Refuse",
        description="What to do with a request whose max_tokens is above the maximum: `Refuse` answers 400, `Clamp` "
        "lowers it to the maximum.",
    )
    max_stops: int = Field(default=32, ge=1, le=1024, description="Maximum number of stop strings of a request.")
    min_temperature: float = Field(default=0.0, ge=0, le=2, description="Minimum for temperature.")
    max_temperature: float = Field(default=1.0, ge=0, le=2, description="Maximum for temperature.")
    rate_limit: Annotated[str, Field(max_length=32, pattern=r"^[1-9][0-9]*/(second|minute|hour)$")] | None = Field(
        default=None,
        description="Requests per API key and replica, such as 600/minute. Without keys, all clients share the rate. "
        "Defaults to unlimited.",
    )
    tenants: list[TenantShare] = map_list(
        ["name"],
        "Weights of tenants. Tenants that wait for the model share its slots and the queue in proportion to their "
        "weights.",
        max_items=128,
    )
    tenant_reserve: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="Slots that tenants above their share leave free while others send requests, too: a request of a "
        "tenant below its share then finds a slot at once.",
    )


class AuthSpec(ApiObject):
    """Who may use the API."""

    api_key_secret_ref: LocalObjectReference | None = Field(
        default=None, description="A Secret whose values are API keys. By default no key is required."
    )
    admin_key_secret_ref: LocalObjectReference | None = Field(
        default=None,
        description="A Secret whose values are keys of administrators. They are API keys, too, and open the server's "
        "admin paths. By default these paths do not exist.",
    )
    metrics_token_secret_ref: SecretKeyRef | None = Field(
        default=None,
        description="A token for the metrics of the pods. With it they answer only to this token, to the operator's "
        "own and to API keys, and the ServiceMonitor sends it. The operator needs the chart's value "
        "`monitoring.metricsKey.secretName`.",
    )

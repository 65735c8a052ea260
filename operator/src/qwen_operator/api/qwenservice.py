"""The QwenService itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

from pydantic import Field, ValidationError

from qwen_operator.api.adapters import DEFAULT_ADAPTERS, DEFAULT_NAME_RULE, MAX_ADAPTERS, AdapterSpec, LoraSpec
from qwen_operator.api.alerting import AlertSpec, RemediationSpec
from qwen_operator.api.base import ApiObject, ValidationRule, map_list, section
from qwen_operator.api.bounds import excess
from qwen_operator.api.exposure import IngressSpec, RouteSpec, ServiceExposure
from qwen_operator.api.gpu import GpuSpec
from qwen_operator.api.metadata import ChildMetadata, PodTemplate
from qwen_operator.api.objectives import SloSpec
from qwen_operator.api.operations import (
    CacheSpec,
    DisruptionSpec,
    DrainSpec,
    MonitoringSpec,
    NetworkPolicySpec,
    ProbesSpec,
    RolloutSpec,
    SchedulingSpec,
)
from qwen_operator.api.replica import BUILTIN_MODELS, AuthSpec, EngineSpec, LimitsSpec, ModelSpec
from qwen_operator.api.resources import Resources
from qwen_operator.api.scaling import AutoscalingSpec
from qwen_operator.api.startup import startup_timeout
from qwen_operator.api.status import ServiceStatus, read_status

GROUP: Final = "qwen-vllm.io"
VERSION: Final = "v1alpha1"
KIND: Final = "QwenService"
PLURAL: Final = "qwenservices"
_OF_TOKENS: Final = ("HighTTFT", "LowThroughput")
"""The alerts that a service without generated tokens cannot raise."""
_LONGEST_INTERVAL: Final = timedelta(minutes=2)
"""Between two scrapes: a rate over five minutes needs two of them at least."""


class InvalidSpecError(Exception):
    """A QwenService that the API server accepted but whose spec is not valid.

    Attributes:
        field: the path of the invalid field, such as `spec.engine.dtype`.

        detail: what is wrong with it.
    """

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field}: {detail}")
        self.field = field
        self.detail = detail


class QwenServiceSpec(ApiObject):
    """The desired state of a QwenService."""

    checks = (
        ValidationRule(
            "!has(self.gpu.count) || self.engine.device != 'cuda' || "
            "self.gpu.count >= self.engine.tensorParallelSize * self.engine.pipelineParallelSize",
            "gpu.count must be at least engine.tensorParallelSize x engine.pipelineParallelSize",
            lambda spec: (
                spec.gpu.count is None or spec.engine.device != "cuda" or spec.gpu.count >= spec.engine.world_size
            ),
            "gpu.count",
        ),
        ValidationRule(
            "!has(self.gpu.count) || self.gpu.count == 0 || self.engine.device != 'cpu'",
            "gpu.count must be 0 or unset if engine.device is cpu: the GPUs would be idle",
            lambda spec: not spec.gpu.count or spec.engine.device != "cpu",
            "gpu.count",
        ),
        ValidationRule(
            "!has(self.gpu.resourceClaims) || self.gpu.resourceClaims.size() == 0 || self.engine.device != 'cpu'",
            "gpu.resourceClaims must be empty if engine.device is cpu: the GPUs would be idle",
            lambda spec: not spec.gpu.resource_claims or spec.engine.device != "cpu",
            "gpu.resourceClaims",
        ),
        ValidationRule(
            "!(has(self.resources.requests) && self.gpu.resourceName in self.resources.requests) && "
            "!(has(self.resources.limits) && self.gpu.resourceName in self.resources.limits)",
            "resources must not contain gpu.resourceName: gpu.count sets it",
            lambda spec: (
                spec.gpu.resource_name not in spec.resources.requests
                and spec.gpu.resource_name not in spec.resources.limits
            ),
            "resources",
        ),
        ValidationRule(
            "!has(self.engine.maxModelLen) || self.engine.maxModelLen > self.limits.defaultMaxTokens",
            "engine.maxModelLen must be above limits.defaultMaxTokens: it bounds prompt and answer",
            lambda spec: (
                spec.engine.max_model_len is None or spec.engine.max_model_len > spec.limits.default_max_tokens
            ),
            "engine.maxModelLen",
        ),
        ValidationRule(
            f"!has(self.model.source.builtin) || self.engine.image != '' || "
            f"self.model.source.builtin in {list(BUILTIN_MODELS)}",
            f"model.source.builtin must be {' or '.join(BUILTIN_MODELS)}: the default images hold no other model",
            # The images may be newer than the operator, which therefore does not check it.
            lambda spec: True,
            "model.source.builtin",
        ),
        ValidationRule(
            "!has(self.adapters) || self.adapters.all(adapter, "
            "!(has(self.model.servedName) && adapter.name == self.model.servedName) && "
            "!(has(self.model.aliases) && adapter.name in self.model.aliases))",
            "adapters must not have a name of the model: model.servedName or one of model.aliases",
            lambda spec: all(
                adapter.name not in (spec.model.served_name, *spec.model.aliases) for adapter in spec.adapters
            ),
            "adapters",
        ),
        DEFAULT_NAME_RULE,
        ValidationRule(
            f"!has(self.adapters) || self.adapters.size() <= "
            f"(has(self.lora) ? self.lora.maxAdapters : {DEFAULT_ADAPTERS})",
            f"adapters must not be more than lora.maxAdapters ({DEFAULT_ADAPTERS} by default)",
            lambda spec: len(spec.adapters) <= (spec.lora or LoraSpec()).max_adapters,
            "adapters",
        ),
        ValidationRule(
            "!has(self.limits.tenants) || self.limits.tenants.size() == 0 || has(self.auth.apiKeySecretRef)",
            "limits.tenants needs auth.apiKeySecretRef, whose keys are the tenants",
            lambda spec: not spec.limits.tenants or spec.auth.api_key_secret_ref is not None,
            "limits.tenants",
        ),
        ValidationRule(
            "self.limits.tenantReserve == 0 || has(self.auth.apiKeySecretRef)",
            "limits.tenantReserve needs auth.apiKeySecretRef, whose keys are the tenants",
            lambda spec: not spec.limits.tenant_reserve or spec.auth.api_key_secret_ref is not None,
            "limits.tenantReserve",
        ),
        ValidationRule(
            "!has(self.monitoring.networkPolicyFrom) || self.networkPolicy.enabled",
            "monitoring.networkPolicyFrom needs networkPolicy.enabled: true: else everybody may scrape",
            lambda spec: spec.monitoring.network_policy_from is None or spec.network_policy.enabled,
            "monitoring.networkPolicyFrom",
        ),
        ValidationRule(
            "!has(self.slo) || self.monitoring.prometheusRule != 'Disabled'",
            "slo needs monitoring.prometheusRule: its alerts are part of the PrometheusRule",
            lambda spec: spec.slo is None or spec.monitoring.prometheus_rule != "Disabled",
            "slo",
        ),
        ValidationRule(
            "self.model.task == 'generate' || !has(self.slo) || !has(self.slo.ttft)",
            "slo.ttft must be unset unless model.task is generate: there is no first token",
            lambda spec: spec.model.task == "generate" or spec.slo is None or spec.slo.ttft is None,
            "slo.ttft",
        ),
        ValidationRule(
            "self.model.task == 'generate' || !has(self.alerts) || !self.alerts.exists(alert, "
            "alert.name in ['HighTTFT', 'LowThroughput'] && has(alert.threshold))",
            "alerts must not set HighTTFT or LowThroughput unless model.task is generate: no token is generated",
            lambda spec: (
                spec.model.task == "generate"
                or not any(a.name in _OF_TOKENS and a.threshold is not None for a in spec.alerts)
            ),
            "alerts",
        ),
        ValidationRule(
            "self.model.task == 'generate' || self.model.task == 'embed' || !has(self.model.source.builtin) || "
            "self.engine.image != ''",
            "model.task must be generate or embed with model.source.builtin and a default image",
            lambda spec: (
                spec.model.task in ("generate", "embed") or spec.model.source.builtin is None or spec.engine.image != ""
            ),
            "model.task",
        ),
        ValidationRule(
            "!has(self.slo) || duration(self.monitoring.interval) <= duration('2m')",
            "monitoring.interval must be at most 2m with slo, whose shortest window is 5m",
            lambda spec: spec.slo is None or spec.monitoring.interval <= _LONGEST_INTERVAL,
            "monitoring.interval",
        ),
    )

    model: ModelSpec = Field(description="The model and the name that clients use for it.")
    engine: EngineSpec = section(EngineSpec, "How vLLM runs the model.")
    adapters: list[AdapterSpec] = map_list(
        ["name"],
        "LoRA adapters of the model. Running pods load and unload them without a restart; only the first one of a "
        "service without lora restarts the pods.",
        MAX_ADAPTERS,
    )
    lora: LoraSpec | None = Field(
        default=None,
        description="Room for LoRA adapters. Set it (`{}` is enough) to add the first adapter and to remove the last "
        "one without a restart. Defaults to on if there are adapters.",
    )
    # No default in the CRD: a removed field would become 1, and a busy service would lose its pods.
    replicas: int = Field(
        default=1,
        ge=0,
        le=1000,
        description="Number of pods. Autoscalers write this field, too. If it is left out, the operator writes it: a "
        "running service keeps the number that it has, a new one starts with autoscaling.minReplicas, else 1.",
        json_schema_extra={"default": None},
    )
    gpu: GpuSpec = section(GpuSpec, "The GPUs of one replica.")
    resources: Resources = section(Resources, "Requests and limits of the server's container. GPUs come from gpu.")
    limits: LimitsSpec = section(LimitsSpec, "What one replica accepts.")
    auth: AuthSpec = section(AuthSpec, "Who may use the API.")
    service: ServiceExposure = section(ServiceExposure, "The Service in front of the replicas.")
    route: RouteSpec | None = Field(default=None, description="An HTTPRoute, created if the Gateway API is installed.")
    ingress: IngressSpec | None = Field(default=None, description="An Ingress to the Service. Off by default.")
    scheduling: SchedulingSpec = section(SchedulingSpec, "Where the pods run.")
    cache: CacheSpec | None = Field(
        default=None, description="A volume that keeps downloaded weights. By default each pod downloads its own."
    )
    monitoring: MonitoringSpec = section(MonitoringSpec, "What Prometheus scrapes and evaluates.")
    autoscaling: AutoscalingSpec | None = Field(default=None, description="Scaling by load. Off by default.")
    disruption: DisruptionSpec = section(DisruptionSpec, "Voluntary disruptions, such as a node drain.")
    network_policy: NetworkPolicySpec = section(NetworkPolicySpec, "Who may reach the pods.")
    rollout: RolloutSpec = section(RolloutSpec, "How a change reaches the replicas.")
    probes: ProbesSpec = section(ProbesSpec, "Overrides of the kubelet's probes.")
    drain: DrainSpec = section(DrainSpec, "How a pod terminates.")
    alerts: list[AlertSpec] = map_list(["name"], "Overrides of the alert catalogue, by name.", 32)
    slo: SloSpec | None = Field(
        default=None, description="Service level objectives, which make burn-rate alerts in the PrometheusRule."
    )
    remediation: RemediationSpec = section(RemediationSpec, "What the operator does about unhealthy replicas.")
    metadata: ChildMetadata = section(
        ChildMetadata, "Labels and annotations of everything that the operator creates. A change restarts the pods."
    )
    pod_template: PodTemplate = section(PodTemplate, "Changes to the pod template, applied last.")

    @property
    def gpu_count(self) -> int:
        """The number of GPUs of one replica; 0 on a CPU."""
        if self.engine.device == "cpu":
            return 0
        return self.engine.world_size if self.gpu.count is None else self.gpu.count

    @property
    def lora_room(self) -> LoraSpec | None:
        """The room for LoRA adapters; None if the engine has none."""
        return self.lora or (LoraSpec() if self.adapters else None)

    @property
    def min_ready_replicas(self) -> int:
        """`remediation.minReadyReplicas` as a number of pods; percentages are rounded up."""
        value = self.remediation.min_ready_replicas
        return value if isinstance(value, int) else math.ceil(int(value[:-1]) * self.replicas / 100)

    @property
    def max_restarts(self) -> int:
        """The restart budget as a number; by default 10 % of the replicas, from 3 to 20."""

        value = self.remediation.restart_budget.max_restarts
        if value is None:
            return min(20, max(3, math.ceil(self.replicas / 10)))
        return value if isinstance(value, int) else math.ceil(int(value[:-1]) * self.replicas / 100)


@dataclass(frozen=True)
class QwenService:
    """One QwenService object.

    Attributes:
        replicas_given: whether the spec says the number of replicas. If not, `spec.replicas` is the
            number of pods in the status.
    """

    name: str
    namespace: str
    uid: str
    generation: int
    spec: QwenServiceSpec
    status: ServiceStatus
    replicas_given: bool = True

    @classmethod
    def parse(cls, obj: Mapping[str, Any]) -> QwenService:
        """Parses an object of the API. Raises InvalidSpecError, which names the field."""
        metadata = obj["metadata"]
        for field, value in (obj.get("spec") or {}).items():
            if (problem := excess(value)) is not None:
                raise InvalidSpecError(f"spec.{field}", problem)
        try:
            spec = QwenServiceSpec.model_validate(obj.get("spec") or {})
        except ValidationError as error:
            raise _invalid(error) from error
        service = cls(
            name=metadata["name"],
            namespace=metadata.get("namespace", "default"),
            uid=metadata.get("uid", ""),
            generation=int(metadata.get("generation", 0)),
            spec=_with_startup_timeout(spec),
            status=parse_status(obj),
            replicas_given="replicas" in spec.model_fields_set,
        )
        return service if service.replicas_given else service.with_replicas(max(1, service.status.replicas))

    def with_replicas(self, replicas: int) -> QwenService:
        """The same service with this number of replicas."""
        return replace(self, spec=self.spec.model_copy(update={"replicas": replicas}))


def _with_startup_timeout(spec: QwenServiceSpec) -> QwenServiceSpec:
    """The spec with the start-up time that follows from its model, unless it gives one.

    `model_fields_set` keeps what was given: only that counts as a change of the spec.
    """
    rollout = spec.rollout
    if "startup_timeout" in rollout.model_fields_set:
        return spec
    values = {**dict(rollout), "startup_timeout": startup_timeout(spec.model.source)}
    derived = RolloutSpec.model_construct(_fields_set=set(rollout.model_fields_set), **values)
    return spec.model_copy(update={"rollout": derived})


def remediation_spec(obj: Mapping[str, Any]) -> QwenServiceSpec | None:
    """The spec of an object with only what remediation needs; None if that cannot be read either.

    An error elsewhere in the spec must not end the care for pods that run.
    """
    written = obj.get("spec") or {}
    needed = {name: written[name] for name in ("replicas", "alerts", "remediation", "drain") if name in written}
    for name, field in (("engine", "device"), ("rollout", "startupTimeout")):
        given = written.get(name)
        if isinstance(given, Mapping) and field in given:
            needed[name] = {field: given[field]}
    try:
        return QwenServiceSpec.model_validate({**needed, "model": {"source": {"builtin": BUILTIN_MODELS[0]}}})
    except ValidationError:
        return None


def parse_status(obj: Mapping[str, Any]) -> ServiceStatus:
    """The object's status without what cannot be read, which another version may have written."""
    return read_status(obj.get("status"))


def _invalid(error: ValidationError) -> InvalidSpecError:
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    context = first.get("ctx") or {}
    if first["type"] == "rule" and context.get("field"):
        path.append(str(context["field"]))
    return InvalidSpecError(".".join(["spec", *path]), first["msg"])

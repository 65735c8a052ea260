"""How a service is exposed, placed, scaled, rolled out and watched."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from qwen_operator.api.base import (
    ApiObject,
    Duration,
    IntOrPercent,
    ObjectName,
    Quantity,
    ShortText,
    ValidationRule,
    Window,
    duration_field,
    from_to,
    parse_quantity,
    section,
)
from qwen_operator.api.core import Affinity, Labels, NetworkPolicyPeer, Toleration, TopologySpreadConstraint
from qwen_operator.api.metadata import Annotations, OwnLabels

OptionalName = Annotated[str, Field(max_length=253, pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$")]
Hostname = Annotated[str, Field(max_length=253, pattern=r"^(\*\.)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
Percentage = Annotated[str, Field(max_length=8, pattern=r"^[1-9][0-9]?(\.[0-9]+)?$")]
Switch = Literal["Auto", "Enabled", "Disabled"]


class ServiceExposure(ApiObject):
    """The Service in front of the replicas."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = Field(
        default="ClusterIP", description="Type of the Service."
    )
    port: int = Field(default=8000, ge=1, le=65535, description="Port of the Service.")
    annotations: Annotations = Field(default_factory=dict, max_length=64, description="Annotations of the Service.")


class ParentRef(ApiObject):
    """A Gateway that the route attaches to."""

    name: ObjectName = Field(description="Name of the Gateway.")
    namespace: Annotated[str, Field(max_length=63)] | None = Field(
        default=None, description="Namespace of the Gateway. Defaults to that of the QwenService."
    )
    section_name: ShortText | None = Field(default=None, description="Listener. Defaults to all of them.")
    port: int | None = Field(default=None, ge=1, le=65535, description="Port. Defaults to all of them.")


class RouteSpec(ApiObject):
    """An HTTPRoute, created if the Gateway API is installed."""

    hostnames: list[Hostname] = Field(default_factory=list, max_length=16, description="Host names. Empty matches all.")
    parent_refs: list[ParentRef] = Field(min_length=1, max_length=32, description="The Gateways.")


class SchedulingSpec(ApiObject):
    """Where the pods run."""

    node_selector: Labels = Field(default_factory=dict, max_length=32, description="Labels that the nodes must have.")
    tolerations: list[Toleration] = Field(
        default_factory=list, max_length=64, description="Taints that the pods tolerate."
    )
    affinity: Affinity = section(Affinity, "Affinities of the pods.")
    topology_spread_constraints: list[TopologySpreadConstraint] = Field(
        default_factory=list,
        max_length=16,
        description="How the pods spread. Empty spreads them over nodes and zones where possible.",
    )
    priority_class_name: OptionalName = Field(
        default="", description="Priority class of the pods. Empty uses the cluster's default."
    )
    runtime_class_name: OptionalName = Field(
        default="", description="Runtime class of the pods, such as nvidia. Empty uses the cluster's default."
    )


_SIZE = ValidationRule(
    "quantity(string(self)).compareTo(quantity('1Mi')) >= 0",
    "must be at least 1Mi",
    lambda size: parse_quantity(size) >= parse_quantity("1Mi"),
)


class CacheSpec(ApiObject):
    """A volume that keeps downloaded weights."""

    checks = (
        ValidationRule(
            "self.existingClaim == '' || self.storageClassName == ''",
            "storageClassName must not be set with existingClaim: that claim has its own",
            lambda cache: not (cache.existing_claim and cache.storage_class_name),
            "storageClassName",
        ),
    )

    size: Annotated[Quantity, _SIZE] = Field(
        default="100Gi", description="Size of the claim that the operator creates."
    )
    storage_class_name: OptionalName = Field(
        default="", description="Storage class of the claim. Empty uses the cluster's default."
    )
    access_modes: list[Literal["ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"]] = Field(
        default=["ReadWriteOnce"],
        min_length=1,
        max_length=3,
        description="Access modes of the claim. Several replicas need ReadWriteMany.",
    )
    existing_claim: OptionalName = Field(
        default="", description="Name of an existing claim to use instead of a new one."
    )
    retain: bool = Field(default=True, description="Whether the claim is kept when the QwenService is deleted.")
    download: Literal["Job", "Pods"] = Field(
        default="Job",
        description="Who downloads a model from Hugging Face or ModelScope: a Job, before the pods start, or each pod what "
        "it lacks. With the access mode ReadWriteOncePod it is always the pods.",
    )


class MonitoringSpec(ApiObject):
    """What Prometheus scrapes and evaluates."""

    service_monitor: Switch = Field(
        default="Auto", description="Whether to create a ServiceMonitor. Auto: if that API is installed."
    )
    prometheus_rule: Switch = Field(
        default="Auto", description="Whether to create a PrometheusRule. Auto: if that API is installed."
    )
    interval: Annotated[Duration, from_to("1s", "1h")] = duration_field("15s", "How often Prometheus scrapes.")
    labels: OwnLabels = Field(
        default_factory=dict,
        max_length=32,
        description="Additional labels of both, so that your Prometheus selects them.",
    )


class ScalingTarget(ApiObject):
    """The target of the autoscaler."""

    waiting_requests_per_replica: int = Field(default=5, ge=1, description="Queued requests per replica.")


class AutoscalingSpec(ApiObject):
    """Scaling by load. The autoscaler then owns spec.replicas."""

    checks = (
        ValidationRule(
            "self.maxReplicas >= self.minReplicas",
            "maxReplicas must be at least minReplicas",
            lambda scaling: scaling.max_replicas >= scaling.min_replicas,
            "maxReplicas",
        ),
        ValidationRule(
            "self.scaler != 'HPA' || self.minReplicas >= 1",
            "minReplicas must be at least 1 with the scaler HPA; KEDA can scale to zero",
            lambda scaling: scaling.scaler != "HPA" or scaling.min_replicas >= 1,
            "minReplicas",
        ),
    )

    min_replicas: int = Field(default=1, ge=0, le=1000, description="Minimum number of replicas.")
    max_replicas: int = Field(ge=1, le=1000, description="Maximum number of replicas.")
    scaler: Literal["HPA", "KEDA"] = Field(default="HPA", description="What scales the service.")
    target: ScalingTarget = section(ScalingTarget, "The target of the autoscaler.")
    scale_down_stabilization: Annotated[Duration, from_to("0s", "1h")] = duration_field(
        "300s", "How long the load must be low before replicas are removed."
    )


class DisruptionSpec(ApiObject):
    """Voluntary disruptions, such as a node's drain."""

    pod_disruption_budget: Literal["Auto", "Disabled"] = Field(
        default="Auto", description="Auto: at most one pod at a time, unless another budget already selects the pods."
    )


class NetworkPolicySpec(ApiObject):
    """Who may reach the pods."""

    checks = (
        ValidationRule(
            "self.enabled || !has(self.from) || self.from.size() == 0",
            "from needs enabled: true: without a NetworkPolicy everybody may send requests",
            lambda policy: policy.enabled or not policy.from_,
            "from",
        ),
    )

    enabled: bool = Field(default=False, description="Whether to create a NetworkPolicy.")
    from_: list[NetworkPolicyPeer] = Field(
        default_factory=list,
        alias="from",
        max_length=32,
        description="Who may send requests. The operator always may. Empty allows every pod in the namespace.",
    )


def _is_zero(value: int | str | None) -> bool:
    return value in (0, "0%")


class RolloutSpec(ApiObject):
    """How a change reaches the replicas."""

    checks = (
        ValidationRule(
            "!has(self.maxSurge) || !has(self.maxUnavailable) || "
            "!(string(self.maxSurge) in ['0', '0%'] && string(self.maxUnavailable) in ['0', '0%'])",
            "maxSurge and maxUnavailable must not both be 0: no pod could be replaced",
            lambda rollout: not (_is_zero(rollout.max_surge) and _is_zero(rollout.max_unavailable)),
            "maxSurge",
        ),
    )

    max_surge: IntOrPercent | None = Field(
        default=None, description="Additional pods during a rollout. Defaults to 0 on GPUs and 1 on CPUs."
    )
    max_unavailable: IntOrPercent | None = Field(
        default=None, description="Unavailable pods during a rollout. Defaults to 1 if maxSurge is 0, else 0."
    )
    min_ready_seconds: int = Field(
        default=60, ge=0, le=3600, description="Seconds that a new pod must be ready before it counts as available."
    )
    startup_timeout: Annotated[Duration, from_to("1s", "168h")] = duration_field(
        "30m", "How long a pod may take to become ready."
    )
    on_operator_upgrade: Literal["Defer", "Apply"] = Field(
        default="Defer",
        description="What happens when only a new version of the operator, or its default images, would change the "
        "pods. Defer: they change with the next change of the spec. Apply: they are rolled out at once.",
    )


class ProbeSpec(ApiObject):
    """Overrides of one probe."""

    period_seconds: int | None = Field(default=None, ge=1, le=3600, description="Seconds between two probes.")
    timeout_seconds: int | None = Field(default=None, ge=1, le=3600, description="Seconds after which a probe fails.")
    failure_threshold: int | None = Field(
        default=None, ge=1, le=100000, description="Consecutive failures until the probe takes effect."
    )


class ProbesSpec(ApiObject):
    """Overrides of the kubelet's probes."""

    startup: ProbeSpec = section(ProbeSpec, "Startup probe. By default every 5 s until rollout.startupTimeout is over.")
    readiness: ProbeSpec = section(ProbeSpec, "Readiness probe. By default every 5 s, with three failures allowed.")
    liveness: ProbeSpec = section(ProbeSpec, "Liveness probe. By default every 10 s, with six failures allowed.")


class DrainSpec(ApiObject):
    """How a pod terminates."""

    timeout: Annotated[Duration, from_to("0s", "24h")] = duration_field(
        "60s", "How long accepted requests may take to finish when a pod terminates."
    )


class LatencyObjective(ApiObject):
    """A latency and the percentage of requests that must meet it."""

    threshold: Annotated[Duration, from_to("1ms", "1h")] = Field(description="Latency.")
    objective: Percentage = Field(description="Percentage of requests, as a string.")


class SloSpec(ApiObject):
    """Service level objectives, for burn-rate alerts."""

    availability: Percentage | None = Field(
        default=None, description="Percentage of requests that must succeed, as a string, such as 99.5."
    )
    ttft: LatencyObjective | None = Field(default=None, description="Time to the first token.")
    window: Window = duration_field("30d", "Window of the objectives.")

"""How a service is exposed, placed, scaled, rolled out and watched."""

from __future__ import annotations

from typing import Annotated, Any, Literal

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
    section,
)
from qwen_operator.api.core import Affinity, Labels, NetworkPolicyPeer, Toleration, TopologySpreadConstraint

Annotations = dict[str, Annotated[str, Field(max_length=4096)]]
Switch = Literal["Auto", "Enabled", "Disabled"]


class ServiceExposure(ApiObject):
    """The Service in front of the replicas."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = Field(default="ClusterIP", description="Its type.")
    port: int = Field(default=8000, ge=1, le=65535, description="The port that it listens on.")
    annotations: Annotations = Field(default_factory=dict, max_length=64, description="Its annotations.")


class ParentRef(ApiObject):
    """A Gateway that the route attaches to."""

    name: ObjectName = Field(description="Name of the Gateway.")
    namespace: Annotated[str, Field(max_length=63)] | None = Field(
        default=None, description="Its namespace; absent: that of the QwenService."
    )
    section_name: ShortText | None = Field(default=None, description="Its listener; absent: all of them.")
    port: int | None = Field(default=None, ge=1, le=65535, description="Its port; absent: all of them.")


class RouteSpec(ApiObject):
    """An HTTPRoute, made where the Gateway API exists."""

    hostnames: list[ShortText] = Field(default_factory=list, max_length=16, description="Host names; none: all.")
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
        description="How the pods spread; empty: over nodes and zones as well as possible.",
    )
    priority_class_name: Annotated[str, Field(max_length=253)] = Field(
        default="", description="Their priority class; empty: the cluster's default."
    )
    runtime_class_name: Annotated[str, Field(max_length=253)] = Field(
        default="", description="Their runtime class, such as nvidia; empty: the cluster's default."
    )


class CacheSpec(ApiObject):
    """A volume that keeps downloaded weights."""

    size: Quantity = Field(default="100Gi", description="Size of the claim that is made.")
    storage_class_name: Annotated[str, Field(max_length=253)] = Field(
        default="", description="Its storage class; empty: the cluster's default."
    )
    access_modes: list[Literal["ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"]] = Field(
        default=["ReadWriteOnce"],
        min_length=1,
        max_length=3,
        description="Its access modes; several replicas need ReadWriteMany.",
    )
    existing_claim: Annotated[str, Field(max_length=253)] = Field(
        default="", description="Use this claim instead of making one."
    )
    retain: bool = Field(default=True, description="Keep the claim when the QwenService is deleted.")


class MonitoringSpec(ApiObject):
    """What Prometheus gets to know."""

    service_monitor: Switch = Field(default="Auto", description="ServiceMonitor; Auto: where that API exists.")
    prometheus_rule: Switch = Field(default="Auto", description="PrometheusRule; Auto: where that API exists.")
    interval: Duration = duration_field("15s", "How often Prometheus scrapes.")
    labels: Labels = Field(
        default_factory=dict, max_length=32, description="More labels, so that your Prometheus selects them."
    )


class ScalingTarget(ApiObject):
    """What the autoscaler aims at."""

    waiting_requests_per_replica: int = Field(default=5, ge=1, description="Requests in the queue, a replica.")


class AutoscalingSpec(ApiObject):
    """Scaling by load; the scaler then owns spec.replicas."""

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

    min_replicas: int = Field(default=1, ge=0, le=1000, description="Fewest replicas.")
    max_replicas: int = Field(ge=1, le=1000, description="Most replicas.")
    scaler: Literal["HPA", "KEDA"] = Field(default="HPA", description="Who scales.")
    target: ScalingTarget = section(ScalingTarget, "What the scaler aims at.")
    scale_down_stabilization: Duration = duration_field("300s", "How long load must be low before replicas go.")


class DisruptionSpec(ApiObject):
    """Voluntary disruptions, such as a node's drain."""

    pod_disruption_budget: Literal["Auto", "Disabled"] = Field(
        default="Auto", description="Auto: at most one pod at a time, unless a budget of yours matches the pods."
    )


class NetworkPolicySpec(ApiObject):
    """Who may reach the pods."""

    enabled: bool = Field(default=False, description="Whether a NetworkPolicy is made.")
    from_: list[NetworkPolicyPeer] = Field(
        default_factory=list,
        alias="from",
        max_length=32,
        description="Who may send requests; the operator always may. Empty: every pod of the namespace.",
    )


def _is_zero(value: int | str | None) -> bool:
    return value in (0, "0%")


class RolloutSpec(ApiObject):
    """How a change reaches the replicas."""

    checks = (
        ValidationRule(
            "!has(self.maxSurge) || !has(self.maxUnavailable) || "
            "!(string(self.maxSurge) in ['0', '0%'] && string(self.maxUnavailable) in ['0', '0%'])",
            "maxSurge and maxUnavailable must not both be 0: nothing could ever be replaced",
            lambda rollout: not (_is_zero(rollout.max_surge) and _is_zero(rollout.max_unavailable)),
            "maxSurge",
        ),
    )

    max_surge: IntOrPercent | None = Field(
        default=None, description="Extra pods during a rollout; absent: 0 on GPUs, 1 on CPUs."
    )
    max_unavailable: IntOrPercent | None = Field(
        default=None, description="Missing pods during a rollout; absent: 1 where maxSurge is 0, else 0."
    )
    min_ready_seconds: int = Field(
        default=60, ge=0, le=3600, description="How long a new pod must stay ready to count."
    )
    startup_timeout: Duration = duration_field("30m", "How long a pod may take until it is ready.")
    on_operator_upgrade: Literal["Defer", "Apply"] = Field(
        default="Defer",
        description="What happens to serving pods when only the operator's version or its default images would change "
        "them: Defer waits for the next change of the spec, Apply rolls out.",
    )


class ProbeSpec(ApiObject):
    """Overrides of one probe."""

    period_seconds: int | None = Field(default=None, ge=1, le=3600, description="Seconds between two attempts.")
    timeout_seconds: int | None = Field(default=None, ge=1, le=3600, description="Seconds until an attempt fails.")
    failure_threshold: int | None = Field(default=None, ge=1, le=100000, description="Failures in a row that count.")


class ProbesSpec(ApiObject):
    """Overrides of the kubelet's probes."""

    startup: ProbeSpec = section(
        ProbeSpec, "Until the model answers; absent: every 5 s, for as long as rollout.startupTimeout."
    )
    readiness: ProbeSpec = section(ProbeSpec, "Whether requests are sent; absent: every 5 s, three failures count.")
    liveness: ProbeSpec = section(
        ProbeSpec, "Whether the container is restarted; absent: every 10 s, six failures count."
    )


class DrainSpec(ApiObject):
    """How a pod goes."""

    timeout: Duration = duration_field("60s", "How long accepted requests may take to finish.")


class LatencyObjective(ApiObject):
    """A latency and the share of requests that must meet it."""

    threshold: Duration = Field(description="The latency.")
    objective: Annotated[str, Field(max_length=8, pattern=r"^[0-9]{1,2}(\.[0-9]+)?$")] = Field(
        description="Percent of the requests, as a string."
    )


class SloSpec(ApiObject):
    """Objectives, from which burn-rate alerts are made."""

    availability: Annotated[str, Field(max_length=8, pattern=r"^[0-9]{1,2}(\.[0-9]+)?$")] | None = Field(
        default=None, description="Percent of the requests that must not fail, as a string, such as 99.5."
    )
    ttft: LatencyObjective | None = Field(default=None, description="Time to the first token.")
    window: Window = duration_field("30d", "The window that the objectives are about.")


class TemplateMetadata(ApiObject):
    """Metadata of the pods."""

    labels: Labels = Field(default_factory=dict, max_length=64, description="More labels of the pods.")
    annotations: Annotations = Field(default_factory=dict, max_length=64, description="More annotations of the pods.")


class PodTemplate(ApiObject):
    """The last word on the pod template."""

    metadata: TemplateMetadata = section(TemplateMetadata, "More labels and annotations of the pods.")
    spec: dict[str, Any] = Field(
        default_factory=dict,
        description="A partial PodSpec, merged last: containers, env, volumes, mounts and ports by their keys, other "
        "lists as a whole; null removes a field and `$patch: delete` an item. The server's container is `server`.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )

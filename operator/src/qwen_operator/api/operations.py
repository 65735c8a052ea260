"""How the pods are placed, cached, watched, isolated, rolled out, probed and drained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from qwen_operator.api.base import (
    ApiObject,
    Duration,
    IntOrPercent,
    OptionalName,
    Quantity,
    ValidationRule,
    duration_field,
    from_to,
    parse_quantity,
    section,
)
from qwen_operator.api.core import Affinity, Labels, NetworkPolicyPeer, Toleration, TopologySpreadConstraint
from qwen_operator.api.metadata import OwnLabels
from qwen_operator.api.startup import UNKNOWN_SIZE

Switch = Literal["Auto", "Enabled", "Disabled"]


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
        description="Who downloads a model from Hugging Face or ModelScope: a Job, before the pods start, or each pod "
        "what it lacks. With the access mode ReadWriteOncePod it is always the pods.",
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
    network_policy_from: list[NetworkPolicyPeer] | None = Field(
        default=None,
        max_length=32,
        description="Who may scrape the pods, besides networkPolicy.from, if there is a NetworkPolicy. Defaults to the "
        "Prometheus objects that select the ServiceMonitor, if the operator may list them. `[]` lets nobody in.",
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
        description="Who may send requests, besides the operator as the chart installs it. Empty allows every pod in "
        "the namespace.",
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
    # No default in the CRD: parsing derives it from the model.
    startup_timeout: Annotated[Duration, from_to("1s", "168h")] = Field(
        default=UNKNOWN_SIZE,
        description="How long a pod may take to become ready. By default 10m for a built-in model. For other models "
        "whose name tells their size (Qwen3-8B), 10m plus a time for each GB of weights (2 GB for each billion of "
        "parameters): 60s if they are downloaded, and 30m at least, or 10s if they are in a volume or an image. Else "
        "30m.",
        json_schema_extra={"default": None},
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

    startup: ProbeSpec = section(ProbeSpec, "Startup probe. By default every 2 s until rollout.startupTimeout is over.")
    readiness: ProbeSpec = section(ProbeSpec, "Readiness probe. By default every 5 s, with three failures allowed.")
    liveness: ProbeSpec = section(ProbeSpec, "Liveness probe. By default every 10 s, with six failures allowed.")


class DrainSpec(ApiObject):
    """How a pod terminates."""

    timeout: Annotated[Duration, from_to("0s", "24h")] = duration_field(
        "60s", "How long accepted requests may take to finish when a pod terminates."
    )

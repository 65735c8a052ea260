"""The types of Kubernetes' own API that appear in a QwenService, typed so that `kubectl apply` refuses a mistake."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from qwen_operator.api.base import ApiObject, ObjectName, Quantity, ShortText, ValidationRule

LabelKey = Annotated[str, Field(max_length=317)]
Labels = dict[str, Annotated[str, Field(max_length=63)]]


class LocalObjectReference(ApiObject):
    """A reference to an object of the same namespace."""

    name: ObjectName = Field(description="Name of the object.")


class KeySelector(ApiObject):
    """One key of a Secret or ConfigMap."""

    name: ObjectName = Field(description="Name of the Secret or ConfigMap.")
    key: ShortText = Field(description="The key in it.")
    optional: bool | None = Field(default=None, description="Whether the object or key may be missing.")


class SecretKeyRef(ApiObject):
    """One key of a Secret."""

    name: ObjectName = Field(description="Name of the Secret.")
    key: ShortText = Field(description="The key in the Secret.")


class FieldRef(ApiObject):
    """A field of the pod."""

    api_version: ShortText | None = Field(default=None, description="Version of the schema of fieldPath.")
    field_path: ShortText = Field(description="Path of the field, such as status.podIP.")


class ResourceFieldRef(ApiObject):
    """A resource of a container."""

    container_name: ShortText | None = Field(default=None, description="The container; absent: this one.")
    resource: ShortText = Field(description="The resource, such as limits.cpu.")
    divisor: Quantity | None = Field(default=None, description="Unit of the exposed value.")


class EnvVarSource(ApiObject):
    """Where an environment variable's value comes from."""

    config_map_key_ref: KeySelector | None = Field(default=None, description="A key of a ConfigMap.")
    secret_key_ref: KeySelector | None = Field(default=None, description="A key of a Secret.")
    field_ref: FieldRef | None = Field(default=None, description="A field of the pod.")
    resource_field_ref: ResourceFieldRef | None = Field(default=None, description="A resource of a container.")


class EnvVar(ApiObject):
    """An environment variable of the server's container."""

    checks = (
        ValidationRule(
            "!(has(self.value) && has(self.valueFrom))",
            "value and valueFrom exclude each other",
            lambda env: env.value is None or env.value_from is None,
        ),
    )

    name: Annotated[str, Field(max_length=253, pattern=r"^[-._a-zA-Z][-._a-zA-Z0-9]*$")] = Field(
        description="Name of the variable."
    )
    value: Annotated[str, Field(max_length=32768)] | None = Field(default=None, description="Its value.")
    value_from: EnvVarSource | None = Field(default=None, description="Where its value comes from instead.")


class Resources(ApiObject):
    """Requests and limits of the server's container; GPUs come from spec.gpu."""

    requests: dict[str, Quantity] = Field(
        default_factory=dict, max_length=32, description="What the scheduler reserves, such as cpu and memory."
    )
    limits: dict[str, Quantity] = Field(
        default_factory=dict, max_length=32, description="What the container may use at most."
    )


class Toleration(ApiObject):
    """A taint that the pods tolerate."""

    key: LabelKey | None = Field(default=None, description="The taint's key; absent with Exists: every taint.")
    operator: Literal["Exists", "Equal"] | None = Field(default=None, description="How to compare; absent: Equal.")
    value: Annotated[str, Field(max_length=63)] | None = Field(default=None, description="The taint's value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="The taint's effect; absent: every effect."
    )
    toleration_seconds: int | None = Field(default=None, description="For NoExecute: how long the pod may stay.")


class LabelSelectorRequirement(ApiObject):
    """One expression over labels."""

    key: LabelKey = Field(description="The label.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(description="How to compare.")
    values: list[Annotated[str, Field(max_length=63)]] | None = Field(
        default=None, max_length=64, description="Values for In and NotIn."
    )


class LabelSelector(ApiObject):
    """A choice of objects by their labels; empty chooses all."""

    match_labels: Labels | None = Field(default=None, max_length=32, description="Labels that must be equal.")
    match_expressions: list[LabelSelectorRequirement] | None = Field(
        default=None, max_length=32, description="Expressions that must all hold."
    )


class NodeSelectorRequirement(ApiObject):
    """One expression over a node's labels or fields."""

    key: LabelKey = Field(description="The label or field.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"] = Field(description="How to compare.")
    values: list[Annotated[str, Field(max_length=253)]] | None = Field(
        default=None, max_length=64, description="Values to compare with."
    )


class NodeSelectorTerm(ApiObject):
    """Expressions over a node that must all hold."""

    match_expressions: list[NodeSelectorRequirement] | None = Field(
        default=None, max_length=32, description="Expressions over labels."
    )
    match_fields: list[NodeSelectorRequirement] | None = Field(
        default=None, max_length=32, description="Expressions over fields, such as metadata.name."
    )


class NodeSelector(ApiObject):
    """Nodes of which any one term holds."""

    node_selector_terms: list[NodeSelectorTerm] = Field(max_length=16, description="Terms; one must hold.")


class PreferredSchedulingTerm(ApiObject):
    """A preference among nodes."""

    weight: int = Field(ge=1, le=100, description="How much it counts.")
    preference: NodeSelectorTerm = Field(description="The nodes that are preferred.")


class NodeAffinity(ApiObject):
    """Which nodes the pods must or should run on."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = Field(
        default=None, description="Nodes that the pods must run on."
    )
    preferred_during_scheduling_ignored_during_execution: list[PreferredSchedulingTerm] | None = Field(
        default=None, max_length=16, description="Nodes that the pods should run on."
    )


class PodAffinityTerm(ApiObject):
    """A neighbourhood to other pods."""

    label_selector: LabelSelector | None = Field(default=None, description="The other pods.")
    namespaces: list[ObjectName] | None = Field(default=None, max_length=32, description="Their namespaces.")
    namespace_selector: LabelSelector | None = Field(default=None, description="Their namespaces, by labels.")
    topology_key: LabelKey = Field(description="The node label that makes a neighbourhood.")
    match_label_keys: list[LabelKey] | None = Field(
        default=None, max_length=16, description="Labels of the incoming pod that must be equal."
    )
    mismatch_label_keys: list[LabelKey] | None = Field(
        default=None, max_length=16, description="Labels of the incoming pod that must differ."
    )


class WeightedPodAffinityTerm(ApiObject):
    """A preference among neighbourhoods."""

    weight: int = Field(ge=1, le=100, description="How much it counts.")
    pod_affinity_term: PodAffinityTerm = Field(description="The neighbourhood.")


class PodAffinity(ApiObject):
    """Neighbourhoods that the pods must or should share (or, for anti-affinity, avoid)."""

    required_during_scheduling_ignored_during_execution: list[PodAffinityTerm] | None = Field(
        default=None, max_length=16, description="Neighbourhoods that count always."
    )
    preferred_during_scheduling_ignored_during_execution: list[WeightedPodAffinityTerm] | None = Field(
        default=None, max_length=16, description="Neighbourhoods that count where possible."
    )


class Affinity(ApiObject):
    """Affinities of the pods."""

    node_affinity: NodeAffinity | None = Field(default=None, description="To nodes.")
    pod_affinity: PodAffinity | None = Field(default=None, description="To other pods.")
    pod_anti_affinity: PodAffinity | None = Field(default=None, description="Away from other pods.")


class TopologySpreadConstraint(ApiObject):
    """How evenly the pods spread over zones or nodes."""

    max_skew: int = Field(ge=1, description="Largest difference between two domains.")
    topology_key: LabelKey = Field(description="The node label that makes a domain.")
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"] = Field(description="What if it cannot be kept.")
    label_selector: LabelSelector | None = Field(
        default=None, description="The pods that are counted; absent: those of this service."
    )
    min_domains: int | None = Field(default=None, ge=1, description="Fewest domains.")
    node_affinity_policy: Literal["Honor", "Ignore"] | None = Field(
        default=None, description="Whether nodeAffinity and nodeSelector limit the domains."
    )
    node_taints_policy: Literal["Honor", "Ignore"] | None = Field(
        default=None, description="Whether taints limit the domains."
    )
    match_label_keys: list[LabelKey] | None = Field(
        default=None, max_length=16, description="Labels whose values split the pods that are counted."
    )


class IPBlock(ApiObject):
    """A range of addresses."""

    cidr: Annotated[str, Field(max_length=64)] = Field(description="The range, such as 10.0.0.0/8.")
    except_: list[Annotated[str, Field(max_length=64)]] | None = Field(
        default=None, alias="except", max_length=32, description="Ranges inside it that are left out."
    )


class NetworkPolicyPeer(ApiObject):
    """Who may send requests."""

    pod_selector: LabelSelector | None = Field(default=None, description="Pods, of this or the chosen namespaces.")
    namespace_selector: LabelSelector | None = Field(default=None, description="Namespaces.")
    ip_block: IPBlock | None = Field(default=None, description="Addresses.")

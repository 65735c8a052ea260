"""The types of the Kubernetes API that a QwenService uses: `kubectl apply` rejects mistakes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from qwen_operator.api.base import (
    ApiObject,
    DataKey,
    LabelValue,
    ObjectName,
    Quantity,
    ShortText,
    ValidationRule,
)
from qwen_operator.api.flags import VARIABLE_RULE

LabelKey = Annotated[str, Field(min_length=1, max_length=317)]
Labels = dict[str, LabelValue]


class LocalObjectReference(ApiObject):
    """A reference to an object in the same namespace."""

    name: ObjectName = Field(description="Name of the object.")


class KeySelector(ApiObject):
    """One key of a Secret or ConfigMap."""

    name: ObjectName = Field(description="Name of the Secret or ConfigMap.")
    key: DataKey = Field(description="Key in the Secret or ConfigMap.")
    optional: bool | None = Field(default=None, description="Whether the object or the key may be missing.")


class SecretKeyRef(ApiObject):
    """One key of a Secret."""

    name: ObjectName = Field(description="Name of the Secret.")
    key: DataKey = Field(description="Key in the Secret.")


class FieldRef(ApiObject):
    """A field of the pod."""

    api_version: ShortText | None = Field(default=None, description="Version of the schema of fieldPath.")
    field_path: ShortText = Field(description="Path of the field, such as status.podIP.")


class ResourceFieldRef(ApiObject):
    """A resource of a container."""

    container_name: ShortText | None = Field(
        default=None, description="Name of the container. Defaults to the server's."
    )
    resource: ShortText = Field(description="The resource, such as limits.cpu.")
    divisor: Quantity | None = Field(default=None, description="Unit in which the value is exposed.")


_ENV_SOURCES = ("configMapKeyRef", "secretKeyRef", "fieldRef", "resourceFieldRef")


class EnvVarSource(ApiObject):
    """Where an environment variable's value comes from."""

    checks = (
        ValidationRule(
            f"[{', '.join(f'has(self.{name})' for name in _ENV_SOURCES)}].filter(given, given).size() == 1",
            f"exactly one of {', '.join(_ENV_SOURCES)} must be set",
            lambda source: len(source.model_dump(exclude_none=True)) == 1,
        ),
    )

    config_map_key_ref: KeySelector | None = Field(default=None, description="A key of a ConfigMap.")
    secret_key_ref: KeySelector | None = Field(default=None, description="A key of a Secret.")
    field_ref: FieldRef | None = Field(default=None, description="A field of the pod.")
    resource_field_ref: ResourceFieldRef | None = Field(default=None, description="A resource of a container.")


class EnvVar(ApiObject):
    """An environment variable of the server's container."""

    checks = (
        ValidationRule(
            "!(has(self.value) && has(self.valueFrom))",
            "value and valueFrom cannot both be set",
            lambda env: env.value is None or env.value_from is None,
        ),
        VARIABLE_RULE,
    )

    name: Annotated[str, Field(max_length=253, pattern=r"^[-._a-zA-Z][-._a-zA-Z0-9]*$")] = Field(
        description="Name of the variable."
    )
    value: Annotated[str, Field(max_length=32768)] | None = Field(default=None, description="Value of the variable.")
    value_from: EnvVarSource | None = Field(default=None, description="Source of the value, instead of value.")


class Toleration(ApiObject):
    """A taint that the pods tolerate."""

    key: LabelKey | None = Field(default=None, description="Key of the taint. Empty with Exists matches every taint.")
    operator: Literal["Exists", "Equal"] | None = Field(default=None, description="How to compare. Defaults to Equal.")
    value: LabelValue | None = Field(default=None, description="Value of the taint.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Effect of the taint. Defaults to every effect."
    )
    toleration_seconds: int | None = Field(
        default=None, description="For NoExecute: how many seconds the pod may stay."
    )


class LabelSelectorRequirement(ApiObject):
    """One expression about labels."""

    key: LabelKey = Field(description="The label.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(description="How to compare.")
    values: list[LabelValue] | None = Field(default=None, max_length=64, description="Values for In and NotIn.")


class LabelSelector(ApiObject):
    """Selects objects by their labels. An empty selector matches every object."""

    match_labels: Labels | None = Field(default=None, max_length=32, description="Labels that must match.")
    match_expressions: list[LabelSelectorRequirement] | None = Field(
        default=None, max_length=32, description="Expressions that must all be true."
    )


class NodeSelectorRequirement(ApiObject):
    """One expression about a node's labels or fields."""

    key: LabelKey = Field(description="The label or field.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"] = Field(description="How to compare.")
    values: list[Annotated[str, Field(max_length=253)]] | None = Field(
        default=None, max_length=64, description="Values to compare with."
    )


class NodeSelectorTerm(ApiObject):
    """Expressions about a node that must all be true."""

    match_expressions: list[NodeSelectorRequirement] | None = Field(
        default=None, max_length=32, description="Expressions about labels."
    )
    match_fields: list[NodeSelectorRequirement] | None = Field(
        default=None, max_length=32, description="Expressions about fields, such as metadata.name."
    )


class NodeSelector(ApiObject):
    """Selects the nodes that match at least one term."""

    node_selector_terms: list[NodeSelectorTerm] = Field(
        max_length=16, description="Terms, of which at least one must match."
    )


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
    """A topology domain that is shared with other pods."""

    label_selector: LabelSelector | None = Field(default=None, description="Selects the other pods.")
    namespaces: list[ObjectName] | None = Field(
        default=None, max_length=32, description="Namespaces of the other pods."
    )
    namespace_selector: LabelSelector | None = Field(
        default=None, description="Selects the namespaces of the other pods."
    )
    topology_key: LabelKey = Field(description="Node label whose value defines the domain.")
    match_label_keys: list[LabelKey] | None = Field(
        default=None, max_length=16, description="Labels of the new pod whose values must match."
    )
    mismatch_label_keys: list[LabelKey] | None = Field(
        default=None, max_length=16, description="Labels of the new pod whose values must differ."
    )


class WeightedPodAffinityTerm(ApiObject):
    """A preference among topology domains."""

    weight: int = Field(ge=1, le=100, description="How much it counts.")
    pod_affinity_term: PodAffinityTerm = Field(description="The topology domain.")


class PodAffinity(ApiObject):
    """Topology domains that the pods must or should share (for anti-affinity: avoid)."""

    required_during_scheduling_ignored_during_execution: list[PodAffinityTerm] | None = Field(
        default=None, max_length=16, description="Terms that must be met."
    )
    preferred_during_scheduling_ignored_during_execution: list[WeightedPodAffinityTerm] | None = Field(
        default=None, max_length=16, description="Terms that should be met."
    )


class Affinity(ApiObject):
    """Affinities of the pods."""

    node_affinity: NodeAffinity | None = Field(default=None, description="Affinity to nodes.")
    pod_affinity: PodAffinity | None = Field(default=None, description="Affinity to other pods.")
    pod_anti_affinity: PodAffinity | None = Field(default=None, description="Anti-affinity to other pods.")


class TopologySpreadConstraint(ApiObject):
    """How evenly the pods spread over zones or nodes."""

    max_skew: int = Field(ge=1, description="Largest allowed difference between two domains.")
    topology_key: LabelKey = Field(description="Node label whose value defines the domain.")
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"] = Field(
        description="What to do with a pod that would exceed maxSkew."
    )
    label_selector: LabelSelector | None = Field(
        default=None, description="The pods that are counted. Defaults to those of this service."
    )
    min_domains: int | None = Field(default=None, ge=1, description="Minimum number of domains.")
    node_affinity_policy: Literal["Honor", "Ignore"] | None = Field(
        default=None, description="Whether nodeAffinity and nodeSelector limit the domains."
    )
    node_taints_policy: Literal["Honor", "Ignore"] | None = Field(
        default=None, description="Whether taints limit the domains."
    )
    match_label_keys: list[LabelKey] | None = Field(
        default=None, max_length=16, description="Labels of the new pod that the counted pods must share."
    )


Cidr = Annotated[str, Field(max_length=64, pattern=r"^[0-9a-fA-F.:]{2,45}/[0-9]{1,3}$")]


class IPBlock(ApiObject):
    """A range of addresses."""

    cidr: Cidr = Field(description="The range, such as 10.0.0.0/8.")
    except_: list[Cidr] | None = Field(
        default=None, alias="except", max_length=32, description="Ranges within cidr that are excluded."
    )


class NetworkPolicyPeer(ApiObject):
    """Who may send requests."""

    checks = (
        ValidationRule(
            "has(self.ipBlock) ? !has(self.podSelector) && !has(self.namespaceSelector) : "
            "has(self.podSelector) || has(self.namespaceSelector)",
            "podSelector, namespaceSelector or both must be set, or only ipBlock",
            lambda peer: (
                (peer.ip_block is not None) != (peer.pod_selector is not None or peer.namespace_selector is not None)
            ),
        ),
    )

    pod_selector: LabelSelector | None = Field(default=None, description="Pods in this or the selected namespaces.")
    namespace_selector: LabelSelector | None = Field(default=None, description="Namespaces.")
    ip_block: IPBlock | None = Field(default=None, description="Addresses.")

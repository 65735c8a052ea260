"""What the author of a spec should know: what it asks for and the cluster lacks, and what will not
work as it seems. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from qwen_operator.api import QwenService, QwenServiceSpec, parse_time
from qwen_operator.api.core import NetworkPolicyPeer
from qwen_operator.api.operations import CacheSpec
from qwen_operator.api.replica import LimitsSpec
from qwen_operator.planning.builders.burnrate import lowest_percentage, without_alert
from qwen_operator.planning.builders.deployment import rollout_numbers
from qwen_operator.planning.prometheuses import demands

_LABELS: Final = "Set monitoring.labels, or the chart's value monitoring.labels for all services."
_SCALING_PATIENCE: Final = 120.0
"""Seconds."""

# The limits of generated text.
_OF_ANSWERS: Final = (
    "default_max_tokens",
    "max_tokens",
    "on_exceed",
    "max_stops",
    "min_temperature",
    "max_temperature",
)

# Of a HorizontalPodAutoscaler and of a ScaledObject.
_SCALING_CONDITIONS: Final = ("ScalingActive", "AbleToScale", "Ready")
_EXPECTED: Final = ("ScalingDisabled",)
"""The service is scaled to zero."""


class PlanWarning(NamedTuple):
    """A problem in the spec that its author should know. It becomes a condition and an Event."""

    reason: str
    message: str


YOUNG_PODS: Final = PlanWarning(
    "UpdatePending",
    "Pods that answer have been ready for less than rollout.minReadySeconds while another update was under way. "
    "Kubernetes would delete them for one more update, so this one waits until they count as available.",
)
"""A change of the pods waits for those that have just become ready."""


def most_replicas(spec: QwenServiceSpec) -> int:
    """How many replicas there may be."""
    return max(spec.replicas, spec.autoscaling.max_replicas if spec.autoscaling else 0)


def size_warnings(spec: QwenServiceSpec) -> list[PlanWarning]:
    """Numbers that do not fit each other. As rules of the schema they would hold up autoscalers."""
    warnings = []
    most = most_replicas(spec)
    needed = spec.remediation.min_ready_replicas
    if isinstance(needed, int) and needed > most > 0:
        message = (
            f"remediation.minReadyReplicas is {needed}, but there are at most {most} replicas. Remediation takes out "
            "and restarts only pods that have stopped answering. Lower it."
        )
        warnings.append(PlanWarning("MinReadyAboveReplicas", message))
    if spec.gpu_count > spec.engine.world_size:
        message = (
            f"gpu.count is {spec.gpu_count}, but the engine uses {spec.engine.world_size} (tensorParallelSize x "
            "pipelineParallelSize). The other GPUs of each replica are idle."
        )
        warnings.append(PlanWarning("GPUsIdle", message))
    return warnings


def cache_warnings(spec: QwenServiceSpec) -> list[PlanWarning]:
    """What is set of the cache and has no effect on a claim of the user's."""
    cache, default = spec.cache, CacheSpec()
    if cache is None or not cache.existing_claim:
        return []
    ignored = [
        name
        for name, differs in (
            ("size", cache.size != default.size),
            ("accessModes", cache.access_modes != default.access_modes),
            ("retain", cache.retain != default.retain),
        )
        if differs
    ]
    if not ignored:
        return []
    have = "have" if len(ignored) > 1 else "has"
    message = (
        f"cache.{' and cache.'.join(ignored)} {have} no effect with cache.existingClaim: the claim "
        f"{cache.existing_claim} stays as it is. Remove what has no effect, or change the claim itself."
    )
    return [PlanWarning("CacheSettingsIgnored", message)]


def task_warnings(spec: QwenServiceSpec) -> list[PlanWarning]:
    """What is set of chats and generated text, and has no effect on a model without them."""
    task, fields = spec.model.task, LimitsSpec.model_fields
    if task == "generate":
        return []
    changed = [name for name in _OF_ANSWERS if getattr(spec.limits, name) != fields[name].default]
    ignored = [f"limits.{fields[name].alias}" for name in changed]
    if spec.model.chat_template is not None:
        ignored.insert(0, "model.chatTemplate")
    if not ignored:
        return []
    have = "have" if len(ignored) > 1 else "has"
    message = f"{' and '.join(ignored)} {have} no effect with model.task: {task}, which generates no text."
    if spec.model.chat_template is not None:
        message += " Only /tokenize uses the template."
    return [PlanWarning("TaskSettingsIgnored", message)]


def claim_warnings(spec: QwenServiceSpec, *, supported: bool) -> list[PlanWarning]:
    """About ResourceClaims. `supported` is whether the cluster has them."""
    claims = spec.gpu.resource_claims
    warnings = []
    if claims and not supported:
        message = (
            "gpu.resourceClaims needs the API resource.k8s.io/v1 (Kubernetes 1.34), which the cluster does not serve. "
            "The pods get no GPUs."
        )
        warnings.append(PlanWarning("ResourceClaimsUnavailable", message))
    shared = [claim.resource_claim_name for claim in claims if claim.resource_claim_name is not None]
    if shared and (most_replicas(spec) > 1 or rollout_numbers(spec)[0] not in (0, "0%")):
        message = (
            f"All pods use the ResourceClaim {shared[0]}, and so the same GPUs. Set resourceClaimTemplateName, so that "
            "each pod gets GPUs of its own."
        )
        warnings.append(PlanWarning("GPUsShared", message))
    return warnings


def scaling_warnings(spec: QwenServiceSpec, *, has_keda: bool, trouble: str = "") -> list[PlanWarning]:
    """About the autoscaler. `trouble` is what it says about itself."""
    if spec.autoscaling is None:
        return []
    if spec.autoscaling.scaler == "KEDA" and not has_keda:
        message = (
            "autoscaling.scaler is KEDA, which is not installed. Nothing scales the service. Install KEDA, or set "
            "autoscaling.scaler to HPA."
        )
        return [PlanWarning("AutoscalerUnavailable", message)]
    if trouble:
        return [PlanWarning("AutoscalerNotActive", f"Nothing scales the service. The autoscaler says: {trouble}")]
    return []


def scaling_trouble(autoscaler: Mapping[str, Any] | None, now: datetime) -> str:
    """Why a HorizontalPodAutoscaler or a ScaledObject does not work; empty if it does.

    It is given a while, because new pods have no metrics yet.
    """
    for condition in ((autoscaler or {}).get("status") or {}).get("conditions") or ():
        since = parse_time(condition.get("lastTransitionTime"))
        lasts = since is None or (now - since).total_seconds() > _SCALING_PATIENCE
        if (
            condition["type"] in _SCALING_CONDITIONS
            and condition["status"] == "False"
            and condition.get("reason") not in _EXPECTED
            and lasts
        ):
            return f"{condition.get('reason', condition['type'])}: {condition.get('message', '')}"
    return ""


def exposure_warnings(
    spec: QwenServiceSpec, *, has_routes: bool, ingress_classes: Mapping[str, bool] | None
) -> list[PlanWarning]:
    """About what is in front of the Service.

    `ingress_classes` says of each IngressClass whether it is the default. None means unknown.
    """
    warnings = []
    if spec.route is not None and not has_routes:
        warnings.append(PlanWarning("RouteUnavailable", "spec.route needs the Gateway API, which is not installed."))
    if spec.ingress is not None and ingress_classes is not None:
        name = spec.ingress.class_name
        if name and name not in ingress_classes:
            message = f"No controller serves the Ingress: the IngressClass {name} does not exist."
            warnings.append(PlanWarning("IngressClassMissing", message))
        elif not name and not any(ingress_classes.values()):
            message = "No controller serves the Ingress: no IngressClass is the default. Set ingress.className."
            warnings.append(PlanWarning("IngressClassMissing", message))
    front = [name for name, part in (("route", spec.route), ("ingress", spec.ingress)) if part is not None]
    if front and spec.network_policy.enabled and not spec.network_policy.from_:
        message = (
            f"The NetworkPolicy admits only pods of this namespace. If the controller behind spec.{front[0]} runs in "
            "another one, its requests fail. Set networkPolicy.from to everybody who may send requests."
        )
        warnings.append(PlanWarning("GatewayNotAdmitted", message))
    return warnings


def monitoring_warnings(
    service: QwenService,
    *,
    has_monitors: bool,
    has_rules: bool,
    scraping: Sequence[Mapping[str, Any]] | None,
    evaluating: Sequence[Mapping[str, Any]] | None,
    prometheuses: Sequence[Mapping[str, Any]],
) -> list[PlanWarning]:
    """About Prometheus.

    `scraping` are those of the `prometheuses` that select the ServiceMonitor, and `evaluating`
    those that select the PrometheusRule. None if they are not known.
    """
    spec = service.spec
    monitoring = spec.monitoring
    warnings = []
    for name, switch, exists in (
        ("serviceMonitor", monitoring.service_monitor, has_monitors),
        ("prometheusRule", monitoring.prometheus_rule, has_rules),
    ):
        if switch == "Enabled" and not exists:
            message = f"monitoring.{name} is Enabled but the Prometheus Operator is not installed."
            warnings.append(PlanWarning("MonitoringUnavailable", message))
    if spec.slo is not None and not has_rules and monitoring.prometheus_rule != "Enabled":
        message = "spec.slo makes no alerts: the Prometheus Operator, which reads PrometheusRules, is not installed."
        warnings.append(PlanWarning("MonitoringUnavailable", message))
    elif spec.slo is not None and (names := without_alert(service, spec.slo)):
        days, lowest = spec.slo.window.days, lowest_percentage(spec.slo.window)
        message = (
            f"spec.slo makes no alert for {' and '.join(names)}: even if all requests fail, the errors that an "
            f"objective of at most {lowest:.1f} % allows in {days} days are not used up early enough. Raise the "
            "objective, or shorten slo.window."
        )
        warnings.append(PlanWarning("ObjectiveWithoutAlert", message))
    monitored = has_monitors and monitoring.service_monitor != "Disabled"
    ruled = has_rules and monitoring.prometheus_rule != "Disabled"
    if monitored and scraping is not None and not scraping:
        message = f"No Prometheus selects the ServiceMonitor: {demands('serviceMonitor', prometheuses)}. {_LABELS}"
        warnings.append(PlanWarning("MonitoringNotSelected", message))
    if ruled and evaluating is not None and not evaluating:
        message = f"No Prometheus selects the PrometheusRule, so no alert fires: {demands('rule', prometheuses)}. "
        warnings.append(PlanWarning("MonitoringNotSelected", message + _LABELS))
    return warnings


def key_warnings(spec: QwenServiceSpec, *, has_metrics_key: bool) -> list[PlanWarning]:
    """About metrics that are protected. `has_metrics_key` is whether the operator can read them."""
    if spec.auth.metrics_token_secret_ref is None or has_metrics_key:
        return []
    message = (
        "auth.metricsTokenSecretRef protects the metrics, and the operator has no key to read them: remediation is "
        "blind. Set the chart's value monitoring.metricsKey.secretName."
    )
    return [PlanWarning("MetricsKeyMissing", message)]


def scraping_warnings(spec: QwenServiceSpec, *, admitted: bool) -> list[PlanWarning]:
    """About a NetworkPolicy that may keep Prometheus out.

    It does so without a ServiceMonitor, too: annotations and static targets need none. `admitted`
    is whether the operator lets the pods of a Prometheus object in by itself.
    """
    policy, given = spec.network_policy, spec.monitoring.network_policy_from
    if admitted or not policy.enabled or given is not None or any(_is_everybody(peer) for peer in policy.from_):
        return []
    message = (
        "The NetworkPolicy keeps Prometheus out, unless networkPolicy.from admits it: the operator knows no Prometheus "
        "object that scrapes the pods. Set monitoring.networkPolicyFrom to the pods that scrape, or to [] if none do."
    )
    return [PlanWarning("PrometheusNotAdmitted", message)]


def _is_everybody(peer: NetworkPolicyPeer) -> bool:
    """Whether a peer is all pods of all namespaces."""
    return peer.to_dict() in ({"namespaceSelector": {}}, {"namespaceSelector": {}, "podSelector": {}})

"""Which objects must exist for a QwenService, from its spec and facts about the cluster. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from qwen_operator.api import QwenService
from qwen_operator.api.names import child_name
from qwen_operator.api.objects import Object
from qwen_operator.api.operations import CacheSpec
from qwen_operator.planning.builders.autoscaler import build_autoscaler, build_scaled_object
from qwen_operator.planning.builders.claim import build_cache_claim
from qwen_operator.planning.builders.configmap import build_alerts_configmap
from qwen_operator.planning.builders.deployment import (
    build_deployment,
    changes_pods,
    keep_template,
    only_operator_changed,
    progress_deadline,
    rolled_out,
    rollout_means_downtime,
    rollout_numbers,
    would_lose_young_pods,
)
from qwen_operator.planning.builders.disruption import budgets_of_others, build_disruption_budget
from qwen_operator.planning.builders.ingress import build_ingress
from qwen_operator.planning.builders.monitoring import build_service_monitor
from qwen_operator.planning.builders.networkpolicy import build_network_policy
from qwen_operator.planning.builders.prometheusrule import build_prometheus_rule
from qwen_operator.planning.builders.service import build_http_route, build_service
from qwen_operator.planning.download import Download, is_over, plan_download
from qwen_operator.planning.monitoring import MonitoringDefaults
from qwen_operator.planning.plan_warnings import (
    YOUNG_PODS,
    PlanWarning,
    cache_warnings,
    claim_warnings,
    exposure_warnings,
    key_warnings,
    monitoring_warnings,
    most_replicas,
    scaling_warnings,
    scraping_warnings,
    size_warnings,
    task_warnings,
)
from qwen_operator.planning.pod_template_rules import EVERYTHING, refusal
from qwen_operator.planning.prometheuses import Kind, reading, scraper_peers

__all__ = ["ClusterFacts", "Plan", "PlanWarning", "Reference", "plan"]

_BLIP_SECONDS: Final = 60.0
"""Pods that have not been available yet may be replaced when none has been ready for so long."""
YOUNG_GRACE: Final = 5.0
"""Seconds from minReadySeconds to the time when a change waits no longer."""


@dataclass(frozen=True)
class ClusterFacts:
    """What planning needs to know about the cluster.

    Attributes:
        operator_version: the version of the operator.
        server_images: the server's image by device (`cpu`, `cuda`).
        pull_secrets: the Secrets for pulling it, for services that name none.
        pod_template_allow: what `podTemplate` may set, see `pod_template_rules`.
        operator_namespace: where the operator runs, for NetworkPolicies.
        has_service_monitor, has_prometheus_rule, has_http_route, has_scaled_object,
        has_resource_claims: whether these APIs are installed.
        live_deployment: the service's current Deployment, None if there is none.
        waited_seconds: for how long a change has waited for pods that have just become ready.
        unready_seconds: for how long the service has not been Ready; None if it was at the last
            look, infinite if there was none.
        budgets: the PodDisruptionBudgets of the namespace. One of the user's that selects the pods
            replaces ours.
        claims: the known PersistentVolumeClaims of the namespace, by name. Only their access modes
            matter.
        prometheuses: the Prometheus objects of the cluster, None if they are not known.
        namespace_labels: the labels of the service's namespace, None if they are not known.
        monitoring: what the operator's settings say about monitoring.
        metrics_keys: the operator's keys for the metrics of pods. It uses the first one.
        ingress_classes: the IngressClasses, and whether they are the default; None if they are not
            known.
        scaling_trouble: why the autoscaler does not work, empty if it does.
        jobs: the Jobs of the service.
    """

    operator_version: str
    server_images: Mapping[str, str]
    pull_secrets: Sequence[str] = ()
    pod_template_allow: Collection[str] = (EVERYTHING,)
    operator_namespace: str = ""
    has_service_monitor: bool = False
    has_prometheus_rule: bool = False
    has_http_route: bool = False
    has_scaled_object: bool = False
    has_resource_claims: bool = False
    live_deployment: Mapping[str, Any] | None = None
    waited_seconds: float = 0.0
    unready_seconds: float | None = None
    budgets: Sequence[Mapping[str, Any]] = ()
    claims: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    prometheuses: Sequence[Mapping[str, Any]] | None = None
    jobs: Sequence[Mapping[str, Any]] = ()
    namespace_labels: Mapping[str, str] | None = None
    monitoring: MonitoringDefaults = field(default_factory=MonitoringDefaults)
    metrics_keys: Sequence[str] = field(default=(), repr=False)
    ingress_classes: Mapping[str, bool] | None = None
    scaling_trouble: str = ""


class Reference(NamedTuple):
    """An object in the service's namespace."""

    api_version: str
    kind: str
    name: str


@dataclass(frozen=True)
class Plan:
    """The result of planning.

    Attributes:
        children: objects to apply, in this order, with owner references (except a retained claim).
        removed: objects that must not exist. Only those that this QwenService owns may be deleted.
        warnings: problems in the spec that its author should know.
        download: the download of the model by a Job, if there is one. The pods wait for it.
        refused: why the pod template is refused, empty if it is not. The Deployment then keeps the
            one that was applied last, and none is created.
    """

    children: Sequence[Object]
    removed: Sequence[Reference]
    warnings: Sequence[PlanWarning]
    download: Download | None = None
    refused: str = ""

    @property
    def waits_for_young_pods(self) -> bool:
        """Whether a change of the pods waits for those that have just become ready."""
        return YOUNG_PODS in self.warnings


def plan(service: QwenService, facts: ClusterFacts) -> Plan:
    """The children that must exist, those that must not, and warnings."""
    warnings: list[PlanWarning] = []
    children = [build_alerts_configmap(service, facts.metrics_keys), build_service(service)]
    cache = service.spec.cache
    if cache is not None:
        warnings += _cache_warnings(service, cache, facts)
        if not cache.existing_claim:
            children.append(build_cache_claim(service, cache))
    desired = build_deployment(service, _image(service, facts), facts.operator_version, facts.pull_secrets)
    refused = refusal(service.spec.pod_template, facts.pod_template_allow) or ""
    if refused:
        children += [] if facts.live_deployment is None else [keep_template(desired, facts.live_deployment)]
        children += _optional_children(service, facts)
        warnings += _warnings(service, facts)
        return Plan(children, _removed(service, facts, children), warnings, refused=refused)
    live = facts.live_deployment
    download = plan_download(service, desired["spec"]["template"], facts.jobs, live, facts.claims)
    if download is None or download.done:
        deployment, pending = _deployment(service, facts, desired)
        children.append(deployment)
        warnings += pending
    else:
        # No pod waits for the download on a GPU. The pods of another model serve on.
        children += [] if download.failed else [download.job]
        if live is not None:
            children.append(keep_template(desired, live))
        else:
            facts = replace(facts, scaling_trouble="")  # an autoscaler has nothing to scale yet
    children += _optional_children(service, facts)
    warnings += _warnings(service, facts)
    return Plan(children, [*_removed(service, facts, children), *_old_jobs(facts, download)], warnings, download)


def _deployment(service: QwenService, facts: ClusterFacts, desired: Object) -> tuple[Object, list[PlanWarning]]:
    live = facts.live_deployment
    if live is not None and changes_pods(desired, live) and _waits_for_young_pods(service, facts, live):
        return keep_template(desired, live), [YOUNG_PODS]
    deferred = service.spec.rollout.on_operator_upgrade == "Defer"
    if live is None or not deferred or not only_operator_changed(desired, live) or _idle(service, facts, live):
        return desired, []
    message = (
        f"Operator {facts.operator_version} or its default image would change the pods. They stay as they are until "
        "the spec changes. To roll out now, set rollout.onOperatorUpgrade to Apply."
    )
    return keep_template(desired, live), [PlanWarning("UpdatePending", message)]


def _waits_for_young_pods(service: QwenService, facts: ClusterFacts, live: Mapping[str, Any]) -> bool:
    longest = service.spec.rollout.min_ready_seconds + YOUNG_GRACE
    return facts.waited_seconds < longest and would_lose_young_pods(service.spec, live)


def _idle(service: QwenService, facts: ClusterFacts, live: Mapping[str, Any]) -> bool:
    """Whether no pod serves and none is about to: there is nothing to protect, a change may help.

    Pods that served and are not ready for a while (a probe that fails, an engine that restarts) are
    given the time that a pod may take to start.
    """
    status = live.get("status") or {}
    if status.get("readyReplicas", 0) > 0:
        return False
    if live["spec"].get("replicas") == 0:
        return True
    patience = progress_deadline(service.spec) if rolled_out(live) else _BLIP_SECONDS
    return facts.unready_seconds is not None and facts.unready_seconds > patience


def _image(service: QwenService, facts: ClusterFacts) -> str:
    """The server's image.

    Without one the API server rejects the Deployment; `_warnings` explains.
    """
    return service.spec.engine.image or facts.server_images.get(service.spec.engine.device, "")


def _optional_children(service: QwenService, facts: ClusterFacts) -> list[Object]:
    spec = service.spec
    children = []
    if spec.disruption.pod_disruption_budget == "Auto" and not budgets_of_others(service, facts.budgets):
        children.append(build_disruption_budget(service))
    if _monitored(service, facts):
        children.append(build_service_monitor(service, facts.monitoring))
    if facts.has_prometheus_rule and spec.monitoring.prometheus_rule != "Disabled":
        children.append(build_prometheus_rule(service, facts.monitoring, scraped=_monitored(service, facts)))
    if spec.network_policy.enabled:
        children.append(build_network_policy(service, facts.operator_namespace, _scrapers(service, facts)))
    if spec.autoscaling is not None and spec.autoscaling.scaler == "HPA":
        children.append(build_autoscaler(service, spec.autoscaling))
    if spec.autoscaling is not None and spec.autoscaling.scaler == "KEDA" and facts.has_scaled_object:
        children.append(build_scaled_object(service, spec.autoscaling))
    if spec.route is not None and facts.has_http_route:
        children.append(build_http_route(service, spec.route))
    if spec.ingress is not None:
        children.append(build_ingress(service, spec.ingress))
    return children


def _monitored(service: QwenService, facts: ClusterFacts) -> bool:
    return facts.has_service_monitor and service.spec.monitoring.service_monitor != "Disabled"


def _reading(kind: Kind, service: QwenService, facts: ClusterFacts) -> Sequence[Mapping[str, Any]] | None:
    """The Prometheus objects that read the ServiceMonitor or the PrometheusRule.

    None if they are not known.
    """
    if facts.prometheuses is None:
        return None
    return reading(kind, service, facts.prometheuses, facts.monitoring, facts.namespace_labels)


def _scrapers(service: QwenService, facts: ClusterFacts) -> list[Object]:
    """Who may scrape besides the peers of the NetworkPolicy."""
    scraping = _reading("serviceMonitor", service, facts) if _monitored(service, facts) else None
    return scraper_peers(service, scraping or ())


def _removed(service: QwenService, facts: ClusterFacts, children: Sequence[Object]) -> list[Reference]:
    """The optional children of installed APIs that the spec does not ask for (anymore)."""

    name = child_name(service.name)
    possible = [
        (True, Reference("policy/v1", "PodDisruptionBudget", name)),
        (True, Reference("networking.k8s.io/v1", "NetworkPolicy", name)),
        (True, Reference("autoscaling/v2", "HorizontalPodAutoscaler", name)),
        (True, Reference("networking.k8s.io/v1", "Ingress", name)),
        (facts.has_scaled_object, Reference("keda.sh/v1alpha1", "ScaledObject", name)),
        (facts.has_service_monitor, Reference("monitoring.coreos.com/v1", "ServiceMonitor", name)),
        (facts.has_prometheus_rule, Reference("monitoring.coreos.com/v1", "PrometheusRule", name)),
        (facts.has_http_route, Reference("gateway.networking.k8s.io/v1", "HTTPRoute", name)),
    ]
    wanted = {Reference(child["apiVersion"], child["kind"], child["metadata"]["name"]) for child in children}
    return [reference for exists, reference in possible if exists and reference not in wanted]


def _old_jobs(facts: ClusterFacts, download: Download | None) -> list[Reference]:
    """The Jobs for what the spec no longer says, or that go on although the model is there."""
    return [
        Reference("batch/v1", "Job", job["metadata"]["name"])
        for job in facts.jobs
        if download is None or job["metadata"]["name"] != download.name or (download.done and not is_over(job))
    ]


def _cache_warnings(service: QwenService, cache: CacheSpec, facts: ClusterFacts) -> list[PlanWarning]:
    spec = service.spec
    modes: Sequence[str] = cache.access_modes
    if cache.existing_claim:
        claim = facts.claims.get(cache.existing_claim)
        modes = claim["spec"].get("accessModes", ()) if claim else ("ReadWriteMany",)
    pods = most_replicas(spec)
    surge = rollout_numbers(spec)[0] not in (0, "0%")
    if "ReadWriteMany" in modes or pods + surge <= 1:
        return []
    when = f"Up to {pods} replicas" if pods > 1 else "The old and the new pod of a rollout (rollout.maxSurge is not 0)"
    message = (
        f"{when} share a cache claim that only one node at a time can mount. Pods on other nodes will not start. "
        "Set cache.accessModes to [ReadWriteMany] with a storage class that supports it"
    )
    message += "." if pods > 1 else ", or rollout.maxSurge to 0."
    return [PlanWarning("CacheNotShared", message)]


def _warnings(service: QwenService, facts: ClusterFacts) -> list[PlanWarning]:
    spec = service.spec
    warnings = []
    if not _image(service, facts):
        message = f"The operator has no default image for {spec.engine.device}. Set engine.image."
        warnings.append(PlanWarning("ImageMissing", message))
    if rollout_means_downtime(spec):
        message = (
            "While the pods are replaced, none answers requests until a new one is ready (rollout.maxSurge is 0). "
            "If there is a spare GPU, set rollout.maxSurge to 1, or use more replicas."
        )
        warnings.append(PlanWarning("RolloutMeansDowntime", message))
    return [
        *warnings,
        *size_warnings(spec),
        *task_warnings(spec),
        *cache_warnings(spec),
        *claim_warnings(spec, supported=facts.has_resource_claims),
        *monitoring_warnings(
            service,
            has_monitors=facts.has_service_monitor,
            has_rules=facts.has_prometheus_rule,
            scraping=_reading("serviceMonitor", service, facts),
            evaluating=_reading("rule", service, facts),
            prometheuses=facts.prometheuses or (),
        ),
        *key_warnings(spec, has_metrics_key=bool(facts.metrics_keys)),
        *scraping_warnings(spec, admitted=bool(_scrapers(service, facts))),
        *exposure_warnings(spec, has_routes=facts.has_http_route, ingress_classes=facts.ingress_classes),
        *scaling_warnings(spec, has_keda=facts.has_scaled_object, trouble=facts.scaling_trouble),
    ]

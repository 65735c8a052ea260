"""The kinds of objects that the operator reads or writes, and their paths in the API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from qwen_operator.api import GROUP, KIND, PLURAL, VERSION


@dataclass(frozen=True)
class Resource:
    """One kind of object: its apiVersion, its kind, and its plural in URLs."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool = True

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """The URL path of a collection, an object or a subresource.

        No namespace means all namespaces.
        """
        root = "/api" if "/" not in self.api_version else "/apis"
        parts = [root, self.api_version]
        if self.namespaced and namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts += [part if part == self.plural else quote(part, safe="") for part in (self.plural, name) if part]
        return "/".join([*parts, subresource] if subresource else parts)


QWEN_SERVICES: Final = Resource(f"{GROUP}/{VERSION}", KIND, PLURAL)
PODS: Final = Resource("v1", "Pod", "pods")
NODES: Final = Resource("v1", "Node", "nodes", namespaced=False)
NAMESPACES: Final = Resource("v1", "Namespace", "namespaces", namespaced=False)
SERVICES: Final = Resource("v1", "Service", "services")
CONFIG_MAPS: Final = Resource("v1", "ConfigMap", "configmaps")
CLAIMS: Final = Resource("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
JOBS: Final = Resource("batch/v1", "Job", "jobs")
CORE_EVENTS: Final = Resource("v1", "Event", "events")
DEPLOYMENTS: Final = Resource("apps/v1", "Deployment", "deployments")
REPLICA_SETS: Final = Resource("apps/v1", "ReplicaSet", "replicasets")
LEASES: Final = Resource("coordination.k8s.io/v1", "Lease", "leases")
BUDGETS: Final = Resource("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
NETWORK_POLICIES: Final = Resource("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
AUTOSCALERS: Final = Resource("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
SERVICE_MONITORS: Final = Resource("monitoring.coreos.com/v1", "ServiceMonitor", "servicemonitors")
PROMETHEUS_RULES: Final = Resource("monitoring.coreos.com/v1", "PrometheusRule", "prometheusrules")
HTTP_ROUTES: Final = Resource("gateway.networking.k8s.io/v1", "HTTPRoute", "httproutes")
INGRESSES: Final = Resource("networking.k8s.io/v1", "Ingress", "ingresses")
INGRESS_CLASSES: Final = Resource("networking.k8s.io/v1", "IngressClass", "ingressclasses", namespaced=False)
SCALED_OBJECTS: Final = Resource("keda.sh/v1alpha1", "ScaledObject", "scaledobjects")
RESOURCE_CLAIMS: Final = Resource("resource.k8s.io/v1", "ResourceClaim", "resourceclaims")
PROMETHEUSES: Final = Resource("monitoring.coreos.com/v1", "Prometheus", "prometheuses")

_ALL: Final = (
    QWEN_SERVICES, PODS, NODES, SERVICES, CONFIG_MAPS, CLAIMS, JOBS, CORE_EVENTS, DEPLOYMENTS, REPLICA_SETS, LEASES,
    BUDGETS, NETWORK_POLICIES, AUTOSCALERS, SERVICE_MONITORS, PROMETHEUS_RULES, HTTP_ROUTES, INGRESSES, SCALED_OBJECTS,
)  # fmt: skip
_BY_KIND: Final = {(resource.api_version, resource.kind): resource for resource in _ALL}

OPTIONAL: Final = (SERVICE_MONITORS, PROMETHEUS_RULES, HTTP_ROUTES, SCALED_OBJECTS, RESOURCE_CLAIMS)
"""Kinds whose API may not be installed."""


def resource_of(api_version: str, kind: str) -> Resource:
    """The resource for an apiVersion and kind.

    KeyError for a kind that the operator does not handle.
    """

    return _BY_KIND[(api_version, kind)]


def resource_for(obj: Mapping[str, Any]) -> Resource:
    """The resource of an object."""
    return resource_of(obj["apiVersion"], obj["kind"])

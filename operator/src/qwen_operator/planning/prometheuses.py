"""Which Prometheus objects scrape a service, and how a NetworkPolicy admits them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from qwen_operator.api import QwenService
from qwen_operator.api.objects import Object
from qwen_operator.planning.builders.monitoring import build_service_monitor
from qwen_operator.planning.builders.selectors import selects

NAMESPACE_LABEL: Final = "kubernetes.io/metadata.name"
"""Every namespace has this label with its own name."""

_NAME_LABEL: Final = "operator.prometheus.io/name"
"""The Prometheus Operator gives it to the pods of a Prometheus object."""


def scraping(service: QwenService, prometheuses: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The Prometheus objects that select the service's ServiceMonitor."""
    labels = build_service_monitor(service)["metadata"]["labels"]
    return [
        prometheus
        for prometheus in prometheuses
        if selects(prometheus["spec"].get("serviceMonitorSelector"), labels)
        and _looks_into(prometheus, service.namespace)
    ]


def scraper_peers(service: QwenService, prometheuses: Sequence[Mapping[str, Any]]) -> list[Object]:
    """The peers that may scrape: those of the spec, else the pods of these Prometheus objects."""
    given = service.spec.monitoring.network_policy_from
    if given is not None:
        return [peer.to_dict() for peer in given]
    return [
        {
            "namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: prometheus["metadata"]["namespace"]}},
            "podSelector": {"matchLabels": {_NAME_LABEL: prometheus["metadata"]["name"]}},
        }
        for prometheus in prometheuses
    ]


def _looks_into(prometheus: Mapping[str, Any], namespace: str) -> bool:
    """Whether a Prometheus reads the ServiceMonitors of a namespace.

    Other labels of namespaces than their name are not known here. They count as matching.
    """
    selector = prometheus["spec"].get("serviceMonitorNamespaceSelector")
    if selector is None:
        return bool(prometheus["metadata"]["namespace"] == namespace)
    keys = {*(selector.get("matchLabels") or {})}
    keys |= {entry["key"] for entry in selector.get("matchExpressions") or ()}
    return not keys <= {NAMESPACE_LABEL} or selects(selector, {NAMESPACE_LABEL: namespace})

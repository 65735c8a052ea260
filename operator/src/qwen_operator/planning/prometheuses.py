"""Which Prometheus objects read what a service has for them, and how a NetworkPolicy admits them.
Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from qwen_operator.api import QwenService
from qwen_operator.api.objects import Object
from qwen_operator.planning.builders.monitoring import build_service_monitor
from qwen_operator.planning.builders.selectors import selects
from qwen_operator.planning.monitoring import MonitoringDefaults

Kind = Literal["serviceMonitor", "rule"]
"""How the fields of a Prometheus object begin that select ServiceMonitors and PrometheusRules."""

NAMESPACE_LABEL: Final = "kubernetes.io/metadata.name"
"""Every namespace has this label with its own name."""

_NAME_LABEL: Final = "operator.prometheus.io/name"
"""The Prometheus Operator gives it to the pods of a Prometheus object."""
_SHOWN: Final = 3
"""Of how many Prometheus objects a message shows the selectors."""


def reading(
    kind: Kind,
    service: QwenService,
    prometheuses: Sequence[Mapping[str, Any]],
    defaults: MonitoringDefaults,
    namespace_labels: Mapping[str, str] | None = None,
) -> Sequence[Mapping[str, Any]]:
    """The Prometheus objects that select the service's ServiceMonitor or PrometheusRule.

    Both have the same labels. `namespace_labels` are those of the service's namespace. If they are
    not known, a selector that asks for another label than the name counts as matching.
    """
    labels = build_service_monitor(service, defaults)["metadata"]["labels"]
    return [
        prometheus
        for prometheus in prometheuses
        if selects(prometheus["spec"].get(f"{kind}Selector"), labels)
        and _looks_into(prometheus, kind, service.namespace, namespace_labels)
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


def demands(kind: Kind, prometheuses: Sequence[Mapping[str, Any]]) -> str:
    """What some Prometheus objects select, for people: labels, and labels of namespaces."""
    shown = []
    for prometheus in prometheuses[:_SHOWN]:
        metadata, spec = prometheus["metadata"], prometheus["spec"]
        objects = _text(spec.get(f"{kind}Selector"), "no object")
        namespaces = _text(spec.get(f"{kind}NamespaceSelector"), "its own namespace", "namespaces with ")
        shown.append(f"{metadata['namespace']}/{metadata['name']} wants {objects} in {namespaces}")
    return "; ".join(shown)


def _looks_into(
    prometheus: Mapping[str, Any], kind: Kind, namespace: str, namespace_labels: Mapping[str, str] | None
) -> bool:
    """Whether a Prometheus reads the objects of a namespace."""
    selector = prometheus["spec"].get(f"{kind}NamespaceSelector")
    if selector is None:
        return bool(prometheus["metadata"]["namespace"] == namespace)
    if namespace_labels is None and not _keys(selector) <= {NAMESPACE_LABEL}:
        return True
    return selects(selector, {**(namespace_labels or {}), NAMESPACE_LABEL: namespace})


def _keys(selector: Mapping[str, Any] | None) -> set[str]:
    """The labels that a selector asks for."""
    given = selector or {}
    return {*(given.get("matchLabels") or {}), *(entry["key"] for entry in given.get("matchExpressions") or ())}


def _text(selector: Mapping[str, Any] | None, nothing: str, before: str = "") -> str:
    """A selector in words. `nothing` stands for one that is missing."""
    if selector is None:
        return nothing
    wanted = [f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items()]
    wanted += [
        " ".join([entry["key"], entry["operator"], ",".join(entry.get("values") or ())]).strip()
        for entry in selector.get("matchExpressions") or ()
    ]
    return f"{before}the labels {', '.join(wanted)}" if wanted else f"{before}any labels"

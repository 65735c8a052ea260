"""prometheus-operator and Prometheus in the cluster, as kube-prometheus-stack installs them.

They have a namespace and rights of their own. Prometheus takes the ServiceMonitors and
PrometheusRules of all namespaces that have the label `release`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.cluster import builds, registry
from tests.cluster.settings import Settings

NAMESPACE = "monitoring"
RELEASE = {"release": "kube-prometheus-stack"}
OPERATOR = "kube-prometheus-stack-operator"
PROMETHEUS = "kube-prometheus-stack-prometheus"
EVALUATION_SECONDS = 2
_SCRAPE_CONFIGS = "additional-scrape-configs"
_READ = ("get", "list", "watch")
_ALL = ("*",)

Object = dict[str, Any]
Rule = tuple[str, Sequence[str], Sequence[str]]

_OPERATOR_RULES: tuple[Rule, ...] = (
    (
        "monitoring.coreos.com",
        (
            "prometheuses",
            "prometheuses/finalizers",
            "prometheuses/status",
            "servicemonitors",
            "servicemonitors/status",
            "podmonitors",
            "probes",
            "prometheusrules",
        ),
        _ALL,
    ),
    ("apps", ("statefulsets",), _ALL),
    ("", ("configmaps", "secrets"), _ALL),
    ("", ("pods",), ("list", "delete")),
    ("", ("services", "services/finalizers", "endpoints"), ("get", "create", "update", "delete")),
    ("", ("nodes",), ("list", "watch")),
    ("", ("namespaces",), _READ),
    ("", ("events",), ("patch", "create")),
    ("networking.k8s.io", ("ingresses",), _READ),
    ("storage.k8s.io", ("storageclasses",), ("get",)),
)
_PROMETHEUS_RULES: tuple[Rule, ...] = (
    ("", ("nodes", "services", "endpoints", "pods"), _READ),
    ("", ("configmaps",), ("get",)),
    ("discovery.k8s.io", ("endpointslices",), _READ),
    ("networking.k8s.io", ("ingresses",), _READ),
)
_RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}


@dataclass(frozen=True)
class Images:
    """The images in the cluster's registry."""

    operator: str
    reloader: str
    prometheus: str


def ensure_images(settings: Settings) -> Images:
    """Build the programs and push an image of each, unless that is done. Raises Problem."""
    builds.ensure(settings, builds.MONITORING)
    folder = settings.bin / builds.PROMETHEUS.into
    pushed = {
        name: registry.ensure_program(settings, folder / name)
        for name in ("operator", "prometheus-config-reloader", "prometheus")
    }
    return Images(pushed["operator"], pushed["prometheus-config-reloader"], pushed["prometheus"])


def operator_objects(images: Images) -> list[Object]:
    """The namespace and prometheus-operator. Its CustomResourceDefinitions must be there."""
    container = {
        "name": "kube-prometheus-stack",
        "image": images.operator,
        "args": [
            f"--prometheus-config-reloader={images.reloader}",
            "--config-reloader-cpu-request=10m",
            "--config-reloader-memory-request=20Mi",
            "--kubelet-endpoints=false",
        ],
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "20m", "memory": "50Mi"}, "limits": {"memory": "300Mi"}},
        "securityContext": _RESTRICTED,
    }
    labels = {"app": OPERATOR}
    pod = {
        "serviceAccountName": OPERATOR,
        "securityContext": _user(65534),
        "containers": [container],
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": OPERATOR, "namespace": NAMESPACE},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    return [namespace, *_account(OPERATOR, _OPERATOR_RULES), deployment]


def prometheus_objects(images: Images, scrape_configs: Sequence[Object]) -> list[Object]:
    """The Prometheus with its rights. `scrape_configs` are jobs besides the ServiceMonitors'."""
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": _SCRAPE_CONFIGS, "namespace": NAMESPACE},
        "stringData": {"jobs.yaml": json.dumps(list(scrape_configs))},
    }
    selected = {"matchLabels": RELEASE}
    selectors: Object = {}
    for kind in ("serviceMonitor", "podMonitor", "probe", "rule"):
        selectors |= {f"{kind}Selector": selected, f"{kind}NamespaceSelector": {}}
    prometheus = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "Prometheus",
        "metadata": {"name": PROMETHEUS, "namespace": NAMESPACE, "labels": RELEASE},
        "spec": {
            "image": images.prometheus,
            "version": f"v{builds.PROMETHEUS_VERSION}",
            "replicas": 1,
            "portName": "http-web",
            "serviceAccountName": PROMETHEUS,
            "securityContext": {**_user(1000), "runAsGroup": 2000, "fsGroup": 2000},
            "scrapeInterval": "5s",
            "evaluationInterval": f"{EVALUATION_SECONDS}s",
            "additionalScrapeConfigs": {"name": _SCRAPE_CONFIGS, "key": "jobs.yaml"},
            "resources": {"requests": {"cpu": "50m", "memory": "100Mi"}, "limits": {"memory": "1Gi"}},
            **selectors,
        },
    }
    return [secret, *_account(PROMETHEUS, _PROMETHEUS_RULES), prometheus]


def cluster_wide() -> list[str]:
    """The objects outside of the namespace, for `kubectl delete`."""
    return [f"{kind}/{name}" for kind in ("clusterrole", "clusterrolebinding") for name in (OPERATOR, PROMETHEUS)]


def _user(number: int) -> Object:
    return {"runAsNonRoot": True, "runAsUser": number, "seccompProfile": {"type": "RuntimeDefault"}}


def _account(name: str, rules: Sequence[Rule]) -> list[Object]:
    """A ServiceAccount with its rights in the whole cluster."""
    api = "rbac.authorization.k8s.io"
    listed = [{"apiGroups": [group], "resources": list(kinds), "verbs": list(verbs)} for group, kinds, verbs in rules]
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": NAMESPACE}},
        {"apiVersion": f"{api}/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": listed},
        {
            "apiVersion": f"{api}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}],
        },
    ]

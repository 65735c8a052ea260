"""The Prometheus of the cluster for the end-to-end tests: its start, its end and its HTTP API."""

from __future__ import annotations

import json
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.cluster import network, prometheus_stack
from tests.cluster.settings import Settings
from tests.e2e.installed import kubectl_in
from tests.e2e.kubectl import Kubectl, Object, wait_for

_POD = f"operator.prometheus.io/name={prometheus_stack.PROMETHEUS}"


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus, asked from the cluster's network."""

    cluster: Settings
    pod: Object

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer of /api/v1. Raises URLError."""
        return self._ask(f"http://{self.pod['status']['podIP']}:9090/api/v1/{path}", parameters)["data"]

    def targets(self, pool: str) -> list[Object]:
        """The active targets of the scrape pools whose names begin with `pool`."""
        active: list[Object] = self.get("targets", state="active")["activeTargets"]
        return [target for target in active if target["scrapePool"].startswith(pool)]

    def names(self) -> set[str]:
        """The names of all series."""
        return set(self.get("label/__name__/values"))

    def query(self, expression: str) -> list[Object]:
        """The samples of an instant query."""
        found: list[Object] = self.get("query", query=expression)["result"]
        return found

    def value(self, expression: str) -> float:
        """The sum of the samples of a query; 0 without any."""
        return sum(float(sample["value"][1]) for sample in self.query(expression))

    def recent(self, expression: str, seconds: float) -> list[Object]:
        """The series of an expression over the last so many seconds, as a panel asks for them."""
        now = time.time()
        span = {"start": str(now - seconds), "end": str(now), "step": "5"}
        found: list[Object] = self.get("query_range", query=expression, **span)["result"]
        return found

    def alert(self, name: str, pod: str) -> Object:
        """The firing alert of a pod whose name ends with `name`; empty if there is none."""
        for alert in self.get("alerts")["alerts"]:
            labels = alert["labels"]
            if labels["alertname"].endswith(name) and labels.get("pod") == pod and alert["state"] == "firing":
                found: Object = alert
                return found
        return {}

    def alerts_of(self, pod: Object) -> list[Object]:
        """The active alerts that the server in a pod itself reports."""
        url = f"http://{pod['status']['podIP']}:8000/api/v1/metrics"
        alerts: list[Object] = self._ask(url)["alerts"]
        return alerts

    def _ask(self, url: str, parameters: dict[str, str] | None = None) -> Any:
        full = f"{url}?{urllib.parse.urlencode(parameters)}" if parameters else url

        def ask() -> Any:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(full, timeout=10) as answer:
                return json.load(answer)

        return network.inside(self.cluster.netns, ask)


@contextmanager
def prometheus_operator(cluster: Settings) -> Iterator[prometheus_stack.Images]:
    """Runs the Prometheus Operator during the block, and removes its namespace afterwards."""
    images = prometheus_stack.ensure_images(cluster)
    kubectl = _kubectl(cluster)
    kubectl.apply(*prometheus_stack.operator_objects(images))
    try:
        yield images
    finally:
        kubectl.run("delete", "prometheuses", "--all", "--timeout=60s")
        kubectl.run("wait", "--for=delete", "pod", "-l", _POD, "--timeout=90s")
        kubectl.run("delete", "namespace", prometheus_stack.NAMESPACE, "--timeout=90s")
        kubectl.run("delete", "--ignore-not-found", *prometheus_stack.cluster_wide())


def start(cluster: Settings, images: prometheus_stack.Images, scrape_configs: Sequence[Object]) -> Prometheus:
    """Starts a Prometheus. What it selects should be there: the kubelet brings changes late."""
    kubectl = _kubectl(cluster)
    kubectl.run("rollout", "status", f"deployment/{prometheus_stack.OPERATOR}", "--timeout=60s")
    kubectl.apply(*prometheus_stack.prometheus_objects(images, scrape_configs))

    def ready() -> list[Object]:
        return [
            pod
            for pod in kubectl.find("pods", _POD)
            if any(item["type"] == "Ready" and item["status"] == "True" for item in pod["status"].get("conditions", []))
        ]

    return Prometheus(cluster, wait_for(ready, 120, lambda: f"Prometheus is not ready:\n{diagnosis(cluster)}")[0])


def diagnosis(cluster: Settings) -> str:
    """What a person would look at if Prometheus does not start."""
    kubectl = _kubectl(cluster)
    parts = [
        kubectl.run("get", "prometheuses,statefulsets,pods", "-o", "wide"),
        kubectl.run("get", "events", "--sort-by=.lastTimestamp"),
        kubectl.run("logs", f"deployment/{prometheus_stack.OPERATOR}", "--tail=30"),
    ]
    return "\n".join(parts)


def _kubectl(cluster: Settings) -> Kubectl:
    return kubectl_in(cluster, prometheus_stack.NAMESPACE)

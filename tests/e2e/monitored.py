"""A service with scripted engines that a real Prometheus scrapes, as docs/monitoring.md says."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import yaml

from tests.cluster.demo import Client
from tests.cluster.prometheus_stack import EVALUATION_SECONDS, RELEASE
from tests.cluster.settings import ROOT, Settings
from tests.e2e import prometheus, scripted_pods
from tests.e2e.installed import kubectl_in
from tests.e2e.kubectl import Kubectl, Object, wait_for
from tests.e2e.prometheus import Prometheus
from tests.e2e.scripted_pods import scripted_service

NAME = "qwen2.5-7b"  # the dot is neither in the name of the Service nor in labels
SCRAPE_SECONDS = 2
# A server evaluates twice a second and renders once a second. The rest is for a busy node.
SCRAPED_SECONDS = SCRAPE_SECONDS + 1.5 + 4
# A sample has the time at which its scrape began, and the server may evaluate in the middle of it.
SCRAPE_TAKES_SECONDS = 2
# Prometheus may evaluate while it still reads the answer to a scrape.
SEEN_SECONDS = EVALUATION_SECONDS + SCRAPE_TAKES_SECONDS
MONITORING = {"interval": f"{SCRAPE_SECONDS}s", "labels": RELEASE}
Series = list[tuple[float, float]]
"""The times of a series, in seconds since the epoch, and its values."""


@dataclass(frozen=True)
class Incident:
    """An alert: since when a pod and Prometheus have had it, and its severity there.

    `scraped_at` is when Prometheus first got it from the pod.
    """

    since: float
    scraped_at: float
    active_at: float
    severities: tuple[str, str]

    def check(self, severity: str) -> None:
        """Fails unless Prometheus had the alert with the pod, as soon as it could have."""
        assert -SCRAPE_TAKES_SECONDS <= self.scraped_at - self.since <= SCRAPED_SECONDS
        assert 0 <= self.active_at - self.scraped_at <= SEEN_SECONDS
        assert self.severities == (severity, severity)


@dataclass(frozen=True)
class Monitored:
    """A service of two pods that Prometheus scrapes in each of the documented ways."""

    cluster: Settings
    kubectl: Kubectl
    prometheus: Prometheus
    pods: tuple[Object, Object]

    def own(self, metric: str) -> str:
        """A metric of this service: `name` or `name{labels}`, with its namespace."""
        name, _, labels = metric.partition("{")
        return f'{name}{{namespace="{self.kubectl.namespace}",{labels or "}"}'

    def targets(self, pool: str) -> list[Object]:
        """The targets of scrape pools in this service's namespace, or in the operator's."""
        namespaces = {self.kubectl.namespace, "qwen-system"}
        return [target for target in self.prometheus.targets(pool) if target["labels"].get("namespace") in namespaces]

    def in_the_pod(self, name: str, pod: Object) -> Object:
        """The alert that the server in a pod reports; empty if it is not active."""
        return next((alert for alert in self.prometheus.alerts_of(pod) if alert["name"] == name), {})

    def in_prometheus(self, name: str, pod: Object) -> Object:
        """The same alert in Prometheus; empty if it does not fire."""
        return self.prometheus.alert(name, pod["metadata"]["name"])

    def begun(self, name: str, pod: Object, timeout: float = 30) -> Incident:
        """Waits until the pod has the alert, and then Prometheus."""
        noticed = wait_for(lambda: self.in_the_pod(name, pod), timeout, f"{name} is not active in the pod")
        fired = wait_for(lambda: self.in_prometheus(name, pod), 30, f"{name} does not fire in Prometheus")
        severities = (noticed["severity"], fired["labels"]["severity"])
        since = _seconds(noticed["since"])
        samples = self._samples(name, pod)
        earliest = since - SCRAPE_TAKES_SECONDS
        scraped_at = min(time for series in samples for time, value in series if value == 1 and time >= earliest)
        return Incident(since, scraped_at, _seconds(fired["activeAt"]), severities)

    def over(self, name: str, pod: Object, timeout: float = 30) -> None:
        """Waits until the alert is over in the pod. Prometheus must follow soon."""
        wait_for(lambda: not self.in_the_pod(name, pod), timeout, f"{name} stays active in the pod", interval=0.25)
        wait_for(lambda: not self.in_prometheus(name, pod), 30, f"{name} stays in Prometheus", interval=0.25)
        fired = self._series(f'ALERTS{{alertname="Qwen{name}",alertstate="firing",pod="{pod["metadata"]["name"]}"}}')
        last = max(time for series in fired for time, _ in series)
        ended = max(_ended(series) for series in self._samples(name, pod))
        assert last - ended <= SEEN_SECONDS, f"{name} fired for {last - ended:.1f} s after the scrape that ended it"

    def _samples(self, name: str, pod: Object) -> list[Series]:
        """What Prometheus got from a pod about an alert, from each of its targets."""
        return self._series(f'qwen_alert_active{{pod="{pod["metadata"]["name"]}",name="{name}"}}')

    def _series(self, selector: str) -> list[Series]:
        """The series of the last five minutes."""
        found = self.prometheus.query(f"{selector}[5m]")
        return [[(float(time), float(value)) for time, value in series["values"]] for series in found]


@contextmanager
def monitored_service(cluster: Settings, client: Client, **sections: Any) -> Iterator[Monitored]:
    """Runs a service of two pods, and a Prometheus of its own, in a namespace of its own.

    Prometheus starts last: the kubelet would bring it a later target only after a minute.
    """
    label_operator(client)
    blocks = _documented_yaml()
    jobs = [job for block in blocks for job in block.get("scrape_configs", ())]
    [annotated] = [block["spec"] for block in blocks if "podTemplate" in block.get("spec", {})]
    service = scripted_service(NAME, 2, monitoring=MONITORING, **sections)
    service["spec"]["podTemplate"]["metadata"] = annotated["podTemplate"]["metadata"]
    with prometheus.prometheus_operator(cluster) as images, own_namespace(cluster, "monitored") as kubectl:
        scripted_pods.install(kubectl)
        kubectl.apply(service)
        kubectl.wait_ready(NAME, 2)
        running = prometheus.start(cluster, images, jobs)
        first, second = kubectl.find("pods", "app.kubernetes.io/name=qwen-server")
        yield Monitored(cluster, kubectl, running, (first, second))


@contextmanager
def own_namespace(cluster: Settings, title: str, *, unique: bool = True) -> Iterator[Kubectl]:
    """kubectl in a namespace that exists during the block. A failure in it prints a diagnosis.

    Its name is the title, followed by a random part if it is `unique`.
    """
    namespace = f"{title}-{uuid.uuid4().hex[:6]}" if unique else title
    kubectl = kubectl_in(cluster, namespace)
    kubectl.create_namespace()
    try:
        yield kubectl
    except AssertionError:
        print(kubectl.diagnosis())
        raise
    finally:
        kubectl.run("delete", "qwenservices", "--all", "--wait=false")
        kubectl.run("delete", "pods", "--all", "--grace-period=1", "--wait=true")
        kubectl.run("delete", "namespace", namespace, "--wait=false")


def label_operator(client: Client) -> None:
    """Has Prometheus select the operator's ServiceMonitor, and scrape it more often."""
    labels = ",".join(f"monitoring.labels.{name}={value}" for name, value in RELEASE.items())
    chart = str(ROOT / "charts" / "qwen-operator")
    settings = ("--set", labels, "--set", f"monitoring.serviceMonitor.interval={SCRAPE_SECONDS}s")
    client.helm("upgrade", "qwen-operator", chart, "--namespace", "qwen-system", "--reuse-values", *settings)


def _ended(series: Series) -> float:
    """When a series fell to 0 for the last time."""
    last = max((time for time, value in series if value == 1), default=0.0)
    return min((time for time, value in series if value == 0 and time > last), default=0.0)


def _documented_yaml() -> list[Any]:
    """The YAML blocks of the page, in order."""
    text = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    return [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]


def _seconds(stamp: str) -> float:
    moment = datetime.fromisoformat(stamp)
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()

"""What a real Prometheus sees, set up as docs/monitoring.md says: targets, series and an alert."""

from __future__ import annotations

import functools
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from tests.cluster.demo import Client
from tests.cluster.prometheus_stack import EVALUATION_SECONDS, RELEASE
from tests.cluster.settings import ROOT, Settings
from tests.e2e import prometheus, scripted_pods
from tests.e2e.kubectl import Kubectl, Object, wait_for
from tests.e2e.prometheus import Prometheus
from tests.e2e.scripted_pods import chat, scripted_service, toggle_hang

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NAME = "qwen2.5-7b"  # the dot is neither in the name of the Service nor in labels
ALERT = "EngineUnresponsive"
SCRAPE_SECONDS = 2
# A server evaluates twice a second and renders once a second. The rest is for a busy node.
LATE_SECONDS = SCRAPE_SECONDS + EVALUATION_SECONDS + 1.5 + 2
SECTIONS: dict[str, Any] = {
    "monitoring": {"interval": f"{SCRAPE_SECONDS}s", "labels": RELEASE},
    "networkPolicy": {"enabled": True},
    "alerts": [{"name": ALERT, "threshold": 3}],
    "remediation": {"rules": [{"alert": ALERT, "action": "Unready"}], "recoverAfter": "4s"},
}
ERROR = '@{"fail": "CUDA error: device-side assert triggered"}'
# What a node without GPUs and an engine without vLLM cannot show, by the beginnings of the names.
ELSEWHERE = ("qwen_gpu_", "vllm:")
MOVED = (
    'qwen_requests_total{outcome="successful"}',
    'qwen_requests_total{outcome="failed"}',
    'qwen_requests_total{outcome="refused"}',
    "qwen_refusals_total",
    "qwen_errors_total",
    'qwen_tokens_total{kind="input"}',
    'qwen_tokens_total{kind="output"}',
    "qwen_ttft_seconds_count",
    "qwen_inter_token_seconds_count",
    "qwen_request_duration_seconds_count",
    "qwen_queue_wait_seconds_count",
    "qwen_operator_remediation_actions_total",
)


@dataclass(frozen=True)
class Monitored:
    """A service of two pods that Prometheus scrapes in each of the documented ways."""

    cluster: Settings
    kubectl: Kubectl
    prometheus: Prometheus
    sick: Object
    healthy: Object

    def own(self, metric: str) -> str:
        """A metric of this service: `name` or `name{labels}`, with its namespace."""
        name, _, labels = metric.partition("{")
        return f'{name}{{namespace="{self.kubectl.namespace}",{labels or "}"}'

    def targets(self, pool: str) -> list[Object]:
        """The targets of scrape pools in this service's namespace, or in the operator's."""
        namespaces = {self.kubectl.namespace, "qwen-system"}
        return [target for target in self.prometheus.targets(pool) if target["labels"].get("namespace") in namespaces]


@dataclass(frozen=True)
class Incident:
    """An engine hung and went on: when the pod and Prometheus noticed it, and how severe it was."""

    since: float
    active_at: float
    severities: tuple[str, str]


def documented_yaml() -> list[Any]:
    """The YAML blocks of the page, in order."""
    text = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    return [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]


def documented_series() -> set[str]:
    """The metrics in the table of docs/operations.md, without their labels."""
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    section = text.split("\n## Metrics\n")[1].split("\n## ")[0]
    found: set[str] = set()
    for cell in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE):
        words = re.findall(r"`([a-z0-9_:*]+)(?:\{[a-z,]*\})?`", cell)
        names = [word for word in words if not word.startswith("_")]
        found.update(names)
        found.update(name + suffix for suffix in set(words).difference(names) for name in names)
    return found


def seconds(stamp: str) -> float:
    moment = datetime.fromisoformat(stamp)
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()


@pytest.fixture(scope="module")
def monitored(cluster: Settings, client: Client) -> Iterator[Monitored]:
    """Prometheus starts last: the kubelet would bring it a later target only after a minute."""
    labels = ",".join(f"monitoring.labels.{name}={value}" for name, value in RELEASE.items())
    chart = str(ROOT / "charts" / "qwen-operator")
    settings = ("--set", labels, "--set", f"monitoring.serviceMonitor.interval={SCRAPE_SECONDS}s")
    client.helm("upgrade", "qwen-operator", chart, "--namespace", "qwen-system", "--reuse-values", *settings)
    kubectl = Kubectl(cluster.bin / "kubectl", cluster.checkout_kubeconfig, f"monitored-{uuid.uuid4().hex[:6]}")
    blocks = documented_yaml()
    service = scripted_service(NAME, 2, **SECTIONS)
    [annotated] = [block["spec"] for block in blocks if "podTemplate" in block.get("spec", {})]
    service["spec"]["podTemplate"]["metadata"] = annotated["podTemplate"]["metadata"]
    jobs = [job for block in blocks for job in block.get("scrape_configs", ())]
    with prometheus.prometheus_operator(cluster) as images:
        kubectl.run("create", "namespace", kubectl.namespace)
        try:
            scripted_pods.install(kubectl)
            kubectl.apply(service)
            kubectl.wait_ready(NAME, 2, timeout=120)
            running = prometheus.start(cluster, images, jobs)
            sick, healthy = kubectl.find("pods", "app.kubernetes.io/name=qwen-server")
            yield Monitored(cluster, kubectl, running, sick, healthy)
        except AssertionError:
            print(kubectl.diagnosis())
            raise
        finally:
            kubectl.run("delete", "qwenservices", "--all", "--wait=false")
            kubectl.run("delete", "pods", "--all", "--grace-period=1", "--wait=true")
            kubectl.run("delete", "namespace", kubectl.namespace, "--wait=false")


@pytest.fixture(scope="module")
def incident(monitored: Monitored) -> Incident:
    """Sends requests of each outcome, hangs an engine, and lets it go on."""
    prom, sick, pod = monitored.prometheus, monitored.sick, monitored.sick["metadata"]["name"]
    assert set(chat(monitored.cluster, sick, "你好", 3)) == {200}
    assert chat(monitored.cluster, sick, ERROR) == [500]

    def in_the_pod() -> Object:
        return next((alert for alert in prom.alerts_of(sick) if alert["name"] == ALERT), {})

    assert (in_the_pod(), prom.alert(ALERT, pod)) == ({}, {})
    toggle_hang(sick)
    noticed = wait_for(in_the_pod, 30, "the pod does not notice that its engine hangs")
    fired = wait_for(lambda: prom.alert(ALERT, pod), 30, "Prometheus does not fire the alert of the pod")
    assert chat(monitored.cluster, sick, "你好") == [503]
    steps = monitored.own(f'qwen_operator_remediation_actions_total{{alert="{ALERT}"}}')
    wait_for(lambda: prom.value(steps) > 0, 60, "Prometheus does not see that the pod was taken out")
    toggle_hang(sick)
    wait_for(lambda: not in_the_pod(), 30, "the pod does not notice that its engine goes on")
    wait_for(lambda: not prom.alert(ALERT, pod), LATE_SECONDS, "Prometheus keeps the alert", interval=0.25)
    severities = (noticed["severity"], fired["labels"]["severity"])
    return Incident(seconds(noticed["since"]), seconds(fired["activeAt"]), severities)


def test_all_targets_are_up(monitored: Monitored) -> None:
    own = f"serviceMonitor/{monitored.kubectl.namespace}/"
    of_pods = (own, "qwen-servers", "kubernetes-pods")
    wanted = {**dict.fromkeys(of_pods, 2), "serviceMonitor/qwen-system/": 1, "qwen-operator-metrics": 1}

    def problems() -> list[str]:
        found = []
        for pool, least in wanted.items():
            targets = monitored.targets(pool)
            if len(targets) < least:
                found.append(f"{pool} has {len(targets)} targets instead of {least}")
            found += [f"{target['scrapeUrl']}: {target['lastError']}" for target in targets if target["health"] != "up"]
        return found

    wait_for(lambda: not problems(), 30, lambda: "; ".join(problems()))
    pods = {monitored.sick["metadata"]["name"], monitored.healthy["metadata"]["name"]}
    services = {found["metadata"]["name"] for found in monitored.kubectl.find("services")}
    for pool in of_pods:
        labels = [target["labels"] for target in monitored.targets(pool)]
        assert {item["pod"] for item in labels} == pods
        assert {item["namespace"] for item in labels} == {monitored.kubectl.namespace}
        assert {item["service"] for item in labels} <= services


def test_the_same_alert_is_active_in_prometheus_and_in_the_pod_until_it_is_over(incident: Incident) -> None:
    assert 0 <= incident.active_at - incident.since <= LATE_SECONDS
    assert incident.severities == ("critical", "critical")


def test_every_documented_series_is_there(monitored: Monitored, incident: Incident) -> None:
    wanted = {name for name in documented_series() if not name.startswith(ELSEWHERE)}
    assert len(wanted) > 25
    names = monitored.prometheus.names()
    assert {name for name in wanted if not {name, f"{name}_count"} & names} == set()


@pytest.mark.parametrize("metric", MOVED)
def test_load_moves_the_series(monitored: Monitored, incident: Incident, metric: str) -> None:
    expression = monitored.own(metric)
    wait_for(lambda: monitored.prometheus.value(expression) > 0, 10, f"{expression} is 0")


def test_the_network_policy_admits_this_prometheus(monitored: Monitored) -> None:
    """The node's network enforces no policies, so the selectors are compared."""
    scraper = monitored.prometheus.pod["metadata"]

    def admits(peer: Object) -> bool:
        namespace = peer.get("namespaceSelector", {}).get("matchLabels", {})
        labels = peer.get("podSelector", {}).get("matchLabels", {})
        there = namespace == {"kubernetes.io/metadata.name": scraper["namespace"]}
        return there and bool(labels) and labels.items() <= scraper["labels"].items()

    def admitted() -> bool:
        [policy] = monitored.kubectl.find("networkpolicies")
        [rule] = policy["spec"]["ingress"]
        assert rule["ports"] == [{"port": "http", "protocol": "TCP"}]
        return any(admits(peer) for peer in rule["from"])

    wait_for(admitted, 75, "the NetworkPolicy does not admit Prometheus")  # the operator looks every minute


def test_a_selected_service_has_no_warning_about_prometheus(monitored: Monitored) -> None:
    warnings = functools.partial(monitored.kubectl.condition, NAME, "HasWarnings")
    wait_for(lambda: "Prometheus" not in warnings()["message"], 75, lambda: f"{warnings()}")

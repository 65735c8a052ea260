"""What a real Prometheus sees, set up as docs/monitoring.md says: targets, series and an alert."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from charts.dashboards import NEEDS, PanelQuery, queries

from tests.cluster.demo import Client
from tests.cluster.settings import ROOT, Settings
from tests.e2e.guide_blocks import blocks
from tests.e2e.kubectl import Object, wait_for
from tests.e2e.monitored import NAME, Incident, Monitored, monitored_service
from tests.e2e.scripted_pods import chat, toggle_hang

pytestmark = [pytest.mark.cluster, pytest.mark.local_node, pytest.mark.timeout(600)]

ALERT = "EngineUnresponsive"
SECTIONS: dict[str, Any] = {
    "networkPolicy": {"enabled": True},
    "alerts": [{"name": ALERT, "threshold": 3}],
    "slo": {"availability": "99", "ttft": {"threshold": "1s", "objective": "95"}},
    # It is not restarted, so the alert stays until the engine goes on.
    "remediation": {"rules": [{"alert": ALERT, "action": "Unready"}], "recoverAfter": "4s"},
}
ERROR = '@{"fail": "CUDA error: device-side assert triggered"}'
# What a node without GPUs and an engine without vLLM cannot show, by the beginnings of the names.
# Series of a GPU, of adapters and of tenants, which this service does not have.
ELSEWHERE = ("qwen_gpu_", "qwen_adapter_", "qwen_tenant_", "vllm:")
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

QUERIED_SECONDS = 300  # the incident is in this range
# What some panels wait for, and the incident has had.
HAPPENED = {"a request that was refused, and one that failed", "a remediation step"}


def documented_series() -> set[str]:
    """The metrics in the table of docs/operations.md, without their labels."""
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    section = text.split("\n## Metrics\n")[1].split("\n## ")[0]
    found: set[str] = set()
    for cell in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE):
        words = re.findall(r"`([a-z0-9_:*]+)(?:\{[a-z,]*\})?`", cell)
        windows = [word for word in words if re.fullmatch(r"\d+[mhd]", word)]
        suffixes = [word for word in words if word.startswith("_")]
        names = [word for word in words if word not in {*windows, *suffixes}]
        found.update(names)
        found.update(name + suffix for suffix in suffixes for name in names)
        found.update(name.removesuffix("5m") + window for window in windows for name in names)
    return found


@pytest.fixture(scope="module")
def monitored(cluster: Settings, client: Client) -> Iterator[Monitored]:
    with monitored_service(cluster, client, **SECTIONS) as found:
        yield found


@pytest.fixture(scope="module")
def incident(monitored: Monitored) -> Incident:
    """Sends requests of each outcome, hangs an engine, and lets it go on."""
    sick, _ = monitored.pods
    assert set(chat(monitored.cluster, sick, "你好", 3)) == {200}
    assert chat(monitored.cluster, sick, ERROR) == [500]
    assert (monitored.in_the_pod(ALERT, sick), monitored.in_prometheus(ALERT, sick)) == ({}, {})
    toggle_hang(sick)
    found = monitored.begun(ALERT, sick)
    assert chat(monitored.cluster, sick, "你好") == [503]
    steps = monitored.own(f'qwen_operator_remediation_actions_total{{alert="{ALERT}"}}')
    wait_for(lambda: monitored.prometheus.value(steps) > 0, 60, "Prometheus does not see that the pod was taken out")
    toggle_hang(sick)
    monitored.over(ALERT, sick)
    return found


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
    pods = {pod["metadata"]["name"] for pod in monitored.pods}
    services = {service["metadata"]["name"] for service in monitored.kubectl.find("services")}
    for pool in of_pods:
        labels = [target["labels"] for target in monitored.targets(pool)]
        assert {item["pod"] for item in labels} == pods
        assert {item["namespace"] for item in labels} == {monitored.kubectl.namespace}
        assert {item["service"] for item in labels} <= services


def test_the_same_alert_is_active_in_prometheus_and_in_the_pod_until_it_is_over(incident: Incident) -> None:
    incident.check("critical")


def test_every_documented_series_is_there(monitored: Monitored, incident: Incident) -> None:
    wanted = {name for name in documented_series() if not name.startswith(ELSEWHERE)}
    assert len(wanted) > 25

    def missing() -> set[str]:
        names = monitored.prometheus.names()
        return {name for name in wanted if not {name, f"{name}_count"} & names}

    wait_for(lambda: not missing(), 30, lambda: f"missing: {missing()}")


@pytest.mark.parametrize("metric", MOVED)
def test_load_moves_the_series(monitored: Monitored, incident: Incident, metric: str) -> None:
    expression = monitored.own(metric)
    wait_for(lambda: monitored.prometheus.value(expression) > 0, 10, f"{expression} is 0")


def test_every_query_of_the_dashboards_returns_data(monitored: Monitored, incident: Incident) -> None:
    """Each panel and annotation, for a service whose name has a dot.

    What needs a GPU, a restart or a watch that fails is empty here, and so is what vLLM exports.
    """
    assert set(NEEDS.values()) >= HAPPENED
    asked = [
        query
        for query in queries(monitored.kubectl.namespace, NAME)
        if query.needs in {None, *HAPPENED} and "vllm:" not in query.expression
    ]
    assert len(asked) > 90

    def empty() -> list[str]:
        return [f"{query.dashboard}, {query.panel}: {query.expression}" for query in asked if not has_data(query)]

    def has_data(query: PanelQuery) -> bool:
        return bool(monitored.prometheus.recent(query.expression, QUERIED_SECONDS))

    wait_for(lambda: not empty(), 30, lambda: "\n".join(empty()))


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


def test_the_queries_of_prometheus_adapter_find_the_queue_of_each_pod(monitored: Monitored) -> None:
    """The adapter fills the templates of docs/autoscaling.md like this, for a workload's pods."""
    [values] = [block.text for block in blocks("docs/autoscaling.md") if "metricsQuery" in block.text]
    [rule] = yaml.safe_load(values)["rules"]["custom"]
    labels = {item["resource"]: label for label, item in rule["resources"]["overrides"].items()}
    pods = {pod["metadata"]["name"] for pod in monitored.pods}
    matchers = f'{labels["namespace"]}="{monitored.kubectl.namespace}",{labels["pod"]}=~"{"|".join(sorted(pods))}"'
    query: str = rule["metricsQuery"]
    for name, value in (("Series", rule["name"]["as"]), ("LabelMatchers", matchers), ("GroupBy", labels["pod"])):
        query = query.replace(f"<<.{name}>>", value)

    def queues() -> dict[str, float]:
        return {sample["metric"]["pod"]: float(sample["value"][1]) for sample in monitored.prometheus.query(query)}

    wait_for(lambda: queues() == dict.fromkeys(pods, 0.0), 30, lambda: f"{query}: {queues()}")
    found = monitored.prometheus.get("series", **{"match[]": rule["seriesQuery"]})
    assert {series["__name__"] for series in found} == {rule["name"]["matches"]}
    assert all(set(labels.values()) <= series.keys() for series in found)

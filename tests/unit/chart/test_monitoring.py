"""ServiceMonitor and alerts: when they are made, and that they speak of metrics that exist."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from charts import generate
from charts.dashboards.promql import SERVER

from qwen_operator.api.catalogue import NAMES
from qwen_operator.planning.builders.burnrate import ALERT as ERROR_BUDGET_BURN
from qwen_operator.planning.builders.prometheusrule import ENGINE_RESTARTS, NOT_SCRAPED
from qwen_operator.planning.monitoring import RUNBOOKS as RUNBOOKS_URL
from qwen_operator.process.operator_metrics import REGISTRY

from .conftest import ROOT, Rendered, render

API = ("--api-versions", "monitoring.coreos.com/v1")
RUNBOOKS = ROOT / "docs" / "runbooks"
SECTIONS = [
    "Urgency",
    "What users notice",
    "Confirm",
    "What the operator does by itself",
    "What to do",
    "When it is over",
]
ALL = {"enabled": True}


def kinds(rendered: Rendered) -> set[str]:
    return {manifest["kind"] for manifest in rendered.manifests} & {"ServiceMonitor", "PrometheusRule", "ConfigMap"}


def switched(enabled: Any) -> dict[str, Any]:
    return {"monitoring": {part: {"enabled": enabled} for part in ("serviceMonitor", "prometheusRule", "dashboards")}}


def server_metrics() -> set[str]:
    """What the server's Prometheus page holds, by the calls that make its families."""
    text = (ROOT / "server" / "src" / "qwen_server" / "observe" / "prometheus_page.py").read_text(encoding="utf-8")
    made = re.findall(r'(gauge|family|histogram)\(\s*"((?:qwen|vllm)_[a-z0-9_]+)"', text)
    assert len(made) > 15
    return {name + suffix for kind, name in made for suffix in suffixes(kind)}


def operator_metrics() -> set[str]:
    suffix = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
    return {family.name + end for family in REGISTRY.collect() for end in suffix[family.type]}


def suffixes(kind: str) -> tuple[str, ...]:
    return ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)


def rules(rendered: Rendered) -> list[dict[str, Any]]:
    (group,) = rendered.one("PrometheusRule")["spec"]["groups"]
    found: list[dict[str, Any]] = group["rules"]
    assert found
    return found


def test_auto_makes_nothing_where_the_api_is_missing(default: Rendered) -> None:
    assert kinds(default) == set()


def test_auto_makes_everything_where_the_api_exists() -> None:
    assert kinds(render(None, *API)) == {"ServiceMonitor", "PrometheusRule", "ConfigMap"}


@pytest.mark.parametrize("enabled", [True, "true"])
def test_true_makes_everything_anywhere(enabled: Any) -> None:
    assert kinds(render(switched(enabled))) == {"ServiceMonitor", "PrometheusRule", "ConfigMap"}


@pytest.mark.parametrize("enabled", [False, "false"])
def test_false_makes_nothing_anywhere(enabled: Any) -> None:
    assert kinds(render(switched(enabled), *API)) == set()


def test_prometheus_finds_the_operator_and_keeps_the_services_labels() -> None:
    rendered = render({"monitoring": {"labels": {"release": "prometheus"}, "serviceMonitor": ALL}})
    monitor = rendered.one("ServiceMonitor")
    service = rendered.one("Service")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["honorLabels"] is True
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_rules_look_at_this_release_and_not_at_one_of_its_name_elsewhere() -> None:
    rendered = render(switched(True), release="blue")
    service = rendered.one("Service")["metadata"]["name"]
    for rule in rules(rendered):
        assert f'job="{service}"' in rule["expr"]
        assert not re.search("@[A-Z]+@", json.dumps(rule))
        if rule["alert"].startswith("QwenOperator"):
            assert 'namespace="qwen-system"' in rule["expr"]
            assert rule["labels"].get("namespace") == "qwen-system" or "by (namespace" in rule["expr"]
        else:
            assert "by (namespace, service, qwenservice)" in rule["expr"]
            assert 'namespace="' not in rule["expr"]


def test_without_a_monitor_nobody_knows_the_job_and_no_target_is_no_alert() -> None:
    values = {"monitoring": {"serviceMonitor": {"enabled": False}, "prometheusRule": ALL}}
    found = rules(render(values))
    names = {rule["alert"] for rule in found}
    assert {rule["alert"] for rule in rules(render(switched(True)))} - names == {"QwenOperatorDown"}
    for rule in found:
        assert "job=" not in rule["expr"]


def test_the_operator_labels_the_objects_of_services_like_its_own() -> None:
    labels = {"release": "prometheus", "team": "news"}
    rendered = render({"monitoring": {"labels": labels, "serviceMonitor": ALL, "prometheusRule": ALL}})
    variables = {item["name"]: item.get("value") for item in rendered.container["env"]}
    assert variables["QWEN_OPERATOR_MONITORING_LABELS"] == "release=prometheus,team=news"
    assert variables["QWEN_OPERATOR_RUNBOOK_BASE_URL"] == RUNBOOKS_URL
    for kind in ("ServiceMonitor", "PrometheusRule"):
        assert labels.items() <= rendered.one(kind)["metadata"]["labels"].items()
    plain = {item["name"]: item.get("value") for item in render().container["env"]}
    assert plain["QWEN_OPERATOR_MONITORING_LABELS"] == ""


def documented_jobs() -> dict[str, dict[str, Any]]:
    """The jobs of a Prometheus of one's own, by their names."""
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    blocks = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)]
    return {job["job_name"]: job for block in blocks for job in block.get("scrape_configs", ())}


@pytest.mark.parametrize("name", ["qwen-servers", "kubernetes-pods"])
def test_the_documented_jobs_of_pods_make_the_labels_of_the_dashboards_and_alerts(name: str) -> None:
    made = {item.get("target_label") for item in documented_jobs()[name]["relabel_configs"]}
    assert {"namespace", "service", "pod", "qwenservice"} <= made
    assert "qwenservice=" in SERVER


def test_only_pods_of_the_operators_namespace_may_report_on_any_service() -> None:
    """A QwenService can give its pods a port `metrics` and the labels of an operator's pod."""
    jobs = documented_jobs()
    believed = {name: job for name, job in jobs.items() if job.get("honor_labels")}
    assert believed.keys() == {"qwen-operator-metrics"}
    for discovery in believed["qwen-operator-metrics"]["kubernetes_sd_configs"]:
        assert discovery["namespaces"] == {"names": [generate.NAMESPACE]}


def test_nobody_misses_a_leader_where_none_is_elected() -> None:
    alone = render({**switched(True), "replicas": 1, "leaderElection": {"enabled": False}})
    without = {rule["alert"] for rule in rules(alone)}
    assert {rule["alert"] for rule in rules(render(switched(True)))} - without == {"QwenOperatorNoLeader"}


def test_rules_use_metrics_of_the_operator() -> None:
    for rule in rules(render(switched(True))):
        used = set(re.findall(r"\bqwen_[a-z0-9_]+", rule["expr"]))
        assert used <= operator_metrics(), rule["alert"]


def test_every_rule_says_what_is_wrong_and_where_to_read_on() -> None:
    for rule in rules(render(switched(True))):
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["annotations"]["summary"].endswith(".")
        assert "$value" in rule["annotations"]["description"] or rule["alert"] == "QwenOperatorDown"
        assert rule["annotations"]["runbook_url"] == f"{RUNBOOKS_URL}/{rule['alert']}.md"


def test_runbooks_can_be_elsewhere() -> None:
    base = {"monitoring": {"prometheusRule": {"enabled": True, "runbookBaseUrl": "https://r.example.com/"}}}
    for rule in rules(render(base)):
        assert rule["annotations"]["runbook_url"] == f"https://r.example.com/{rule['alert']}.md"


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    pages = {page.stem for page in RUNBOOKS.glob("*.md")} - {"README"}
    of_services = {*NAMES, ERROR_BUDGET_BURN, NOT_SCRAPED, ENGINE_RESTARTS}
    assert pages == of_services | {rule["alert"] for rule in rules(render(switched(True)))}
    index = (RUNBOOKS / "README.md").read_text(encoding="utf-8")
    for page in pages:
        assert f"({page}.md)" in index
        text = (RUNBOOKS / f"{page}.md").read_text(encoding="utf-8")
        assert text.startswith(f"# {page}\n")
        assert re.findall("^## (.*)$", text, re.MULTILINE) == SECTIONS, page
        assert f"`{page if page.startswith('Qwen') else f'Qwen{page}'}`" in text, page
        assert "```console" in text.partition("## Confirm\n")[2].partition("\n## ")[0], page
        # A release and a QwenService have any name: the variables of the index stand for them.
        assert not re.search(r"qwen-system|deployments?/qwen-operator|helm \w+ qwen-operator|\"news\"", text), page

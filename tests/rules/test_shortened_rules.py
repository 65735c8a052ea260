"""The rules with which the end-to-end test tries every alert, and its table of causes."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import yaml
from charts import generate

from qwen_operator.api import QwenService
from qwen_operator.api.catalogue import CATALOGUE
from qwen_operator.planning.builders.burnrate import ALERT as BURN
from qwen_operator.planning.builders.prometheusrule import ENGINE_RESTARTS, NOT_SCRAPED
from tests.e2e.causes import CAUSES
from tests.e2e.shortened_rules import LABEL, alerts_of, identity, seconds, shortened
from tests.e2e.stage import FAILING, SPECS, service
from tests.rules.test_rules import promtool
from tests.unit.qwen_operator.objects import UID, Object, child

LABELS = {"release": "prometheus"}
BURNS = {f"{BURN} {slo} {severity}" for slo in ("availability", "ttft") for severity in ("critical", "warning")}


def of_service(name: str) -> Object:
    """The PrometheusRule of a service of the end-to-end test."""
    given = service(name)
    metadata = {**given["metadata"], "namespace": "default", "uid": UID, "generation": 1}
    parsed = QwenService.parse({**given, "metadata": metadata, "status": {}})
    return child(parsed, "PrometheusRule", has_prometheus_rule=True, has_service_monitor=True)


@cache
def of_chart() -> Object:
    """The PrometheusRule of the chart."""
    values = "monitoring.prometheusRule.enabled=true,monitoring.serviceMonitor.enabled=true"
    text = generate.render("--set", values, "--show-only", "templates/prometheusrule.yaml")
    found: Object = yaml.safe_load(text)
    return found


def everything() -> list[Object]:
    return [*map(of_service, SPECS), of_chart()]


def identities(rules: list[Object]) -> set[str]:
    return {identity(alert) for rule in rules for alert in alerts_of(rule)}


def test_the_table_of_causes_has_each_alert_of_both_rules() -> None:
    files = {path.stem for path in (generate.CHART / "files" / "alerts").glob("*.yaml")}
    assert set(CAUSES) == {f"Qwen{alert.name}" for alert in CATALOGUE} | {NOT_SCRAPED, ENGINE_RESTARTS} | BURNS | files


def test_the_services_of_the_test_have_each_alert() -> None:
    assert identities(everything()) == set(CAUSES)


@pytest.mark.parametrize("name", [*SPECS, "chart"])
def test_copies_are_valid_and_differ_in_their_times_only(name: str, tmp_path: Path) -> None:
    rule = of_chart() if name == "chart" else of_service(name)
    copy = shortened(rule, LABELS)
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(copy["spec"]), encoding="utf-8")
    assert "SUCCESS" in promtool("check", "rules", str(path))
    assert copy["metadata"] == {"name": f"shortened-{rule['metadata']['name']}", "labels": LABELS}
    originals = {identity(alert): alert for alert in alerts_of(rule)}
    for alert in alerts_of(copy):
        original = originals[identity(alert)]
        assert alert["labels"] == {**original["labels"], LABEL: "true"}
        assert alert["annotations"] == original["annotations"]
        assert timeless(alert["expr"]) == timeless(original["expr"])
        assert seconds(alert.get("for", "0s")) == seconds(original.get("for", "0s")) // 30


@pytest.mark.parametrize("name", [*SPECS, "chart"])
def test_what_has_no_copy_has_no_times(name: str) -> None:
    rule = of_chart() if name == "chart" else of_service(name)
    copied = {identity(alert) for alert in alerts_of(shortened(rule, LABELS))}
    for alert in alerts_of(rule):
        if identity(alert) not in copied:
            assert not seconds(alert.get("for", "0s"))
            assert "[" not in alert["expr"]


def timeless(expression: str) -> str:
    """An expression without its windows, in which the copied records have their old names."""
    return re.sub(r"\[\w+\]", "[]", expression.replace("shortened:", ""))


def test_an_alert_reads_the_copies_of_its_records() -> None:
    copy = shortened(of_service(FAILING), LABELS)
    records = [rule for group in copy["spec"]["groups"] for rule in group["rules"] if "record" in rule]
    found = {rule["record"].rpartition("rate")[2]: set(re.findall(r"\[(\w+)\]", rule["expr"])) for rule in records}
    assert found == {"30m": {"60s"}, "6h": {"720s"}, "3d": {"8640s"}}
    for alert in alerts_of(copy):
        used = set(re.findall(r"[\w:]*ratio_rate\w+", alert["expr"]))
        assert used <= {rule["record"] for rule in records}


def test_a_short_window_still_holds_several_scrapes() -> None:
    rule = {"alert": "Often", "expr": "increase(restarts[1m]) > 2", "for": "5m", "labels": {}}
    given = {"metadata": {"name": "news"}, "spec": {"groups": [{"name": "news", "rules": [rule]}]}}
    [copy] = alerts_of(shortened(given, LABELS))
    assert (copy["expr"], copy["for"]) == ("increase(restarts[10s]) > 2", "10s")


@pytest.mark.parametrize(("text", "expected"), [("0m", 0), ("30s", 30), ("1h30m", 5400), ("3d", 259200)])
def test_durations_of_prometheus_are_read(text: str, expected: int) -> None:
    assert seconds(text) == expected

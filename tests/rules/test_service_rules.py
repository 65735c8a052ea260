"""The PrometheusRule of a QwenService, checked by promtool."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.rules.test_rules import promtool
from tests.unit.qwen_operator.objects import child, service

POD = 'namespace="default",service="news",pod="news-1"'
OTHER = 'namespace="default",service="other",pod="other-1"'
LABELS = {"namespace": "default", "service": "news", "pod": "news-1", "qwenservice": "news"}


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The groups of the service's PrometheusRule as a file of rules."""
    path = tmp_path_factory.mktemp("service-rules") / "rules.yaml"
    built = child(
        service(alerts=[{"name": "LowThroughput", "threshold": 10}]), "PrometheusRule", has_prometheus_rule=True
    )
    path.write_text(yaml.safe_dump(built["spec"]), encoding="utf-8")
    return path


def judge(rules: Path, series: dict[str, str], at: str, alert: str, severity: str | None) -> None:
    """Asserts that the alert fires for news-1 at `at` with a severity, or (None) does not fire."""
    expected = [{"exp_labels": {**LABELS, "severity": severity}}] if severity else []
    group = yaml.safe_load(rules.read_text(encoding="utf-8"))["groups"][0]
    rule = next(rule for rule in group["rules"] if rule["alert"] == alert)
    for entry in expected:
        text = {key: value.replace("{{ $labels.namespace }}", "default").replace("{{ $labels.pod }}", "news-1")
                for key, value in rule["annotations"].items()}  # fmt: skip
        entry["exp_annotations"] = text
    case = {
        "rule_files": [str(rules)],
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": [{"eval_time": at, "alertname": alert, "exp_alerts": expected}],
            }
        ],
    }
    path = rules.parent / f"{alert}.test.yaml"
    path.write_text(yaml.safe_dump(case), encoding="utf-8")
    promtool("test", "rules", str(path))


def test_rules_are_valid(rules: Path) -> None:
    count = len(yaml.safe_load(rules.read_text(encoding="utf-8"))["groups"][0]["rules"])
    assert f"SUCCESS: {count} rules found" in promtool("check", "rules", str(rules))


@pytest.mark.parametrize(("name", "severity"), [("HighTTFT", "warning"), ("EngineUnresponsive", "critical")])
def test_alert_of_the_server_fires_at_once(rules: Path, name: str, severity: str) -> None:
    series = {
        f'qwen_alert_active{{{POD},name="{name}"}}': "0 0 1 1",
        f'qwen_alert_active{{{OTHER},name="{name}"}}': "1x4",
    }
    judge(rules, series, "15s", name, None)
    judge(rules, series, "45s", name, severity)


def test_dead_server_fires_after_two_minutes(rules: Path) -> None:
    series = {f"up{{{POD}}}": "1 1 0x20"}
    judge(rules, series, "90s", "EngineDead", None)
    judge(rules, series, "4m", "EngineDead", "critical")

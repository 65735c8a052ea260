"""The chart's alerts and the dashboards' queries, checked by promtool."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from charts import generate
from charts.dashboards import queries

HERE = Path(__file__).parent


def promtool(*arguments: str) -> str:
    """Runs promtool and returns its output; fails with its errors."""
    binary = shutil.which("promtool")
    assert binary is not None, "promtool is missing; Debian's package prometheus has it"
    result = subprocess.run([binary, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The groups of the chart's PrometheusRule as a file of rules."""
    path = tmp_path_factory.mktemp("rules") / "rules.yaml"
    shown = generate.render(
        "--set",
        "monitoring.prometheusRule.enabled=true,monitoring.serviceMonitor.enabled=true",
        "--show-only",
        "templates/prometheusrule.yaml",
    )
    path.write_text(yaml.safe_dump(yaml.safe_load(shown)["spec"]), encoding="utf-8")
    return path


def test_rules_are_valid(rules: Path) -> None:
    count = len(list((generate.CHART / "files" / "alerts").glob("*.yaml")))
    assert f"SUCCESS: {count} rules found" in promtool("check", "rules", str(rules))


def test_alerts_fire_when_they_should_and_not_before(rules: Path) -> None:
    shutil.copy(HERE / "operator_alerts.test.yaml", rules.parent)
    promtool("test", "rules", str(rules.parent / "operator_alerts.test.yaml"))


def test_every_alert_has_a_case(rules: Path) -> None:
    declared = {rule["alert"] for group in yaml.safe_load(rules.read_text())["groups"] for rule in group["rules"]}
    cases = yaml.safe_load((HERE / "operator_alerts.test.yaml").read_text(encoding="utf-8"))["tests"]
    fired = {check["alertname"] for case in cases for check in case["alert_rule_test"] if check.get("exp_alerts")}
    assert fired == declared


def test_queries_of_the_dashboards_are_valid(tmp_path: Path) -> None:
    expressions = [query.expression for query in queries("default", "news")]
    records = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(expressions)]
    path = tmp_path / "dashboards.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": records}]}), encoding="utf-8")
    assert f"{len(records)} rules found" in promtool("check", "rules", str(path))

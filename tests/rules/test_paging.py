"""The expressions of docs/operations.md that page without the Prometheus Operator, by promtool."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.rules.test_rules import promtool
from tests.rules.test_service_rules import NEWS, POD, run

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
LABELS = {"namespace": "default", "service": "news"}
CRITICAL, DIED = "Critical", "Died"


def expressions() -> list[str]:
    """The two expressions of the page, in its section about alerts."""
    section = PAGE.read_text(encoding="utf-8").partition("\n### Alerts\n")[2].partition("\n### ")[0]
    found: list[str] = re.findall(r"^```\n(.+?)\n```$", section, re.MULTILINE | re.DOTALL)
    return found


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """A file with a rule for each expression."""
    path = tmp_path / "rules.yaml"
    alerts = [{"alert": name, "expr": text} for name, text in zip((CRITICAL, DIED), expressions(), strict=True)]
    path.write_text(yaml.safe_dump({"groups": [{"name": "paging", "rules": alerts}]}), encoding="utf-8")
    promtool("check", "rules", str(path))
    return path


def judge(rules: Path, series: dict[str, str], at: str, alert: str, *labels: dict[str, str]) -> None:
    """Asserts that exactly these alerts fire, by their labels."""
    expected = [{"exp_labels": found} for found in labels]
    run(rules, series, alert_rule_test=[{"eval_time": at, "alertname": alert, "exp_alerts": expected}])


def test_a_critical_alert_pages_once_a_service_while_it_is_active(rules: Path) -> None:
    hung = 'name="EngineUnresponsive",severity="critical"'
    series = {
        f"qwen_alert_active{{{POD},{hung}}}": "0 0 1 1 0",
        f'qwen_alert_active{{{NEWS},pod="news-2",{hung}}}': "0 0 1 1 0",
        f'qwen_alert_active{{{POD},name="QueueSaturated",severity="warning"}}': "1x5",
    }
    judge(rules, series, "15s", CRITICAL)
    judge(rules, series, "30s", CRITICAL, {**LABELS, "name": "EngineUnresponsive"})
    judge(rules, series, "60s", CRITICAL)


def test_a_dead_engine_pages_for_a_quarter_of_an_hour(rules: Path) -> None:
    deaths = f'qwen_operator_engine_deaths_total{{{NEWS},qwenservice="news",job="o",pod="o-1"}}'
    series = {deaths: "0x80 1x120"}
    judge(rules, series, "19m", DIED)
    judge(rules, series, "21m", DIED, LABELS)
    judge(rules, series, "40m", DIED)

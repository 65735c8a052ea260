"""The alerts on error budgets: their paces, windows and ratios."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.unit.qwen_operator.objects import Object, child, service


def burn_rules(**spec: Any) -> list[Object]:
    found = child(service(**spec), "PrometheusRule", has_prometheus_rule=True)
    groups = {group["name"]: group["rules"] for group in found["spec"]["groups"]}
    return list(groups["qwen-news-slo"])


def limits(**slo: Any) -> dict[str, list[str]]:
    """The thresholds of the alerts on error budgets, by severity."""
    rules = [rule for rule in burn_rules(slo=slo) if "alert" in rule]
    return {rule["labels"]["severity"]: re.findall(r"> ([0-9.e-]+)", rule["expr"]) for rule in rules}


def test_without_objectives_there_are_no_burn_rates() -> None:
    found = child(service(), "PrometheusRule", has_prometheus_rule=True)
    assert [group["name"] for group in found["spec"]["groups"]] == ["qwen-news", "qwen-news-records"]


def test_burn_rates_are_those_of_the_workbook() -> None:
    assert limits(availability="99.9") == {
        "critical": ["0.0144", "0.0144", "0.006", "0.006"],
        "warning": ["0.001", "0.001"],
    }
    assert limits(availability="99.9", window="90d")["warning"] == ["0.003", "0.003"]


def test_a_pace_that_no_ratio_exceeds_is_left_out() -> None:
    assert limits(availability="90") == {"critical": ["0.6", "0.6"], "warning": ["0.1", "0.1"]}
    assert limits(availability="50") == {"warning": ["0.5", "0.5"]}


def test_every_objective_has_the_ratio_of_each_window() -> None:
    slo = {"availability": "99.5", "ttft": {"threshold": "2s", "objective": "95"}}
    records = [rule for rule in burn_rules(slo=slo) if "record" in rule]
    assert [rule["record"].rpartition("_rate")[2] for rule in records] == ["5m", "30m", "1h", "6h", "3d"] * 2
    assert {rule["labels"]["slo"] for rule in records} == {"availability", "ttft"}
    for rule in records:
        window = rule["record"].rpartition("_rate")[2]
        assert re.findall(r"\[(\w+)\]", rule["expr"]) == [window, window]


@pytest.mark.parametrize(
    ("threshold", "bound"), [("2s", "2([.]0)?"), ("500ms", "0[.]5"), ("1m", "60([.]0)?"), ("5ms", "0[.]005")]
)
def test_bounds_match_both_ways_in_which_prometheus_writes_them(threshold: str, bound: str) -> None:
    rules = burn_rules(slo={"ttft": {"threshold": threshold, "objective": "95"}})
    assert f'le=~"{bound}"' in rules[0]["expr"]

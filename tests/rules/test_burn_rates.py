"""The alerts on error budgets, judged by promtool over hours of requests."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from qwen_operator.planning.builders.burnrate import ALERT
from tests.rules.test_rules import promtool
from tests.unit.qwen_operator.objects import Object, child, service

SLO = {"availability": "99.5", "ttft": {"threshold": "2s", "objective": "95"}}
NEWS = 'namespace="default",service="news"'
Phase = tuple[int, int]
"""Requests a minute, and for how many minutes."""


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Object]]:
    """The service's rules about its objectives, and the file that holds them."""
    path = tmp_path_factory.mktemp("burn-rates") / "rules.yaml"
    built = child(service(slo=SLO), "PrometheusRule", has_prometheus_rule=True)
    (found,) = [group for group in built["spec"]["groups"] if group["name"] == "qwen-news-slo"]
    path.write_text(yaml.safe_dump({"groups": [found]}), encoding="utf-8")
    return path, found["rules"]


def counter(*phases: Phase) -> str:
    """A counter in promtool's notation, a value a minute."""
    total = 0
    parts = []
    for rate, minutes in phases:
        parts.append(f"{total}+{rate}x{minutes - 1}")
        total += rate * minutes
    return " ".join(parts)


def requests(outcome: str, *phases: Phase, pods: str = NEWS, pod: str = "news-1") -> dict[str, str]:
    """The requests of a pod with an outcome."""
    return {f'qwen_requests_total{{{pods},pod="{pod}",outcome="{outcome}"}}': counter(*phases)}


def tokens(fast: int, all_of_them: int, minutes: int, bound: str = "2") -> dict[str, str]:
    """The requests whose first token came within two seconds, and all."""
    return {
        f'qwen_ttft_seconds_bucket{{{NEWS},pod="news-1",le="{bound}"}}': counter((fast, minutes)),
        f'qwen_ttft_seconds_bucket{{{NEWS},pod="news-1",le="+Inf"}}': counter((all_of_them, minutes)),
        f'qwen_ttft_seconds_count{{{NEWS},pod="news-1"}}': counter((all_of_them, minutes)),
    }


def judge(group: tuple[Path, list[Object]], series: dict[str, str], at: str, *expected: tuple[str, str, str]) -> None:
    """Asserts that exactly these alerts fire: objective, severity, and the ratio of errors."""
    path, rules = group
    alerts = []
    for slo, severity, ratio in expected:
        labels = {"slo": slo, "severity": severity, "qwenservice": "news"}
        [rule] = [rule for rule in rules if rule.get("alert") == ALERT and rule["labels"] == labels]
        annotations = {
            key: text.replace("{{ $value | humanizePercentage }}", ratio) for key, text in rule["annotations"].items()
        }
        alerts.append(
            {
                "exp_labels": {"namespace": "default", "service": "news", **labels},
                "exp_annotations": annotations,
            }
        )
    case = {
        "rule_files": [str(path)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": [{"eval_time": at, "alertname": ALERT, "exp_alerts": alerts}],
            }
        ],
    }
    test = path.parent / "case.test.yaml"
    test.write_text(yaml.safe_dump(case), encoding="utf-8")
    promtool("test", "rules", str(test))


def test_rules_are_valid(group: tuple[Path, list[Object]]) -> None:
    path, rules = group
    assert f"SUCCESS: {len(rules)} rules found" in promtool("check", "rules", str(path))


def test_many_errors_page_within_minutes(group: tuple[Path, list[Object]]) -> None:
    series = requests("successful", (90, 20)) | requests("failed", (10, 20))
    judge(group, series, "10m", ("availability", "critical", "10%"), ("availability", "warning", "10%"))


def test_refused_requests_are_errors_and_what_clients_do_wrong_is_none(group: tuple[Path, list[Object]]) -> None:
    refused = requests("successful", (90, 20)) | requests("refused", (10, 20))
    judge(group, refused, "10m", ("availability", "critical", "10%"), ("availability", "warning", "10%"))
    theirs = requests("successful", (50, 20)) | requests("rejected", (50, 20)) | requests("aborted", (50, 20))
    judge(group, theirs, "10m")


def test_few_errors_make_a_ticket_and_what_the_objective_allows_nothing(group: tuple[Path, list[Object]]) -> None:
    judge(
        group,
        requests("successful", (99, 400)) | requests("failed", (1, 400)),
        "6h30m",
        ("availability", "warning", "1%"),
    )
    judge(group, requests("successful", (996, 400)) | requests("failed", (4, 400)), "6h30m")


def test_a_page_ends_soon_after_the_errors(group: tuple[Path, list[Object]]) -> None:
    series = requests("successful", (90, 60), (100, 60)) | requests("failed", (10, 60), (0, 60))
    judge(group, series, "59m", ("availability", "critical", "10%"), ("availability", "warning", "10%"))
    judge(group, series, "1h40m", ("availability", "warning", "6%"))


def test_a_minute_of_errors_is_no_reason_to_wake_anybody(group: tuple[Path, list[Object]]) -> None:
    series = requests("successful", (100, 300), (0, 1), (100, 9)) | requests("failed", (0, 300), (100, 1), (0, 9))
    judge(group, series, "5h3m")


def test_no_requests_and_errors_of_others_are_no_errors(group: tuple[Path, list[Object]]) -> None:
    other = 'namespace="default",service="other"'
    idle = requests("successful", (0, 20)) | requests("failed", (0, 20))
    judge(group, idle | requests("failed", (100, 20), pods=other), "10m")


def test_the_errors_of_all_pods_count_together(group: tuple[Path, list[Object]]) -> None:
    well = requests("successful", (900, 20)) | requests("failed", (0, 20))
    sick = requests("failed", (100, 20), pod="news-2")
    judge(group, well | sick, "10m", ("availability", "critical", "10%"), ("availability", "warning", "10%"))


@pytest.mark.parametrize("bound", ["2", "2.0"])
def test_late_first_tokens_use_up_their_own_budget(group: tuple[Path, list[Object]], bound: str) -> None:
    judge(group, tokens(96, 100, 20, bound), "10m")
    judge(group, tokens(90, 100, 20, bound), "10m", ("ttft", "warning", "10%"))
    judge(group, tokens(20, 100, 20, bound), "10m", ("ttft", "critical", "80%"), ("ttft", "warning", "80%"))

"""The PrometheusRule of a QwenService, checked by promtool: each alert fires and does not fire."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from qwen_operator.api.catalogue import CATALOGUE
from qwen_operator.api.series import labels_of
from tests.rules.test_rules import promtool
from tests.unit.qwen_operator.objects import Object, child, service

NEWS = 'namespace="default",service="news"'
POD = f'{NEWS},pod="news-1"'
# Its name begins like that of the service, and so do the names of its pods.
OTHER = 'namespace="default",service="news-2",pod="news-2-1"'
OFF = {"LowThroughput", "HighLatency"}
REPORTED = [alert for alert in CATALOGUE if alert.name != "EngineDead"]
DOTTED = "qwen2.5-7b"
TOKENS = {"input": 30, "output": 3}
"""Tokens in each step of 15 seconds."""


def write(folder: Path, subject: Any) -> Path:
    """Writes the groups of a service's PrometheusRule as a file of rules."""
    path = folder / "rules.yaml"
    built = child(subject, "PrometheusRule", has_prometheus_rule=True, has_service_monitor=True)
    path.write_text(yaml.safe_dump({"groups": built["spec"]["groups"]}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rules of a service in which every alert is on."""
    alerts = [{"name": name, "threshold": 10} for name in sorted(OFF)]
    slo = {"ttft": {"threshold": "2s", "objective": "95"}}
    return write(tmp_path_factory.mktemp("service-rules"), service(alerts=alerts, slo=slo))


@pytest.fixture(scope="module")
def dotted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rules of a service whose name is not that of its Kubernetes Service."""
    return write(tmp_path_factory.mktemp("dotted-rules"), service(DOTTED))


def all_rules(path: Path) -> list[Object]:
    groups = yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def run(rules: Path, series: dict[str, str], **checks: list[Object]) -> None:
    """Runs promtool on a case with a value of each series every 15 seconds."""
    case = {
        "rule_files": [str(rules)],
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                **checks,
            }
        ],
    }
    path = rules.parent / "case.test.yaml"
    path.write_text(yaml.safe_dump(case), encoding="utf-8")
    promtool("test", "rules", str(path))


def judge(rules: Path, series: dict[str, str], at: str, alert: str, *fired: tuple[dict[str, str], str]) -> None:
    """Asserts that an alert fires exactly with these labels, beside the static ones, and texts.

    A text is what the description says in place of the value, or of the name of a pod.
    """
    (rule,) = [rule for rule in all_rules(rules) if rule.get("alert") == alert]
    expected = []
    for labels, text in fired:
        annotations = dict(rule["annotations"])
        shown = annotations["description"]
        for name, value in labels.items():
            shown = shown.replace(f"{{{{ $labels.{name} }}}}", value)
        shown = re.sub(r"{{ with .*{{ end }}|{{ \$value .*? }}", text.replace("\\", r"\\"), shown)
        annotations["description"] = shown
        expected.append({"exp_labels": {**labels, **rule["labels"]}, "exp_annotations": annotations})
    run(rules, series, alert_rule_test=[{"eval_time": at, "alertname": alert, "exp_alerts": expected}])


def test_rules_are_valid(rules: Path) -> None:
    assert f"SUCCESS: {len(all_rules(rules))} rules found" in promtool("check", "rules", str(rules))


def test_every_alert_is_judged_here_or_with_the_error_budgets(rules: Path) -> None:
    names = {rule["alert"] for rule in all_rules(rules) if "alert" in rule}
    others = {"QwenEngineDead", "QwenServiceNotScraped", "QwenServiceEngineRestarts", "QwenErrorBudgetBurn"}
    assert names == {f"Qwen{alert.name}" for alert in REPORTED} | others


@pytest.mark.parametrize("alert", REPORTED, ids=lambda alert: alert.name)
def test_an_alert_of_the_server_fires_at_once_with_its_value_and_for_its_pod_only(rules: Path, alert: Any) -> None:
    name = f'name="{alert.name}"'
    series = {
        f'qwen_alert_active{{{POD},{name},severity="warning"}}': "0 0 1 1 0",
        f"qwen_alert_value{{{POD},{name}}}": "0 0 16.23 17 0",
        f'qwen_alert_active{{{OTHER},{name},severity="warning"}}': "1x5",
        f"qwen_alert_value{{{OTHER},{name}}}": "99x5",
    }
    labels = {"namespace": "default", "service": "news", "pod": "news-1"}
    value = "16" if alert.unit == "count" else "16.2"
    judge(rules, series, "15s", f"Qwen{alert.name}")
    judge(rules, series, "30s", f"Qwen{alert.name}", (labels, value))
    judge(rules, series, "60s", f"Qwen{alert.name}")


def test_the_first_death_of_an_engine_is_an_alert_and_ends_by_itself(rules: Path) -> None:
    deaths = f'qwen_operator_engine_deaths_total{{{NEWS},qwenservice="news",job="o",pod="o-1"}}'
    series = {deaths: "0x80 1x120", f"up{{{POD}}}": "1x80 0x20 1x100"}
    labels = {"namespace": "default", "service": "news"}
    judge(rules, series, "19m", "QwenEngineDead")
    judge(rules, series, "21m", "QwenEngineDead", (labels, "1"))
    judge(rules, series, "40m", "QwenEngineDead")


def test_a_pod_that_cannot_be_scraped_is_not_dead(rules: Path) -> None:
    deaths = f'qwen_operator_engine_deaths_total{{{NEWS},qwenservice="news",job="o",pod="o-1"}}'
    judge(rules, {deaths: "0x200", f"up{{{POD}}}": "0x200"}, "45m", "QwenEngineDead")


def test_a_pod_that_cannot_be_scraped_is_a_warning_after_a_long_start(rules: Path) -> None:
    series = {f"up{{{POD}}}": "1 0x100", f"up{{{OTHER}}}": "0x100"}
    labels = {"namespace": "default", "service": "news", "pod": "news-1"}
    judge(rules, series, "14m", "QwenServiceNotScraped")
    judge(rules, series, "16m", "QwenServiceNotScraped", (labels, "pod news-1"))


def test_an_engine_that_dies_again_is_a_warning_until_an_hour_has_passed(rules: Path) -> None:
    died, asked = (f'qwen_engine_restarts_total{{{POD},cause="{cause}"}}' for cause in ("died", "requested"))
    labels = {"namespace": "default", "service": "news", "pod": "news-1"}
    alert = "QwenServiceEngineRestarts"
    judge(rules, {died: "0x40 1x200", asked: "0x20 1x10 2x10 3x200"}, "30m", alert)
    judge(rules, {died: "0x40 1x40 2x400"}, "22m", alert, (labels, "2"))
    judge(rules, {died: "0x40 1x40 2x400"}, "82m", alert)


@pytest.mark.parametrize(("ready", "fires"), [("1x100", True), ("0x100", False)])
def test_a_service_that_serves_without_a_target_is_a_warning(rules: Path, ready: str, *, fires: bool) -> None:
    condition = f'qwen_operator_condition{{{NEWS},qwenservice="news",type="Ready",job="o",pod="o-1"}}'
    labels = {"namespace": "default", "service": "news"}
    expected = [(labels, "any pod, because it has no target")] if fires else []
    judge(rules, {condition: ready}, "16m", "QwenServiceNotScraped", *expected)
    judge(rules, {condition: ready, f"up{{{POD}}}": "1x100"}, "16m", "QwenServiceNotScraped")


def test_the_alerts_of_a_dotted_name_match_its_series(dotted: Path) -> None:
    _, name, _ = labels_of(("default", DOTTED))
    series = f'qwen_operator_engine_deaths_total{{namespace="default",service="{name}",qwenservice="{DOTTED}"}}'
    labels = {"namespace": "default", "service": name}
    judge(dotted, {series: "0x40 1x60"}, "11m", "QwenEngineDead", (labels, "1"))


def record(rules: Path, series: dict[str, str], name: str, *samples: tuple[str, float]) -> None:
    """Asserts what a recording rule has recorded after ten minutes, to three digits."""
    expected = [{"labels": f"{{{labels}}}", "value": value} for labels, value in samples]
    expression = f"round(service:{name}, 0.001)"
    run(rules, series, promql_expr_test=[{"expr": expression, "eval_time": "10m", "exp_samples": expected}])


def requests(service_name: str = "news", **a_step: int) -> dict[str, str]:
    """Requests by outcome, so many in each step of 15 seconds for each of two pods."""
    labels = f'namespace="default",service="{service_name}"'
    return {
        f'qwen_requests_total{{{labels},pod="{pod}",outcome="{outcome}"}}': f"0+{count}x60"
        for outcome, count in a_step.items()
        for pod in ("a", "b")
    }


def histogram(name: str, service_name: str = "news") -> dict[str, str]:
    """A histogram of a pod: in each step one value up to 0.5, one up to 1, none above."""
    labels = f'namespace="default",service="{service_name}",pod="a"'
    counts = {"0.5": 1, "1": 2, "2": 2, "+Inf": 2}
    return {f'{name}_bucket{{{labels},le="{bound}"}}': f"0+{count}x60" for bound, count in counts.items()}


@pytest.mark.parametrize(
    "latency",
    ["qwen_ttft_seconds", "qwen_inter_token_seconds", "qwen_request_duration_seconds", "qwen_queue_wait_seconds"],
)
def test_quantiles_of_each_latency_are_recorded(rules: Path, latency: str) -> None:
    name = f"{latency}:quantile_rate5m"
    samples = [(f'{NEWS},quantile="{quantile}"', float(quantile)) for quantile in ("0.5", "0.95", "0.99")]
    record(rules, histogram(latency), name, *samples)
    record(rules, histogram(latency, "news-2"), name)


def test_errors_and_availability_are_recorded(rules: Path) -> None:
    series = requests(successful=6, failed=2, refused=2, rejected=5, aborted=5)
    record(rules, series, "qwen_requests:error_ratio_rate5m", (NEWS, 0.25))
    record(rules, series, "qwen_requests:availability_ratio_rate5m", (NEWS, 0.6))


def test_tokens_are_recorded_by_kind(rules: Path) -> None:
    series = {f'qwen_tokens_total{{{POD},kind="{kind}"}}': f"0+{step}x60" for kind, step in TOKENS.items()}
    record(rules, series, "qwen_tokens:rate5m", (f'{NEWS},kind="input"', 2.0), (f'{NEWS},kind="output"', 0.2))


def test_good_answers_are_those_in_time_or_all_without_an_objective(rules: Path, dotted: Path) -> None:
    name = "qwen_requests:goodput_rate5m"
    late = {f'qwen_ttft_seconds_bucket{{{POD},le="5"}}': "0+9x60"}
    in_time = {f'qwen_ttft_seconds_bucket{{{POD},le="2"}}': "0+3x60"}
    record(rules, {**requests(successful=6), **late, **in_time}, name, (NEWS, 0.2))
    _, named, _ = labels_of(("default", DOTTED))
    labels = f'namespace="default",service="{named}"'
    record(dotted, requests(named, successful=6, failed=9), name, (labels, 0.8))

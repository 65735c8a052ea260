"""The dashboards: what their queries ask for, where their panels lie, how they are installed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Any

import promql_parser
import pytest
from charts import generate
from charts.dashboards import NEEDS, VARIABLE, PanelQuery, controller, documents, expressions, fleet, layout, queries
from charts.dashboards import service as one_service
from charts.dashboards.promql import grown
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from qwen_operator.process import operator_metrics
from qwen_operator.process.service_series import ServiceSeries
from qwen_server.observe.gpu import GpuReading
from qwen_server.observe.observation import Observation
from qwen_server.observe.prometheus_page import families
from qwen_server.observe.request_figures import RequestFigures

from .conftest import render

DOTTED = "qwen2.5-7b"
# What Prometheus adds to each series, by the two ServiceMonitors.
OF_TARGETS = {"namespace", "service", "pod", "container", "endpoint", "job", "instance", "qwenservice"}
# tests/integration/test_vllm_metrics.py finds these on the engine's own page.
OF_THE_ENGINE = {
    "vllm:num_preemptions_total",
    "vllm:prefix_cache_hits_total",
    "vllm:prefix_cache_queries_total",
}
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
UIDS = (fleet.UID, one_service.UID, controller.UID)


def server_series() -> Iterator[tuple[str, set[str]]]:
    """Each series of a server on a GPU that has refused a request and failed at another."""
    figures = RequestFigures(clock=lambda: 0.0)
    figures.counters.errors["internal"] += 1
    figures.counters.refusals["queue_full"] += 1
    seen = Observation(
        now=1.0,
        wall=datetime(2026, 1, 1, tzinfo=UTC),
        started_at=0.0,
        model="Qwen/Qwen3-8B",
        state="ready",
        status="healthy",
        asleep=False,
        answers=True,
        accepts=True,
        waiting=0,
        running=0,
        peak_running=0,
        waiting_limit=1,
        running_limit=1,
        rate_limit=None,
        figures=figures,
        gpu=GpuReading(name="NVIDIA H100", allocated=1, total=2, temperature=50.0),
        gpu_reserved_bytes=0,
        rules=(("QueueSaturated", "warning"),),
        alerts=(),
        hung_seconds=0.0,
        stalled_seconds=0.0,
        kv_cache_usage=0.0,
        patches={"output-tap": True},
    )
    for family in text_string_to_metric_families("\n".join(families(seen))):
        for sample in family.samples:
            yield sample.name, set(sample.labels)


def operator_series() -> Iterator[tuple[str, set[str]]]:
    """Each series of the operator, those of its process included."""
    for metric in vars(operator_metrics).values():
        if isinstance(metric, MetricWrapperBase):
            for suffix in SUFFIXES[str(metric._type)]:
                yield metric._name + suffix, {*metric._labelnames, *(["le"] if suffix == "_bucket" else [])}
        elif isinstance(metric, ServiceSeries):
            [family] = metric.describe()
            yield family.name + ("_total" if family.type == "counter" else ""), {*metric.labels}
    for family in operator_metrics.REGISTRY.collect():
        if family.name.startswith("process_"):
            for sample in family.samples:
                yield sample.name, set(sample.labels)


@cache
def exported() -> dict[str, set[str]]:
    """The labels of every series that a program exports, those of its target included."""
    known = {name: {"model_name", "engine", *OF_TARGETS} for name in OF_THE_ENGINE}
    for name, labels in [*server_series(), *operator_series()]:
        known[name] = known.get(name, set()) | labels | OF_TARGETS
    assert {"qwen_ttft_seconds_bucket", "qwen_operator_leader", "process_cpu_seconds_total"} <= known.keys()
    return known


def nodes(expression: str) -> list[Any]:
    """Every part of an expression. Fails if it is no PromQL."""
    found: list[Any] = []
    promql_parser.walk(promql_parser.parse(expression), pre_visit=found.append)
    return found


def asked() -> list[PanelQuery]:
    return list(queries("models", DOTTED))


def named(query: PanelQuery) -> str:
    return f"{query.dashboard}-{query.panel}"


@pytest.mark.parametrize("query", asked(), ids=named)
def test_a_query_asks_for_series_and_labels_that_exist(query: PanelQuery) -> None:
    parts = nodes(query.expression)
    selectors = [part for part in parts if isinstance(part, promql_parser.VectorSelector)]
    assert selectors
    labels = set(OF_TARGETS)
    for selector in selectors:
        assert selector.name in exported()
        matched = {matcher.name for matcher in selector.matchers.matchers}
        assert matched
        assert matched <= exported()[selector.name], selector.name
        labels |= exported()[selector.name]
    for part in parts:
        if isinstance(part, promql_parser.AggregateExpr) and part.modifier is not None:
            assert set(part.modifier.labels) <= labels


def test_no_variable_is_left_in_a_query() -> None:
    for query in asked():
        assert not VARIABLE.findall(query.expression), query


def test_a_service_is_chosen_by_its_whole_name() -> None:
    """So a service `news` does not show the pods of `news-en`, and a name may have dots."""
    for query in asked():
        if query.dashboard != one_service.UID:
            continue
        selectors = [part for part in nodes(query.expression) if isinstance(part, promql_parser.VectorSelector)]
        assert selectors
        for selector in selectors:
            equal = {
                matcher.name: matcher.value
                for matcher in selector.matchers.matchers
                if matcher.op == promql_parser.MatchOp.Equal
            }
            assert (equal["namespace"], equal["qwenservice"]) == ("models", DOTTED)


@pytest.mark.parametrize("uid", UIDS)
def test_a_legend_names_labels_of_its_query(uid: str) -> None:
    for panel in documents()[uid]["panels"]:
        for target in panel.get("targets", ()):
            names = set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")))
            groups = {name for by in re.findall(r"by \(([^)]*)\)", target["expr"]) for name in by.split(", ")}
            assert names <= groups, panel["title"]


def test_a_counter_that_begins_with_its_first_event_is_seen() -> None:
    assert grown("m_total", 'a="b"', "1m") == (
        '(m_total{a="b"} unless m_total{a="b"} offset 1m or increase(m_total{a="b"}[1m]))'
    )
    annotations = [query for query in asked() if query.panel == "annotation: Remediation steps"]
    assert len(annotations) == 1
    assert " unless " in annotations[0].expression


def test_what_a_query_needs_is_said_of_panels_that_exist() -> None:
    there = {(uid, title) for uid, document in documents().items() for title, _ in expressions(document)}
    assert NEEDS.keys() <= there
    assert {query.needs for query in asked() if query.panel == "GPU faults"} == {"a GPU"}
    assert {query.needs for query in asked() if query.panel == "Requests by outcome"} == {None}


@pytest.mark.parametrize("uid", UIDS)
def test_panels_do_not_overlap(uid: str) -> None:
    taken: set[tuple[int, int]] = set()
    panels = documents()[uid]["panels"]
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    numbers = [panel["id"] for panel in panels]
    assert sorted(numbers) == list(range(1, len(panels) + 1))


@pytest.mark.parametrize("uid", UIDS)
def test_a_title_is_used_once(uid: str) -> None:
    titles = [panel["title"] for panel in documents()[uid]["panels"] if panel["type"] != "row"]
    assert len(titles) == len(set(titles))


@pytest.mark.parametrize("uid", UIDS)
def test_every_query_goes_to_the_chosen_prometheus(uid: str) -> None:
    document = documents()[uid]
    first, *others = document["templating"]["list"]
    assert (first["name"], first["type"], first["query"]) == ("datasource", "datasource", "prometheus")
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    targets = [target for panel in document["panels"] for target in panel.get("targets", ())]
    for part in [*others, *targets, *document["annotations"]["list"]]:
        assert part["datasource"] == chosen


def test_the_variables_are_labels_that_exist() -> None:
    for document in documents().values():
        for variable in document["templating"]["list"][1:]:
            query = re.fullmatch(r"label_values\((\w+)(?:\{.*\})?, (\w+)\)", variable["query"])
            assert query is not None, variable["query"]
            assert query[2] in exported()[query[1]]


def test_a_service_of_the_table_opens_its_dashboard() -> None:
    (table,) = (panel for panel in documents()[fleet.UID]["panels"] if panel["type"] == "table")
    links = [
        link
        for override in table["fieldConfig"]["overrides"]
        for setting in override["properties"]
        if setting["id"] == "links"
        for link in setting["value"]
    ]
    assert [link["url"].partition("?")[0] for link in links] == [f"/d/{one_service.UID}"]


def test_dashboards_lie_in_a_config_map_that_grafanas_sidecar_finds() -> None:
    config = render({"monitoring": {"dashboards": {"enabled": True}}}).one("ConfigMap")
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert {name: json.loads(text) for name, text in config["data"].items()} == {
        f"{uid}.json": document for uid, document in documents().items()
    }


def test_the_files_are_made_of_the_dashboards() -> None:
    for uid, document in documents().items():
        text = (generate.DASHBOARDS / f"{uid}.json").read_text(encoding="utf-8")
        assert text == layout(document) + "\n", f"run python -m charts.generate: {uid}"


def test_a_file_is_laid_out_in_lines_that_can_be_read() -> None:
    value = {"short": {"a": 1, "b": [2, 3]}, "long": [{"text": "x" * 60}, {"text": "y" * 60}], "empty": {}}
    text = layout(value)
    assert json.loads(text) == value
    assert text.splitlines() == [
        "{",
        ' "short": {"a": 1, "b": [2, 3]},',
        ' "long": [',
        f'  {{"text": "{"x" * 60}"}},',
        f'  {{"text": "{"y" * 60}"}}',
        " ],",
        ' "empty": {}',
        "}",
    ]

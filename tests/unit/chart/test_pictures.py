"""The pictures of the dashboards, drawn from answers in the shape of Prometheus's HTTP API."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx
import numpy as np
import pytest
from charts.dashboards import controller, documents, fleet, service, variables
from charts.pictures.__main__ import main, moment
from charts.pictures.answers import Page, Prometheus, PrometheusError, Series, Span, page
from charts.pictures.drawing import picture
from charts.pictures.panels import COLORS, buckets, color_at, stretches
from charts.pictures.units import shown
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

START = moment("2026-11-26T17:00:00Z")
SPAN = Span(START, START + 240, 60)
VALUES = variables("default", "qwen2.5-7b", "qwen-system", "qwen-operator-metrics", "1m")
ADDRESS = "http://prometheus:9090"
UIDS = (fleet.UID, service.UID, controller.UID)


@cache
def recorded() -> dict[str, dict[str, list[dict[str, Any]]]]:
    text = (Path(__file__).parent / "prometheus_answers.json").read_text(encoding="utf-8")
    answers: dict[str, dict[str, list[dict[str, Any]]]] = json.loads(text)
    return answers


def asked(request: httpx.Request) -> dict[str, str]:
    return dict(parse_qsl(request.content.decode()))


def answer(request: httpx.Request) -> httpx.Response:
    """What Prometheus answered to a query of the first recorded series that the query names."""
    kind = request.url.path.removeprefix("/api/v1/")
    query = asked(request)["query"]
    result = next((found for name, found in recorded()[kind].items() if name in query), [])
    shape = "matrix" if kind == "query_range" else "vector"
    return httpx.Response(200, json={"status": "success", "data": {"resultType": shape, "result": result}})


def prometheus(handler: Any = answer) -> Prometheus:
    return Prometheus(ADDRESS, httpx.Client(transport=httpx.MockTransport(handler)))


@cache
def page_of(uid: str) -> Page:
    return page(prometheus(), documents()[uid], VALUES, SPAN)


@cache
def drawn(uid: str) -> Figure:
    return picture(page_of(uid))


def panel(uid: str, title: str) -> Axes:
    (found,) = (axes for axes in drawn(uid).axes if axes.get_title(loc="left") == title)
    return found


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def series(*values: float, **labels: str) -> Series:
    return Series(labels, tuple(zip(SPAN.times, values, strict=False)))


@pytest.mark.parametrize("uid", UIDS)
def test_every_panel_is_drawn_where_the_dashboard_has_it(uid: str) -> None:
    panels = [one for one in documents()[uid]["panels"] if one["type"] != "row"]
    assert [axes.get_title(loc="left") for axes in drawn(uid).axes] == [one["title"] for one in panels]
    for axes in drawn(uid).axes:
        box = axes.get_position()
        assert 0 <= box.x0 < box.x1 <= 1
        assert 0 <= box.y0 < box.y1 <= 1
    rows = [one["title"] for one in documents()[uid]["panels"] if one["type"] == "row"]
    assert set(rows) <= {text.get_text() for text in drawn(uid).texts}


def test_a_query_is_asked_over_the_range_with_its_variables_filled_in() -> None:
    requests: list[dict[str, str]] = []

    def remember(request: httpx.Request) -> httpx.Response:
        requests.append(asked(request))
        return answer(request)

    page(prometheus(remember), documents()[service.UID], VALUES, SPAN)
    first = next(request for request in requests if request["query"].startswith("sum(qwen_ready"))
    assert first["query"] == 'sum(qwen_ready{namespace="default",qwenservice="qwen2.5-7b"})'
    assert [float(first[name]) for name in ("start", "end", "step")] == [START, START + 240, 60]


def test_a_gap_of_a_series_is_a_gap_of_its_line() -> None:
    (line,) = (one for one in panel(service.UID, "Queue").lines if one.get_label() == "waiting news-7d9-abc")
    values = np.asarray(line.get_ydata(), dtype=float).tolist()
    assert values[:2] == [0, 7]
    assert math.isnan(values[2])
    assert values[3:] == [3, 12]


def test_a_histogram_is_drawn_by_what_fell_into_each_bucket() -> None:
    found = [
        Series(one["metric"], tuple((float(time), float(value)) for time, value in one["values"]))
        for one in recorded()["query_range"]["qwen_ttft_seconds_bucket"]
    ]
    bounds, cells = buckets(found, SPAN)
    assert bounds == [0.5, 1.0, math.inf]
    assert cells == [[3, 1, 0, 0, 2], [0, 3, 0, 1, 0], [1, 0, 0, 1, 0]]
    axes = panel(service.UID, "Time to first token")
    (mesh,) = (one for one in axes.collections if isinstance(one, QuadMesh))
    assert mesh.get_array() is not None
    assert [label.get_text() for label in axes.get_yticklabels()] == ["500 ms", "1 s", "inf s"]


def test_a_number_is_the_latest_value_in_the_color_of_its_threshold() -> None:
    (text,) = panel(service.UID, "Waiting requests").texts
    assert text.get_text() == "12"
    assert text.get_color() == COLORS["red"]
    assert texts(panel(service.UID, "KV cache, fullest pod")) == ["no data"]


def test_each_alert_has_a_bar_that_is_red_while_it_is_active() -> None:
    axes = panel(service.UID, "Alerts")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["QueueSaturated", "EngineUnresponsive"]
    assert list(stretches([0.0, 1.0, 1.0, math.nan, 0.0])) == [(0, 1, 0.0), (1, 2, 1.0), (4, 1, 0.0)]
    alerts = next(one for one in documents()[service.UID]["panels"] if one["title"] == "Alerts")
    assert [color_at(alerts, value) for value in (0.0, 1.0, 3.0)] == [COLORS[name] for name in ("green", "red", "red")]


def test_a_table_has_a_line_for_each_service() -> None:
    axes = panel(fleet.UID, "Services")
    (table,) = axes.tables
    cells = {place: cell.get_text().get_text() for place, cell in table.get_celld().items()}
    assert [cells[0, column] for column in range(3)] == ["Namespace", "Service", "Ready"]
    assert [cells[1, column] for column in range(3)] == ["default", "news", "1"]
    assert [cells[2, column] for column in range(3)] == ["default", "qwen2.5-7b", "2"]
    titles = {cells[0, column]: column for column in range(13)}
    assert cells[1, titles["TTFT, p95"]] == "no data"
    assert cells[2, titles["TTFT, p95"]] == "47.5 ms"


def test_an_event_is_marked_once_and_written_under_the_page() -> None:
    events = page_of(service.UID).events
    assert [(event.time - START, event.name, event.text) for event in events] == [
        (60, "Remediation steps", "Unready EngineUnresponsive ZeroWork"),
        (120, "Remediation steps", "Restart EngineUnresponsive ZeroWork"),
        (180, "Restarts of servers", "Server restarted news-7d9-abc"),
    ]
    lines = {text.get_text() for text in drawn(service.UID).texts}
    assert "17:02:00  Remediation steps: Restart EngineUnresponsive ZeroWork" in lines
    marks = [line for line in panel(service.UID, "Inter-token latency").lines if line.get_linestyle() == "--"]
    assert [line.get_color() for line in marks] == [COLORS["orange"], COLORS["orange"], COLORS["blue"]]


def test_a_series_is_named_by_its_legend_or_its_labels() -> None:
    one = series(1.0, pod="news-0", kind="output")
    assert one.named("{{kind}} of {{ pod }}") == "output of news-0"
    assert one.named("") == "pod=news-0, kind=output"
    assert one.named("{{alert}}") == ""
    assert series(1.0, 2.0, math.nan).last == 2.0
    assert math.isnan(series().last)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0475, "s", "47.5 ms"),
        (12.0, "s", "12 s"),
        (0.0, "s", "0 s"),
        (0.9531, "percentunit", "95.3 %"),
        (85899345920.0, "bytes", "80 GiB"),
        (66.0, "celsius", "66 °C"),
        (2.5, "reqps", "2.5 req/s"),
        (12345.0, "short", "12.3 k"),
        (0.00001, "short", "0"),
        (math.nan, "s", "no data"),
    ],
)
def test_a_value_is_written_with_its_unit(value: float, unit: str, text: str) -> None:
    assert shown(value, unit) == text


def test_the_command_writes_a_picture_of_each_dashboard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--prometheus", ADDRESS, "--service", "qwen2.5-7b", "--output", str(tmp_path)]
    times = ["--start", "2026-11-26T17:00:00Z", "--end", "2026-11-26T17:04:00"]
    assert main([*options, *times], httpx.MockTransport(answer)) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / f"{uid}.png") for uid in UIDS]
    for uid in UIDS:
        assert (tmp_path / f"{uid}.png").read_bytes().startswith(b"\x89PNG")


def refused(_: httpx.Request) -> httpx.Response:
    return httpx.Response(400, json={"status": "error", "errorType": "bad_data", "error": "parse error"})


def silent(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("connection refused", request=request)


@pytest.mark.parametrize(
    ("handler", "said"), [(refused, "parse error: up"), (silent, f"{ADDRESS} did not answer up: ConnectError")]
)
def test_a_query_that_fails_is_named(handler: Any, said: str) -> None:
    with pytest.raises(PrometheusError, match=said):
        prometheus(handler).over("up", SPAN)


def test_the_command_says_what_prometheus_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--prometheus", ADDRESS, "--service", "news", "--output", str(tmp_path), "--start", "2026-11-26"]
    assert main([*options, "--end", "2026-11-27"], httpx.MockTransport(refused)) == 1
    assert "parse error: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

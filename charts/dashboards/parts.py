"""The kinds of panels, variables and annotations, made by Grafana's builder.

The builder is `grafana-foundation-sdk`, which Grafana generates from its own schemas. What is here
chooses among its options, so that panels of a kind look alike on all dashboards.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from grafana_foundation_sdk.builders import common as options
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

RED: Final = "red"
ORANGE: Final = "orange"
GREEN: Final = "green"
BLUE: Final = "blue"
TAG: Final = "qwen"
SOURCE: Final = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
WINDOW: Final = "var-datasource=${datasource}&${__url_time_range}"

Step = tuple[float | None, str]
"""A color, and the value from which on it is used. The first value is None."""
NEUTRAL: Final[tuple[Step, ...]] = ((None, GREEN),)
ANY_IS_BAD: Final[tuple[Step, ...]] = ((None, GREEN), (1, RED))


class Query(NamedTuple):
    """A PromQL expression and the legend of its series, such as `{{pod}}`."""

    expr: str
    legend: str = ""


class Column(NamedTuple):
    """A column of a table: one value for each service. `steps` color the value."""

    title: str
    expr: str
    unit: str = "short"
    steps: tuple[Step, ...] = ()


class Mark(NamedTuple):
    """Events that are drawn over every panel with a time axis: where `expr` is above 0."""

    name: str
    expr: str
    color: str
    title: str
    text: str


class Row(NamedTuple):
    """A row of a dashboard. Its panels fill lines of 24 units from left to right."""

    title: str
    panels: tuple[Any, ...]


def number(title: str, expr: str, unit: str = "short", *, steps: tuple[Step, ...] = NEUTRAL, text: str = "") -> Any:
    """The latest value in large type; eight fill a line."""
    latest = options.ReduceDataOptions().calcs(["lastNotNull"])
    panel = stat.Panel().reduce_options(latest).color_mode(common.BigValueColorMode.VALUE)
    panel.graph_mode(common.BigValueGraphMode.AREA).thresholds(_thresholds(steps))
    return _described(panel, title, unit, text, width=3, height=4).with_target(_target(Query(expr), "A"))


def lines(
    title: str,
    *queries: Query,
    unit: str = "short",
    text: str = "",
    width: int = 8,
    stacked: bool = False,
) -> Any:
    """A line for each series over time."""
    panel = timeseries.Panel().line_width(1).fill_opacity(25 if stacked else 8)
    panel.show_points(common.VisibilityMode.NEVER).legend(_legend(shown=True))
    tooltip = options.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI)
    panel.tooltip(tooltip.sort(common.SortOrder.DESCENDING))
    if stacked:
        panel.stacking(options.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    return _with_queries(_described(panel, title, unit, text, width=width, height=8), queries)


def spread(title: str, metric: str, labels: str, *, text: str = "", width: int = 12) -> Any:
    """A histogram of seconds over time: the darker a cell, the more events fell into it."""
    color = heatmap.HeatmapColorOptions().mode(heatmap_models.HeatmapColorMode.SCHEME).scheme("Oranges")
    color.fill("dark-orange").scale(heatmap_models.HeatmapColorScale.EXPONENTIAL).exponent(0.5).steps(64)
    panel = heatmap.Panel().calculate(False).color(color).y_axis(heatmap.YAxisConfig().unit("s"))
    panel.rows_frame(heatmap.RowsHeatmapOptions().layout(common.HeatmapCellLayout.AUTO))
    buckets = f"sum by (le) (increase({metric}_bucket{{{labels}}}[$__rate_interval]))"
    target = _target(Query(buckets, "{{le}}"), "A").format(PromQueryFormat.HEATMAP)
    return _described(panel, title, "short", text, width=width, height=8).with_target(target)


def states(title: str, query: Query, names: dict[str, str], *, text: str = "", height: int = 8) -> Any:
    """A bar for each series over time: green at 0, red from 1 on. `names` are those of values."""
    shown = {value: dashboard.ValueMappingResult(text=name) for value, name in names.items()}
    panel = statetimeline.Panel().mappings([dashboard.ValueMap(options=shown)]).merge_values(True)
    panel.row_height(0.9).fill_opacity(80).line_width(0).show_value(common.VisibilityMode.AUTO)
    panel.color_scheme(build.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
    panel.thresholds(_thresholds(ANY_IS_BAD)).legend(_legend(shown=False))
    return _described(panel, title, "short", text, width=12, height=height).with_target(_target(query, "A"))


def services(title: str, columns: Sequence[Column], *, text: str = "", height: int = 9) -> Any:
    """A table with one line for each service, by the labels `namespace` and `qwenservice`."""
    panel = table.Panel()
    references = [chr(ord("A") + index) for index in range(len(columns))]
    for reference, column in zip(references, columns, strict=True):
        panel.with_target(_target(Query(column.expr), reference).instant().format(PromQueryFormat.TABLE))
    names = {"namespace": "Namespace", "qwenservice": "Service"}
    names |= {f"Value #{reference}": column.title for reference, column in zip(references, columns, strict=True)}
    panel.with_transformation(dashboard.DataTransformerConfig(id_val="merge", options={}))
    order = {name: index for index, name in enumerate(names)}
    arranged = {"excludeByName": {"Time": True}, "indexByName": order, "renameByName": names}
    panel.with_transformation(dashboard.DataTransformerConfig(id_val="organize", options=arranged))
    for column in columns:
        panel.override_by_name(column.title, _column_style(column))
    address = f"/d/qwen-service?var-namespace=${{__data.fields.Namespace}}&var-service=${{__value.text}}&{WINDOW}"
    link = {"title": "Open the service", "url": address}
    panel.override_by_name("Service", [dashboard.DynamicConfigValue(id_val="links", value=[link])])
    return _described(panel, title, "short", text, width=24, height=height)


def source() -> Any:
    """The variable `datasource`: which Prometheus."""
    return build.DatasourceVariable("datasource").label("Prometheus").type("prometheus")


def choice(name: str, label: str, query: str, *, several: bool = False) -> Any:
    """A variable with the values that Prometheus knows. With `several`, all are chosen at first."""
    variable = build.QueryVariable(name).label(label).query(query).datasource(SOURCE)
    variable.refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(dashboard.VariableSort.ALPHABETICAL_ASC)
    if several:
        variable.multi(True).include_all(True).all_value(".*")
        variable.current(dashboard.VariableOption(selected=True, text="All", value="$__all"))
    return variable


def document(
    uid: str,
    title: str,
    text: str,
    variables: Iterable[Any],
    rows: Iterable[Row],
    *,
    marks: Sequence[Mark] = (),
) -> dict[str, Any]:
    """A whole dashboard in Grafana's JSON model."""
    page = build.Dashboard(title).uid(uid).description(text).tags([TAG, "vllm"]).refresh("30s").time("now-1h", "now")
    page.tooltip(dashboard.DashboardCursorSync.CROSSHAIR).variables([source(), *variables])
    page.annotations([_annotation(mark) for mark in marks])
    others = build.DashboardLink("Qwen").type(dashboard.DashboardLinkType.DASHBOARDS).tags([TAG])
    page.link(others.keep_time(True).include_vars(True))
    numbers = itertools.count(1)
    for row in rows:
        page.with_row(build.Row(row.title).id(next(numbers)))
        for panel in row.panels:
            page.with_panel(panel.id(next(numbers)))
    made: dict[str, Any] = json.loads(JSONEncoder().encode(page.build()))
    # The schema has what all data sources share. These three are only Prometheus's.
    for annotation, mark in zip(made["annotations"]["list"], marks, strict=True):
        annotation.update(titleFormat=mark.title, textFormat=mark.text, step="30s")
    return made


def _target(query: Query, reference: str) -> Any:
    target = prometheus.Dataquery().expr(query.expr).ref_id(reference).datasource(SOURCE)
    return target.legend_format(query.legend) if query.legend else target


def _with_queries(panel: Any, queries: Sequence[Query]) -> Any:
    for index, query in enumerate(queries):
        panel.with_target(_target(query, chr(ord("A") + index)))
    return panel


def _described(panel: Any, title: str, unit: str, text: str, *, width: int, height: int) -> Any:
    panel.title(title).unit(unit).min(0).datasource(SOURCE).span(width).height(height)
    return panel.description(text) if text else panel


def _thresholds(steps: tuple[Step, ...]) -> Any:
    marks = [dashboard.Threshold(value=value, color=color) for value, color in steps]
    return build.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(marks)


def _legend(*, shown: bool) -> Any:
    legend = options.VizLegendOptions().display_mode(common.LegendDisplayMode.LIST)
    return legend.placement(common.LegendPlacement.BOTTOM).show_legend(shown)


def _column_style(column: Column) -> list[Any]:
    style = [dashboard.DynamicConfigValue(id_val="unit", value=column.unit)]
    if column.steps:
        style.append(dashboard.DynamicConfigValue(id_val="thresholds", value=_thresholds(column.steps).build()))
        style.append(dashboard.DynamicConfigValue(id_val="custom.cellOptions", value={"type": "color-text"}))
    return style


def _annotation(mark: Mark) -> Any:
    annotation = build.AnnotationQuery().name(mark.name).datasource(SOURCE).expr(mark.expr)
    return annotation.enable(True).icon_color(mark.color)

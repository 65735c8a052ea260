"""Draws one panel of a dashboard, by its kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC
from itertools import accumulate, groupby
from typing import Any, Final

from charts.pictures.answers import Answer, Series, Span
from charts.pictures.units import shown
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.dates import AutoDateLocator, DateFormatter
from matplotlib.ticker import FuncFormatter

Panel = Mapping[str, Any]
Draw = Callable[[Axes, Panel, Sequence[Answer], Span], None]

COLORS: Final = {"green": "#37872d", "orange": "#e08400", "red": "#c4162a", "blue": "#1f60c4"}
DAY: Final = 86400.0
NAMES: Final = 5
"""How many series a legend names."""
SMALL: Final = 6.5
SHORT_SECONDS: Final = 600


def draw(axes: Axes, panel: Panel, answers: Sequence[Answer], span: Span) -> None:
    """Draws a panel with its title. Raises KeyError for a kind that no dashboard has."""
    axes.set_title(panel["title"], loc="left", fontsize=8, fontweight="bold", pad=4)
    KINDS[panel["type"]](axes, panel, answers, span)


def days(time: float) -> float:
    """A time as matplotlib counts it, in days since the epoch."""
    return time / DAY


def color_at(panel: Panel, value: float) -> str:
    """The color that the panel's thresholds give to a value."""
    color = "green"
    for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            color = step["color"]
    return COLORS[color]


def _unit(panel: Panel) -> str:
    return str(panel["fieldConfig"]["defaults"]["unit"])


def _named(answers: Sequence[Answer]) -> list[tuple[str, Series]]:
    return [(series.named(answer.legend), series) for answer in answers for series in answer.series]


def _empty(axes: Axes, text: str = "no data") -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=9, color="gray", transform=axes.transAxes)


def _time_axis(axes: Axes, span: Span) -> None:
    axes.set_xlim(days(span.start), days(span.end))
    axes.xaxis.set_major_locator(AutoDateLocator(tz=UTC, maxticks=6))
    # In a short time, several marks are in one minute.
    text = "%H:%M" if span.end - span.start > SHORT_SECONDS else "%H:%M:%S"
    axes.xaxis.set_major_formatter(DateFormatter(text, tz=UTC))
    axes.tick_params(labelsize=SMALL, length=2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _lines(axes: Axes, panel: Panel, answers: Sequence[Answer], span: Span) -> None:
    _time_axis(axes, span)
    unit = _unit(panel)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value, unit)))
    axes.grid(visible=True, linewidth=0.3)
    found = _named(answers)
    if not any(series.samples for _, series in found):
        _empty(axes)
        return
    times = [days(time) for time in span.times]
    stacking = panel["fieldConfig"]["defaults"]["custom"].get("stacking", {}).get("mode")
    if stacking == "normal":
        heights = [[0.0 if math.isnan(value) else value for value in series.aligned(span)] for _, series in found]
        axes.stackplot(times, *heights, labels=[name for name, _ in found], alpha=0.7, linewidth=0)
    else:
        for name, series in found:
            # A series that begins late or is interrupted by a restart may have single values.
            axes.plot(times, series.aligned(span), label=name, linewidth=1, marker=".", markersize=1.5)
    axes.set_ylim(bottom=0)
    _legend(axes)


def _legend(axes: Axes) -> None:
    handles, names = axes.get_legend_handles_labels()
    if len(names) > NAMES:
        names[NAMES - 1] = f"and {len(names) - NAMES + 1} more"
    if any(names):
        axes.legend(
            handles[:NAMES],
            names[:NAMES],
            loc="upper left",
            bbox_to_anchor=(0, -0.14),
            borderaxespad=0.0,
            ncols=3,
            fontsize=SMALL,
            frameon=False,
            handlelength=1.0,
            columnspacing=1.0,
        )


def _number(axes: Axes, panel: Panel, answers: Sequence[Answer], _: Span) -> None:
    axes.set_axis_off()
    values = [series.last for answer in answers for series in answer.series]
    if not values or math.isnan(values[0]):
        _empty(axes)
        return
    text = shown(values[0], _unit(panel))
    color = color_at(panel, values[0])
    axes.text(0.5, 0.45, text, ha="center", va="center", fontsize=17, color=color, transform=axes.transAxes)


def _spread(axes: Axes, _: Panel, answers: Sequence[Answer], span: Span) -> None:
    _time_axis(axes, span)
    bounds, cells = buckets([series for answer in answers for series in answer.series], span)
    filled = [index for index, row in enumerate(cells) if any(value > 0 for value in row)]
    if not filled:
        _empty(axes)
        return
    first, last = max(0, filled[0] - 1), min(len(cells), filled[-1] + 2)
    half = span.step / 2
    edges = [days(span.start - half + index * span.step) for index in range(span.slots + 1)]
    norm = PowerNorm(gamma=0.5, vmin=0)
    axes.pcolormesh(edges, list(range(first, last + 1)), cells[first:last], cmap="Oranges", norm=norm)
    axes.set_yticks(list(range(first + 1, last + 1)), [shown(bound, "s") for bound in bounds[first:last]])


def buckets(found: Sequence[Series], span: Span) -> tuple[list[float], list[list[float]]]:
    """The upper bounds of a histogram's buckets, and how many events fell into each, per moment.

    Prometheus counts in each bucket the events of the smaller ones, too.
    """
    ordered = sorted(found, key=lambda series: float(series.labels["le"]))
    below = [0.0] * span.slots
    cells: list[list[float]] = []
    for series in ordered:
        counts = [0.0 if math.isnan(value) else value for value in series.aligned(span)]
        cells.append([max(0.0, count - less) for count, less in zip(counts, below, strict=True)])
        below = counts
    return [float(series.labels["le"]) for series in ordered], cells


def _states(axes: Axes, panel: Panel, answers: Sequence[Answer], span: Span) -> None:
    _time_axis(axes, span)
    found = sorted(_named(answers), key=lambda named: named[0], reverse=True)
    if not found:
        _empty(axes)
        return
    for row, (_, series) in enumerate(found):
        for start, width, value in stretches(series.aligned(span)):
            bar = [(days(span.start + start * span.step), days(width * span.step))]
            axes.broken_barh(bar, (row - 0.4, 0.8), facecolors=color_at(panel, value))
    axes.set_yticks(list(range(len(found))), [name for name, _ in found])


def stretches(values: Sequence[float]) -> Iterator[tuple[int, int, float]]:
    """Where a value begins and how many moments it lasts, without those that have no value."""
    groups = [(value, len(list(group))) for value, group in groupby(values)]
    starts = accumulate((length for _, length in groups), initial=0)
    for start, (value, length) in zip(starts, groups, strict=False):
        if not math.isnan(value):
            yield start, length, value


def _table(axes: Axes, panel: Panel, answers: Sequence[Answer], _: Span) -> None:
    axes.set_axis_off()
    organize = next(one for one in panel["transformations"] if one["id"] == "organize")
    titles: Mapping[str, str] = organize["options"]["renameByName"]
    values = [{_service(series): series.last for series in answer.series} for answer in answers]
    columns = [titles[f"Value #{target['refId']}"] for target in panel["targets"]]
    units = {title: _column_unit(panel, title) for title in columns}
    rows = []
    for names in sorted({names for column in values for names in column}):
        figures = (column.get(names, math.nan) for column in values)
        rows.append([*names, *(shown(value, units[title]) for title, value in zip(columns, figures, strict=True))])
    if not rows:
        _empty(axes)
        return
    made = axes.table(rows, colLabels=[titles["namespace"], titles["qwenservice"], *columns], loc="upper center")
    made.auto_set_font_size(False)
    made.set_fontsize(SMALL + 1)


def _service(series: Series) -> tuple[str, str]:
    return series.labels.get("namespace", ""), series.labels.get("qwenservice", "")


def _column_unit(panel: Panel, title: str) -> str:
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"]["options"] == title:
            return next(str(one["value"]) for one in override["properties"] if one["id"] == "unit")
    return _unit(panel)


KINDS: Final[Mapping[str, Draw]] = {
    "timeseries": _lines,
    "stat": _number,
    "heatmap": _spread,
    "state-timeline": _states,
    "table": _table,
}

"""Draws a whole dashboard: its panels where Grafana would place them."""

from __future__ import annotations

from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from charts.pictures.answers import Event, Page
from charts.pictures.panels import COLORS, days, draw
from matplotlib.figure import Figure
from PIL import Image

COLUMNS: Final = 24
WIDTH: Final = 18.0
"""Inches of a page, as all lengths here."""
COLUMN: Final = WIDTH / COLUMNS
ROW: Final = 0.4
HEAD: Final = 0.5
LINE: Final = 0.18
EVENTS: Final = 12
"""How many events are written under the page."""
FREE: Final = ("stat", "table")
"""Kinds of panels without axes, which need no room for labels."""
PALETTE: Final = 128
"""How many colors a file has. With more, it takes three times the space."""


def picture(page: Page) -> Figure:
    """The page as a figure of matplotlib, which `save` writes."""
    panels = page.document["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    written = _lines_of(page.events)
    height = HEAD + rows * ROW + (len(written) + 1) * LINE
    figure = Figure(figsize=(WIDTH, height), dpi=80, facecolor="white")
    _head(figure, page, height)
    for panel in panels:
        place = panel["gridPos"]
        left, top = place["x"] * COLUMN, HEAD + place["y"] * ROW
        if panel["type"] == "row":
            x, y = (left + 0.1) / WIDTH, 1 - (top + ROW / 2) / height
            figure.text(x, y, panel["title"], fontsize=11, fontweight="bold", va="center", color="#333333")
            continue
        axes = figure.add_axes(_box(panel, left, top, height))
        draw(axes, panel, page.answers[panel["id"]], page.span)
        if panel["type"] not in FREE:
            for event in page.events:
                axes.axvline(days(event.time), color=COLORS[event.color], linewidth=0.8, linestyle="--")
    for number, line in enumerate(written, 1):
        y = (len(written) - number + 1) * LINE / height
        figure.text(0.1 / WIDTH, y, line, fontsize=8, va="center", color="#333333")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as a PNG."""
    drawn = BytesIO()
    figure.savefig(drawn, format="png")
    drawn.seek(0)
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(PALETTE).save(path, format="PNG", optimize=True)


def _head(figure: Figure, page: Page, height: float) -> None:
    start, end = (_clock(time, "%Y-%m-%d %H:%M") for time in (page.span.start, page.span.end))
    text = f"{page.document['title']}   {start} to {end} UTC"
    figure.text(0.1 / WIDTH, 1 - HEAD / 2 / height, text, fontsize=13, fontweight="bold", va="center")


def _box(panel: dict[str, Any], left: float, top: float, height: float) -> tuple[float, float, float, float]:
    """Where the axes of a panel are: left, bottom, width and height as shares of the page."""
    place = panel["gridPos"]
    before, after, above, below = 0.6, 0.15, 0.3, 0.65
    if panel["type"] in FREE:
        before = after = below = 0.1
    elif panel["type"] == "state-timeline":
        before, below = 1.5, 0.25
    wide = place["w"] * COLUMN - before - after
    high = place["h"] * ROW - above - below
    return (left + before) / WIDTH, 1 - (top + above + high) / height, wide / WIDTH, high / height


def _lines_of(events: tuple[Event, ...]) -> list[str]:
    """The events as text, the first ones if there are many."""
    lines = [f"{_clock(event.time, '%H:%M:%S')}  {event.name}: {event.text}" for event in events[:EVENTS]]
    return [*lines, f"and {len(events) - EVENTS} more"] if len(events) > EVENTS else lines


def _clock(time: float, form: str) -> str:
    return datetime.fromtimestamp(time, UTC).strftime(form)

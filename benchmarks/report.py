"""The Markdown tables of benchmarks/README.md, from the latest result of every part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import Spread, spread
from benchmarks.results import Part, Row

BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"


def number(value: float) -> str:
    """Three significant digits without an exponent; a dash for NaN."""
    if math.isnan(value):
        return "-"
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def _spread(value: Spread | None) -> str:
    if value is None:
        return ""
    if value.low == value.high or math.isnan(value.median):
        return number(value.median)
    return f"{number(value.median)} ({number(value.low)}-{number(value.high)})"


def _head(unpatched: bool) -> str:
    column, line = (" patches off |", "--:|") if unpatched else ("", "")
    titles = f"| | unit | this server |{column} vLLM's server | ratio | target | |\n"
    return f"{titles}|---|---|--:|{line}--:|--:|--:|---|\n"


def _line(row: Row, unpatched: bool) -> str:
    reached = row.reached()
    verdict = "" if reached is None else ("met" if reached else "**missed**")
    cells = (
        row.name,
        row.unit,
        _spread(spread(row.ours)),
        *([_spread(spread(row.unpatched)) if row.unpatched else ""] if unpatched else []),
        _spread(spread(row.vllm)) if row.vllm else "",
        _spread(row.ratio()),
        str(row.target) if row.target else "",
        verdict,
    )
    return "| " + " | ".join(cells) + " |\n"


def _conditions(part: Part) -> str:
    got = part.conditions
    versions = ", ".join(f"{name} {version}" for name, version in got["machine"]["versions"].items())
    machine = got["machine"]
    gpu = f", {machine['gpu']}" if machine["gpu"] else ""
    runs = f"{got['runs']} run{'s' if got['runs'] > 1 else ''}{', quick' if got['quick'] else ''}"
    return (
        f"`{got['command']}`, {runs}, {part.seconds / 60:.1f} min, {got['date']}; {machine['cores']} cores "
        f"({machine['cpu']}), {machine['memory_gib']:g} GiB{gpu}; load average at the start {got['load']:.1f}; "
        f"{versions}"
    )


def render(parts: Sequence[Part]) -> str:
    """All parts, each with the conditions of its own run: parts can run alone."""
    text = ""
    for part in parts:
        unpatched = any(row.unpatched for row in part.rows)
        text += f"### {part.name.capitalize()}\n\n{_head(unpatched)}"
        text += "".join(_line(row, unpatched) for row in part.rows)
        text += "\n" + "".join(f"- {note}\n" for note in (*part.notes, _conditions(part))) + "\n"
    return text


def insert(page: str, tables: str) -> str:
    """The page with the tables between its two markers. Raises ValueError if they are missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{tables}{END}{after}"


def write(path: Path, parts: Sequence[Part]) -> None:
    """Puts the tables into the page."""
    path.write_text(insert(path.read_text(encoding="utf-8"), render(parts)), encoding="utf-8")

"""The Markdown tables of benchmarks/README.md, from the latest result of every part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

from benchmarks.figures import Spread, spread
from benchmarks.results import Part, Row, Target

END = "<!-- end of figures -->"


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


class _Columns(NamedTuple):
    """The optional columns of a table."""

    unpatched: bool
    rust: bool

    @classmethod
    def of(cls, part: Part) -> Self:
        return cls(any(row.unpatched for row in part.rows), any(row.rust for row in part.rows))


def _head(columns: _Columns) -> str:
    titles, line = "| | unit | this server |", "|---|---|--:|"
    if columns.unpatched:
        titles, line = f"{titles} patches off |", f"{line}--:|"
    titles, line = f"{titles} vLLM's server | ratio | target | |", f"{line}--:|--:|--:|---|"
    if columns.rust:
        titles, line = f"{titles} Rust frontend | ratio | target | |", f"{line}--:|--:|--:|---|"
    return f"{titles}\n{line}\n"


def _compared(
    values: Sequence[float], ratio: Spread | None, target: Target | None, *, reached: bool | None
) -> list[str]:
    """The cells that compare with another server."""
    verdict = "" if reached is None else ("met" if reached else "**missed**")
    shown = str(target) if reached is not None else ""
    return [_spread(spread(values)) if values else "", _spread(ratio), shown, verdict]


def _line(row: Row, columns: _Columns) -> str:
    cells = [row.name, row.unit, _spread(spread(row.ours))]
    if columns.unpatched:
        cells.append(_spread(spread(row.unpatched)) if row.unpatched else "")
    cells += _compared(row.vllm, row.ratio(), row.target, reached=row.reached())
    if columns.rust:
        cells += _compared(row.rust, row.rust_ratio(), row.rust_target, reached=row.rust_reached())
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
        columns = _Columns.of(part)
        text += f"### {part.name.capitalize()}\n\n{_head(columns)}"
        text += "".join(_line(row, columns) for row in part.rows)
        text += "\n" + "".join(f"- {note}\n" for note in (*part.notes, _conditions(part))) + "\n"
    return text


def begin(device: str) -> str:
    """The marker in front of the figures of a device: those of one never replace another's."""
    return f"<!-- figures: {device} -->"


def insert(page: str, tables: str, device: str) -> str:
    """The page with the tables between the device's markers. Raises ValueError without them."""
    before, found, rest = page.partition(begin(device))
    _, end, after = rest.partition(END)
    if not found or not end:
        raise ValueError(f"the page has no {begin(device)} and {END}")
    return f"{before}{found}\n\n{tables}{END}{after}"


def write(path: Path, parts: Sequence[Part], device: str) -> None:
    """Puts the tables into the page."""
    path.write_text(insert(path.read_text(encoding="utf-8"), render(parts), device), encoding="utf-8")

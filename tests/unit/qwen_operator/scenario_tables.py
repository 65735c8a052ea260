"""Reads the scenarios of tests/scenarios. Their README explains the columns and their words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from qwen_operator.api import QwenServiceSpec

FOLDER = Path(__file__).resolve().parents[2] / "scenarios"
COLUMNS = ("time", "what happens", "what the operator does", "what the status says")
DOES, SAYS = COLUMNS[2:]


class ScenarioError(Exception):
    """A table that cannot be read or played, with the file and the line."""


@dataclass(frozen=True)
class Row:
    """A row of a table: the number of its line, the second, and the parts of its three cells."""

    line: int
    second: int
    happens: tuple[str, ...]
    does: tuple[str, ...]
    says: tuple[str, ...]


@dataclass(frozen=True)
class Scenario:
    """A file: its name, the spec of the service and the rows of the table."""

    name: str
    spec: QwenServiceSpec
    rows: tuple[Row, ...]

    def place(self, row: Row) -> str:
        """Where a row is, for messages."""
        return f"{self.name}, line {row.line} ({clock(row.second)})"


def files() -> list[Path]:
    """All scenarios."""
    return sorted(path for path in FOLDER.glob("*.md") if path.name != "README.md")


def read(path: Path) -> Scenario:
    """The scenario in a file. Raises ScenarioError."""
    return parse(path.name, path.read_text(encoding="utf-8"))


def parse(name: str, text: str) -> Scenario:
    """A scenario: one block of YAML with the spec of the service, and one table.

    Raises ScenarioError.
    """
    specs = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    if len(specs) != 1:
        raise ScenarioError(f"{name}: it has {len(specs)} blocks of YAML instead of one with the spec")
    model = {"source": {"builtin": "news-classifier"}}
    spec = QwenServiceSpec.model_validate({"model": model, **yaml.safe_load(specs[0])})
    table = [(number, _cells(line)) for number, line in enumerate(text.splitlines(), 1) if line.startswith("|")]
    if len(table) < 3 or table[0][1] != list(COLUMNS):
        raise ScenarioError(f"{name}: it has no table with the columns {', '.join(COLUMNS)}")
    rows: list[Row] = []
    for line, cells in table[2:]:
        row = _row(f"{name}, line {line}", line, cells)
        if rows and row.second <= rows[-1].second:
            raise ScenarioError(f"{name}, line {line}: {cells[0]} is not after {clock(rows[-1].second)}")
        rows.append(row)
    return Scenario(name, spec, tuple(rows))


def _row(place: str, line: int, cells: list[str]) -> Row:
    if len(cells) != len(COLUMNS):
        raise ScenarioError(f"{place}: it has {len(cells)} cells instead of {len(COLUMNS)}")
    try:
        second = seconds_of(cells[0])
    except ValueError as error:
        raise ScenarioError(f"{place}: {error}") from error
    happens, does, says = (_parts(cell) for cell in cells[1:])
    return Row(line, second, happens, does, says)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]


def _parts(cell: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in cell.split(";") if part.strip())


def clock(second: float) -> str:
    """Seconds as in the tables: minutes and seconds, with hours if there are any."""
    minutes, seconds = divmod(int(second), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def seconds_of(text: str) -> int:
    """The seconds of a time such as 1:02 or 1:00:00. Raises ValueError."""
    if not re.fullmatch(r"\d+(:\d\d){1,2}", text):
        raise ValueError(f"{text!r} is not a time such as 1:02")
    total = 0
    for part in text.split(":"):
        total = 60 * total + int(part)
    return total

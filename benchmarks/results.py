"""The results of the parts, kept as JSON: a part can run alone, and the table stays complete."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.figures import Spread, ratios, spread


@dataclass(frozen=True, slots=True)
class Target:
    """A target for the ratio to vLLM's server or for our own value."""

    of: Literal["ratio", "value"]
    sense: Literal["<=", ">="]
    limit: float

    def met_by(self, value: float) -> bool:
        """Whether the value reaches it. NaN does not."""
        return value <= self.limit if self.sense == "<=" else value >= self.limit

    def __str__(self) -> str:
        return f"{'ratio ' if self.of == 'ratio' else ''}{'≤' if self.sense == '<=' else '≥'} {self.limit:g}"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure, run by run: of this server, and of vLLM's and of this one without patches."""

    name: str
    unit: str
    ours: list[float]
    vllm: list[float] = field(default_factory=list)
    target: Target | None = None
    unpatched: list[float] = field(default_factory=list)

    def ratio(self) -> Spread | None:
        """Ours over vLLM's, run by run."""
        return ratios(self.ours, self.vllm) if self.vllm else None

    def reached(self) -> bool | None:
        """Whether the median reaches the target; None if there is no target."""
        if self.target is None:
            return None
        ratio = self.ratio()
        if self.target.of == "ratio":
            return ratio is not None and self.target.met_by(ratio.median)
        return self.target.met_by(spread(self.ours).median)


@dataclass(frozen=True, slots=True)
class Part:
    """The result of a part: the conditions of the run, and notes for the reader."""

    name: str
    seconds: float
    rows: list[Row]
    notes: list[str]
    conditions: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Writes the part to the folder and replaces an earlier result."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.json").write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def load(folder: Path, name: str) -> Part | None:
    """The latest result of a part, or None."""
    try:
        data = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    rows = []
    for row in data.pop("rows"):
        target = row.pop("target")
        rows.append(Row(**row, target=Target(**target) if target else None))
    return Part(rows=rows, **data)

"""The results of the parts, kept as JSON: a part can run alone, and the table stays complete."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from benchmarks.figures import Spread, ratios, spread
from benchmarks.servers import Which

_TARGETS = ("target", "rust_target")


@dataclass(frozen=True, slots=True)
class Target:
    """A target for a ratio of ours to another server's value, or for our own value."""

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
    """One figure of every server, run by run.

    `target` compares with vLLM's server, `rust_target` with vLLM's Rust frontend.
    """

    name: str
    unit: str
    ours: list[float]
    vllm: list[float] = field(default_factory=list)
    target: Target | None = None
    unpatched: list[float] = field(default_factory=list)
    rust: list[float] = field(default_factory=list)
    rust_target: Target | None = None

    @classmethod
    def of(
        cls,
        name: str,
        unit: str,
        found: Mapping[Which, list[float]],
        target: Target | None = None,
        rust_target: Target | None = None,
    ) -> Self:
        """A row of what was measured, by server; a server may be missing."""
        vllm, unpatched, rust = (found.get(which, []) for which in ("vllm", "unpatched", "rust"))
        return cls(name, unit, found["ours"], vllm, target, unpatched, rust, rust_target)

    def ratio(self) -> Spread | None:
        """Ours over vLLM's server's, run by run."""
        return ratios(self.ours, self.vllm) if self.vllm else None

    def rust_ratio(self) -> Spread | None:
        """Ours over the Rust frontend's, run by run."""
        return ratios(self.ours, self.rust) if self.rust else None

    def reached(self) -> bool | None:
        """Whether the median reaches the target; None if there is no target."""
        return self._reached(self.target, self.ratio())

    def rust_reached(self) -> bool | None:
        """The same for the target that compares with the Rust frontend; None without it."""
        return self._reached(self.rust_target, self.rust_ratio()) if self.rust else None

    def _reached(self, target: Target | None, ratio: Spread | None) -> bool | None:
        if target is None:
            return None
        if target.of == "ratio":
            return ratio is not None and target.met_by(ratio.median)
        return target.met_by(spread(self.ours).median)


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
        row |= {name: Target(**row[name]) for name in _TARGETS if row.get(name)}
        rows.append(Row(**row))
    return Part(rows=rows, **data)

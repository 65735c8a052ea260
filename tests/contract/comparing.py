"""A release of vLLM held against what we rely on, and against the release that we know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tests.contract import ourcode
from tests.contract.relied import DECLARED, OPTIONAL
from tests.contract.relying import Finding, Relied
from tests.contract.sources import Sources


@dataclass(frozen=True)
class Row:
    """What became of one thing that we rely on. `known` is what it was in the release that we know, if any."""

    relied: Relied
    found: Finding
    known: Finding | None

    @property
    def status(self) -> Literal["ok", "changed", "gone"]:
        """`changed`: its signature differs, or it does not fit any more."""
        if not self.found.is_there:
            return "gone"
        differs = self.known is not None and self.known.is_there and self.known.seen != self.found.seen
        return "changed" if differs or self.found.problems else "ok"

    @property
    def is_broken(self) -> bool:
        """Whether our code cannot take it."""
        return bool(self.found.problems)

    @property
    def code_differs(self) -> bool:
        """Whether a function does something else under the same signature, perhaps."""
        return self.known is not None and self.known.code != self.found.code


def relied_on(sources: Sources) -> list[Relied]:
    """Everything that we rely on, each once: what is declared, and what our source text says."""
    seen: dict[tuple[object, ...], Relied] = {}
    for relied in (*map(ourcode.placed, DECLARED), *ourcode.derived(sources, OPTIONAL)):
        key = (type(relied), *(value for name, value in vars(relied).items() if name != "where"))
        seen.setdefault(key, relied)
    return list(seen.values())


def compare(new: Sources, old: Sources | None) -> list[Row]:
    """One row for each thing that we rely on, sorted by its name in vLLM."""
    rows = [Row(relied, relied.find(new), relied.find(old) if old else None) for relied in relied_on(new)]
    return sorted(rows, key=lambda row: (row.relied.symbol, row.relied.where))


def table(rows: Sequence[Row], new: str, old: str | None, everything: bool = False) -> list[str]:
    """The rows that tell something, each with where our code is concerned, and a summary. `everything`: all rows."""
    width = max(len(new), len(old or ""))
    lines: list[str] = []
    for row in rows:
        if row.status == "ok" and not row.code_differs and not everything:
            continue
        note = ", its code changed" if row.status == "ok" and row.code_differs else ""
        verdict = "" if row.status == "ok" else (" (does not fit)" if row.is_broken else " (fits)")
        lines.append(f"{row.status + verdict + note:<25} {row.relied.symbol}")
        lines.append(f"{'':<25}   used: {row.relied.where}")
        lines += [f"{'':<25}   {problem}" for problem in row.found.problems]
        if row.status == "changed" and row.known is not None and row.known.seen != row.found.seen:
            lines.append(f"{'':<25}   {old:<{width}} {row.known.seen}")
            lines.append(f"{'':<25}   {new:<{width}} {row.found.seen}")
    counts = {status: sum(row.status == status for row in rows) for status in ("ok", "changed", "gone")}
    broken = sum(row.is_broken for row in rows)
    told = ", ".join(f"{count} {status}" for status, count in counts.items())
    lines.append(f"{new}: {told}; {broken} of them do not fit" if broken else f"{new}: {told}; all of it fits")
    return lines

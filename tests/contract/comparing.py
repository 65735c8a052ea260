"""Compares a release of vLLM with what we rely on and with the release that we know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from tests.contract import ourcode
from tests.contract.relied import DECLARED, OPTIONAL
from tests.contract.relying import Finding, Relied
from tests.contract.sources import Sources

_SHORT = 120


@dataclass(frozen=True)
class Row:
    """The result for one thing that we rely on.

    known: its state in the known release, None if nothing is compared.
    """

    relied: Relied
    found: Finding
    known: Finding | None

    @property
    def status(self) -> Literal["ok", "changed", "gone"]:
        """`changed` means that its signature differs or that it no longer fits."""
        if not self.found.is_there:
            return "gone"
        differs = self.known is not None and self.known.is_there and self.known.seen != self.found.seen
        return "changed" if differs or self.found.problems else "ok"

    @property
    def is_broken(self) -> bool:
        """Whether our code does not work with it."""
        return bool(self.found.problems)

    @property
    def code_differs(self) -> bool:
        """Whether a function's source differs, so it may behave differently."""
        return self.known is not None and self.known.is_there and self.known.code != self.found.code


def relied_on(sources: Sources) -> list[Relied]:
    """Everything that we rely on, without duplicates: the declared and the derived."""
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
    """Lists the differences, each with the places in our code, and a summary.

    everything: also list what is unchanged.
    """
    lines: list[str] = []
    for symbol, group in groupby(rows, key=lambda row: row.relied.symbol):
        shown = [row for row in group if row.status != "ok" or row.code_differs or everything]
        if shown:
            lines += _entry(symbol, shown, new, old or "")
    counts = {status: sum(row.status == status for row in rows) for status in ("ok", "changed", "gone")}
    broken = sum(row.is_broken for row in rows)
    told = ", ".join(f"{count} {status}" for status, count in counts.items())
    return [*lines, f"{new}: {told}; {f'{broken} of them do not fit' if broken else 'all of it fits'}"]


def _entry(symbol: str, rows: Sequence[Row], new: str, old: str) -> list[str]:
    """Describes one name of vLLM's.

    The entry has its worst status, the places that use it, the problems and both signatures.
    """
    worst = max(rows, key=lambda row: (row.is_broken, row.status != "ok", row.code_differs))
    if worst.status == "ok":
        verdict = "ok, its code changed" if worst.code_differs else "ok"
    else:
        verdict = f"{worst.status}, {'does not fit' if worst.is_broken else 'fits'}"
    details = [f"used: {', '.join(sorted({row.relied.where for row in rows}))}"]
    details += dict.fromkeys(problem for row in rows for problem in row.found.problems)
    if worst.known is not None and worst.found.is_there and worst.known.seen != worst.found.seen:
        width = max(len(old), len(new))
        for release, one, other in ((old, worst.known, worst.found), (new, worst.found, worst.known)):
            details.append(f"{release:<{width}}  {_shown(one.seen, other.seen)}")
    return [f"{verdict:<22} {symbol}", *(f"{'':<24} {detail}" for detail in details)]


def _shown(parts: Sequence[str], others: Sequence[str]) -> str:
    """The parts in which a signature differs from the other, or all of them if they are few."""
    if len(", ".join(parts)) <= _SHORT:
        return ", ".join(parts) or "nothing"
    differing = [part for part in parts if part not in others]
    return f"... {', '.join(differing)} ..." if differing else "... (nothing that the other lacks)"

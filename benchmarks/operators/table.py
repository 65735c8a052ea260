"""The table of benchmarks/OPERATOR.md."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from benchmarks.figures import Spread, ratios, spread
from benchmarks.report import median_and_range
from benchmarks.results import Target


class Line(NamedTuple):
    """A line of the table: the figure by its key in `measure.Figures`."""

    key: str
    name: str
    unit: str
    target: Target | None = None


LINES: Final = (
    Line("children_seconds", "start to all children", "s", Target("ratio", "<=", 0.7)),
    Line("children_requests", "requests a service until then", ""),
    Line("settled_requests", "requests a service until it is at rest", "", Target("value", "<=", 8)),
    Line("settled_events", "of them not counted: about Events", ""),
    Line("settled_cpu", "CPU until it is at rest", "s"),
    Line("settled_memory", "memory at rest", "MiB"),
    Line("pods_requests", "requests a service while its two pods start", ""),
    Line("pods_cpu", "CPU while the pods start", "s"),
    Line("quiet_writes", "writes in a quiet minute", "", Target("value", "<=", 0)),
    # Four APIs, two kinds of the surroundings and the pages of QwenServices; more every 15 minutes.
    Line("quiet_reads", "reads in a quiet minute", "", Target("value", "<=", 30)),
    # Each kind of objects has one, which ends after four minutes: all of them at once, at worst.
    Line("quiet_watches", "watches that begin in a quiet minute", "", Target("value", "<=", 15)),
    Line("quiet_events", "requests about Events in a quiet minute", "", Target("value", "<=", 0)),
    Line("quiet_cpu", "CPU in a quiet minute", "s", Target("value", "<=", 30)),
    Line("quiet_memory", "memory after it", "MiB", Target("value", "<=", 256)),
    Line("polls", "polls of pods", "1/s"),
    Line("lag_p50", "how late a poll is, p50", "s"),
    Line("lag_p99", "how late a poll is, p99", "s", Target("value", "<=", 1)),
    Line("restart_writes", "writes of a restarted operator", "", Target("value", "<=", 20)),
    # The lists of a start, in pages of 500, and discovery.
    Line("restart_reads", "its reads", "", Target("value", "<=", 60)),
    Line("restart_cpu", "its CPU", "s"),
    Line("term_leads", "SIGTERM to the next leader", "s", Target("value", "<=", 3)),
    Line("term_serves", "SIGTERM to a Deployment for a service of that moment", "s", Target("value", "<=", 3)),
    Line("kill_leads", "SIGKILL to the next leader", "s", Target("value", "<=", 15)),
    Line("kill_serves", "SIGKILL to a Deployment for a service of that moment", "s", Target("value", "<=", 15)),
    Line("out_p50", "first poll with an alert to the closed gate, p50", "s"),
    Line("out_p99", "first poll with an alert to the closed gate, p99", "s", Target("value", "<=", 3)),
)


@dataclass(frozen=True)
class Result:
    """The figures of all runs, by key, and the conditions of the runs."""

    ours: Mapping[str, Sequence[float]]
    peer: Mapping[str, Sequence[float]]
    notes: Sequence[str]
    conditions: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        ours: Sequence[Mapping[str, float]],
        peer: Sequence[Mapping[str, float]],
        notes: Sequence[str],
        conditions: Mapping[str, Any],
    ) -> Self:
        """The result of some runs."""
        return cls(_by_key(ours), _by_key(peer), notes, conditions)

    def save(self, folder: Path) -> None:
        """Writes it as JSON."""
        (folder / "result.json").write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def _by_key(runs: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """The figures by key. One that a run lacks is NaN in it: a failed run must not vanish."""
    keys = dict.fromkeys(key for figures in runs for key in figures)
    return {key: [figures.get(key, math.nan) for figures in runs] for key in keys}


def render(result: Result) -> str:
    """The table, and below it the notes and conditions."""
    text = "| | unit | this operator | production-stack | ratio | target | |\n|---|---|--:|--:|--:|--:|---|\n"
    text += "".join(_line(line, result) for line in LINES if line.key in {*result.ours, *result.peer})
    return text + "\n" + "".join(f"- {note}\n" for note in (*result.notes, _conditions(result.conditions))) + "\n"


def _line(line: Line, result: Result) -> str:
    ours, peer = result.ours.get(line.key, ()), result.peer.get(line.key, ())
    ratio = ratios(ours, peer) if ours and len(ours) == len(peer) else None
    shown, verdict = _verdict(line.target, ours, ratio)
    cells = [line.name, line.unit, _cell(ours), _cell(peer), median_and_range(ratio), shown, verdict]
    return "| " + " | ".join(cells) + " |\n"


def _verdict(target: Target | None, ours: Sequence[float], ratio: Spread | None) -> tuple[str, str]:
    measured = ratio if target is not None and target.of == "ratio" else spread(ours) if ours else None
    if target is None or measured is None:
        return "", ""
    return str(target), "met" if target.met_by(measured.median) else "**missed**"


def _cell(values: Sequence[float]) -> str:
    return median_and_range(spread(values)) if values else ""


def _conditions(got: Mapping[str, Any]) -> str:
    runs = f"{got['runs']} run{'s' if got['runs'] > 1 else ''}"
    machine = got["machine"]
    return (
        f"`{got['command']}`, {runs}, {got['minutes']:.0f} min, {got['date']}; {machine['cores']} cores "
        f"({machine['cpu']}), {machine['memory_gib']:g} GiB; load average at the start {got['load']:.1f}; "
        f"Kubernetes {got['kubernetes']}, Python {machine['versions']['python']}, "
        f"commit {machine['versions']['commit']}"
    )

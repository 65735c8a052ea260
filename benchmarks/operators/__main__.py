"""`python -m benchmarks.operators`: compares two operators; see benchmarks/OPERATOR.md."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.cluster.console import Problem
from tests.cluster.settings import KUBERNETES_VERSION, ROOT

from benchmarks import machine, report
from benchmarks.console import say
from benchmarks.operators import peer, table
from benchmarks.operators.measure import EVENTS_AT_MOST, REST_AT_MOST, Figures, Options, measure
from benchmarks.operators.subjects import Ours, Subject, Theirs

PAGE = ROOT / "benchmarks" / "OPERATOR.md"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    built = argparse.ArgumentParser(prog="python -m benchmarks.operators", description=__doc__)
    built.add_argument("--services", type=int, default=300, help="objects with two replicas each (default 300)")
    built.add_argument("--runs", type=int, default=1, help="runs, in turns (default 1)")
    built.add_argument("--quiet", type=float, default=60.0, metavar="SECONDS", help="the quiet time (default 60)")
    built.add_argument("--without-peer", action="store_true", help="measure only this operator")
    built.add_argument("--peer", type=Path, metavar="FOLDER", help="operator/ of a checkout of production-stack")
    built.add_argument("--without-pods", action="store_true", help="let no pod run")
    built.add_argument(
        "--folder", type=Path, default=ROOT / ".bench" / "operators", help="for logs (default .bench/operators)"
    )
    built.add_argument("--no-page", action="store_true", help="do not write the table to benchmarks/OPERATOR.md")
    return built


def main(line: Sequence[str]) -> int:
    """Measures, prints the table and writes it to the page. Returns 1 if a measurement failed."""
    command = parser()
    options = command.parse_args(line)
    if options.services < 1 or options.runs < 1 or options.quiet <= 0:
        command.error("--services, --runs and --quiet must be positive")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all processes are stopped
    began, load = time.monotonic(), os.getloadavg()[0]
    subjects, notes = _subjects(options)
    figures: dict[str, list[Figures]] = {subject.name: [] for subject in subjects}
    failed = False
    folder = options.folder.resolve() / datetime.now(UTC).strftime("%Y-%m-%d-%H%M%S")
    folder.mkdir(parents=True)
    for run in range(options.runs):
        for subject in subjects[:: 1 if run % 2 == 0 else -1]:
            found, problem = _measured(subject, folder / f"{run + 1}-{subject.name.replace(' ', '-')}", options)
            figures[subject.name].append(found)
            if problem:
                failed = True
                notes.append(f"Run {run + 1} of {subject.name} failed: {problem}")
    notes += _unrest(figures)
    conditions: dict[str, Any] = {
        "command": _command_line(options),
        "runs": options.runs,
        "minutes": (time.monotonic() - began) / 60,
        "date": datetime.now(UTC).date().isoformat(),
        "load": load,
        "machine": machine.describe(),
        "kubernetes": KUBERNETES_VERSION,
    }
    result = table.Result.of(figures[Ours.name], figures.get(Theirs.name, []), notes, conditions)
    result.save(folder)
    text = table.render(result)
    print(text)
    if not options.no_page:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(report.insert(page, text, _table_of(page, options.services)), encoding="utf-8")
        say("wrote benchmarks/OPERATOR.md")
    return 1 if failed else 0


def _subjects(options: argparse.Namespace) -> tuple[list[Subject], list[str]]:
    """What is measured, and a note if the other operator is not."""
    subjects: list[Subject] = [Ours()]
    if options.without_peer:
        return subjects, [f"{Theirs.name} was left out (`--without-peer`)."]
    try:
        subjects.append(Theirs(peer.build(options.peer)))
    except Problem as problem:
        say(f"without {Theirs.name}: {problem}")
        return subjects, [f"{Theirs.name} could not be built: {problem.what}."]
    version = "a checkout" if options.peer else f"version {peer.VERSION}"
    return subjects, [f"{Theirs.name}: {peer.MODULE}, {version}."]


def _measured(subject: Subject, folder: Path, options: argparse.Namespace) -> tuple[Figures, str]:
    """The figures of a run, and what went wrong."""
    try:
        return measure(subject, folder, Options(options.services, options.quiet, not options.without_pods)), ""
    except (RuntimeError, OSError, AssertionError) as error:
        say(f"{subject.name} failed: {error}; see {folder}")
        return {}, str(error).splitlines()[0] if str(error) else type(error).__name__


def _unrest(figures: dict[str, list[Figures]]) -> list[str]:
    """Names those that did not come to rest: after the first start, or before the quiet time."""
    when = {
        "unrest": f"{REST_AT_MOST:g} s after all children existed",
        "unquiet": f"{EVENTS_AT_MOST:g} s after the pods were available, Events included",
    }
    restless = {key: [name for name, runs in figures.items() if any(found.get(key) for found in runs)] for key in when}
    return [f"Not at rest {when[key]}: {', '.join(names)}." for key, names in restless.items() if names]


def _table_of(page: str, services: int) -> str:
    """The table of so many services, if the page has one; else the one of the comparison."""
    own = f"operator-{services}"
    return own if report.begin(own) in page else "operator"


def _command_line(options: argparse.Namespace) -> str:
    words = ["python", "-m", "benchmarks.operators", f"--services={options.services}", f"--runs={options.runs}"]
    words += [f"--quiet={options.quiet:g}"] if options.quiet != 60.0 else []
    words += [flag for flag in ("--without-peer", "--without-pods") if getattr(options, flag[2:].replace("-", "_"))]
    return shlex.join(words)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)

"""Runs schemathesis in rounds until enough cases have been tried."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

CONFIG = Path(__file__).with_name("schemathesis.toml")
_ROUND_CASES = 2000  # between two progress messages
_LEAST_EXAMPLES = 20  # per operation in a round


class FuzzError(Exception):
    """A round could not be run; the message says why."""


@dataclass(frozen=True)
class Round:
    """The result of one run of schemathesis; `output` is what it printed."""

    cases: int
    failures: int
    errors: int
    operations: int
    output: str

    @property
    def clean(self) -> bool:
        return not self.failures and not self.errors


def fuzz(
    url: str,
    *,
    cases: int,
    seed: int,
    folder: Path,
    edges: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Round]:
    """Sends at least `cases` requests to `url`; stops after the first round with a finding.

    With `edges`, the first round covers the examples and the edges of every parameter, which are
    about 3,200 requests. The others draw at random. Raises FuzzError.
    """
    inputs = _operations_with_input(url)
    rounds: list[Round] = []
    done = 0
    while (len(rounds) < 1 + edges or done < cases) and all(each.clean for each in rounds):
        examples = max(_LEAST_EXAMPLES, min(_ROUND_CASES, cases - done) // inputs)
        phases = "examples,coverage" if edges and not rounds else "fuzzing"
        flags = [f"--max-examples={examples}", f"--seed={seed + len(rounds)}", f"--phases={phases}"]
        rounds.append(_run(url, flags, folder / "report.json"))
        done += rounds[-1].cases
        progress(f"round {len(rounds)}: {done:,} of {cases:,} cases, {rounds[-1].failures} failure(s)")
    return rounds


def _run(url: str, flags: list[str], report: Path) -> Round:
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "schemathesis.cli", f"--config-file={CONFIG}", "run", f"{url}/openapi.json"]
    command += [*flags, "--no-color", "--report=json", f"--report-json-path={report}"]
    done = subprocess.run(
        command, cwd=report.parent, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    output = done.stdout + done.stderr
    if done.returncode not in (0, 1) or not report.exists():
        raise FuzzError(f"schemathesis ended with {done.returncode}:\n{output}")
    result: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    counts = result["test_cases"]
    if not counts["generated"]:
        raise FuzzError(f"schemathesis tried nothing:\n{output}")
    failures = counts["unique_failures"]
    errors = max(len(result["errors"]), int(done.returncode != 0 and not failures))
    return Round(counts["generated"], failures, errors, result["operations"]["tested"], output)


def _operations_with_input(url: str) -> int:
    """The number of operations that accept input."""
    paths = httpx.get(f"{url}/openapi.json", timeout=30).raise_for_status().json()["paths"]
    operations = [operation for path in paths.values() for operation in path.values()]
    return max(1, sum("requestBody" in operation or "parameters" in operation for operation in operations))

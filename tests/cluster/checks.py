"""`make lint`, `make test` and `make test-full`: run all parts, then summarize what failed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster import clusters
from tests.cluster.console import Problem, complain, duration, say
from tests.cluster.settings import ROOT, Settings

REPORTS = ROOT / ".cluster" / "reports"
# One process more than cores, because many tests wait. Tests that share a server are in one file.
PARALLEL = ["-n", str((os.cpu_count() or 1) + 1), "--dist"]
LONG_SCENARIOS = "tests/e2e/long"
TEST_PARTS = {
    "unit": ["tests/unit", "tests/rules", *PARALLEL, "worksteal"],
    "integration": ["tests/integration", *PARALLEL, "loadfile"],
    "e2e": ["tests/e2e", f"--ignore={LONG_SCENARIOS}"],
    "e2e-full": [LONG_SCENARIOS],
}
# The network and the processes of a node of kind are out of reach.
ON_KIND = ["-m", "not local_node"]
HISTORY_TESTS = ["tests/unit/qwen_operator/test_remediation_histories.py", *PARALLEL, "worksteal"]
HISTORIES = {"REMEDIATION_HISTORIES": "10000"}
FUZZ_TESTS = ["tests/unit/qwen_server/test_fuzz.py"]
EDGES = {"FUZZ_EDGES": "1"}
SOAK_TESTS = ["tests/integration/test_vllm_alarms.py", "-k", "full_load or quiet_time"]
_WHY_LENGTH = 300
NEVER = ROOT / "operator" / "__init__.py"


@dataclass(frozen=True)
class Outcome:
    """The result of a part: `problem` is empty if it passed, and `details` are lines about it."""

    name: str
    seconds: float
    summary: str
    problem: str = ""
    details: Sequence[str] = ()


@dataclass(frozen=True)
class Run:
    """A run of pytest: its name, arguments and Python, and variables added to its environment."""

    name: str
    arguments: Sequence[str]
    python: str = sys.executable
    env: Mapping[str, str] = field(default_factory=dict)


def lint() -> None:
    """Check everything that can be checked without running the programs. Raises Problem."""
    python = sys.executable
    commands: dict[str, Sequence[str]] = {
        "ruff check": ("ruff", "check", "--quiet", "."),
        "ruff format": ("ruff", "format", "--check", "--quiet", "."),
        "mypy": ("mypy",),
        "import contracts": ("lint-imports", "--no-logo"),
        "CRD and reference are current": (python, "operator/tools/generate_crd.py", "--check"),
        "chart's files and install.yaml are current": (python, "-m", "charts.generate", "--check"),
        "docs/openapi.json is current": (python, "server/tools/generate_openapi.py", "--check"),
        "docs/models.md is current": (python, "server/tools/model_sizes.py", "--check"),
        "helm lint": ("helm", "lint", "--quiet", "--strict", "charts/qwen-operator"),
        # Without the two programs that it would call if the machine has them.
        "actionlint": ("actionlint", "-no-color", "-shellcheck=", "-pyflakes="),
    }
    outcomes = [_checked(name, lambda command=command: _quiet(command)) for name, command in commands.items()]  # type: ignore[misc]
    outcomes.append(_checked("operator/ is no package", _no_package))
    summarise("lint", outcomes)


def test(parts: Sequence[str]) -> None:
    """Run parts of the tests, all of them even if one fails.

    With QWEN_TEST_PATCHES=off, the integration tests are those on a real vLLM, and their servers
    leave out all patches. Raises Problem if a test failed, or was skipped in CI.
    """
    patches = os.environ.get("QWEN_TEST_PATCHES", "")
    if patches not in ("", "off"):
        raise Problem(f"PATCHES={patches} is unknown", "use PATCHES=off, or leave it out")
    REPORTS.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for part in parts:
        if part.startswith("e2e"):
            outcomes += _end_to_end(part)
        else:
            outcomes.append(_run_pytest(_without_patches() if patches and part == "integration" else _run_of(part)))
    summarise("test", outcomes)


def test_full(minutes: float, cases: int) -> None:
    """Run what `test` leaves out because it takes too long, all of it even if a part fails.

    `minutes` is the duration of the soak's load and of its quiet time each, `cases` the number of
    generated requests. Raises Problem if a test failed.
    """
    REPORTS.mkdir(parents=True, exist_ok=True)
    soak = {"SOAK_MINUTES": str(minutes), "IDLE_MINUTES": str(minutes)}
    outcomes = [
        _run_pytest(Run("images", ["tests/images"])),
        _run_pytest(Run("clients", ["tests/clients"], str(Settings.from_env().clients / "bin" / "python"))),
        _run_pytest(_without_patches()),
        _run_pytest(Run("remediation histories", HISTORY_TESTS, env=HISTORIES)),
        _run_pytest(Run("edges of the parameters", FUZZ_TESTS, env=EDGES)),
        _checked("fuzz", lambda: _shown([sys.executable, "-m", "tests.fuzz", "--cases", str(cases)])),
        _run_pytest(Run("soak", SOAK_TESTS, env=soak)),
        *_end_to_end("e2e-full"),
    ]
    summarise("test-full", outcomes)


def _end_to_end(part: str) -> list[Outcome]:
    """Runs a part on the local cluster, or with CLUSTER=kind what needs no access to the node.

    The cluster is not started in a fixture, where the minutes of a cold start would count toward
    the first test's timeout. Raises Problem if CLUSTER is another one.
    """
    run = _run_of(part)
    if isinstance(clusters.for_tests(Settings.from_env()), clusters.Kind):
        if part == "e2e-full":
            raise Problem("the long scenarios need the node of the local cluster", "run them with CLUSTER=local")
        run = Run(part, [*run.arguments, *ON_KIND])
    prepared = _checked("images and cluster", _prepare_cluster)
    return [prepared] if prepared.problem else [prepared, _run_pytest(run)]


def _run_of(part: str) -> Run:
    return Run(part, TEST_PARTS[part])


def _without_patches() -> Run:
    """The tests on a real vLLM, with servers that leave out all patches."""
    paths = [*TEST_PARTS["integration"], "-m", "vllm"]
    return Run("integration, patches off", paths, env={"QWEN_TEST_PATCHES": "off"})


def summarise(what: str, outcomes: Sequence[Outcome]) -> None:
    """Print a line for each part. Raises Problem if one failed."""
    print()
    for outcome in outcomes:
        verdict = f"FAILED: {outcome.problem}" if outcome.problem else "ok"
        print(f"{what}: {outcome.name:<44} {duration(outcome.seconds):>6}  {outcome.summary:<28} {verdict}".rstrip())
        for line in outcome.details:
            print(f"{what}:   {line}")
    failed = [outcome.name for outcome in outcomes if outcome.problem]
    if failed:
        raise Problem(f"{what} failed: {', '.join(failed)}", "see the output above")
    say(f"{what}: all passed")


def _checked(name: str, action: Callable[[], str]) -> Outcome:
    begun = time.monotonic()
    problem = action()
    return Outcome(name, time.monotonic() - begun, "", problem)


def _quiet(command: Sequence[str]) -> str:
    """Run a command and show its output only if it fails. Returns the problem, or an empty text."""
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    print(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}", flush=True)
    return f"exit code {done.returncode}"


def _shown(command: Sequence[str]) -> str:
    """Run a command and show its output. Returns the problem, or an empty text."""
    say(f"$ {' '.join(command[1:])}")
    code = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, check=False).returncode
    return f"exit code {code}" if code else ""


def _prepare_cluster() -> str:
    try:
        clusters.for_tests(Settings.from_env()).prepare()
    except Problem as problem:
        complain(problem)
        return problem.what
    return ""


def _no_package() -> str:
    """With an __init__.py, the folder would shadow the standard library's module `operator`."""
    return f"{NEVER.relative_to(ROOT)} must not exist" if NEVER.exists() else ""


def _run_pytest(run: Run) -> Outcome:
    begun = time.monotonic()
    say(f"tests: {run.name} ...")
    report = REPORTS / f"{run.name.replace(', ', '-').replace(' ', '-')}.xml"
    report.unlink(missing_ok=True)
    command = [run.python, "-m", "pytest", "-q", "--durations=5", f"--junitxml={report}", *run.arguments]
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    code = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, env={**env, **run.env}, check=False).returncode
    counts = read_report(report)
    summary = f"{counts['tests'] - counts['skipped']} run, {counts['skipped']} skipped"
    problem = ""
    if code != 0:
        problem = f"{counts['failures'] + counts['errors']} failed (pytest exit code {code})"
    elif counts["skipped"] and os.environ.get("CI"):
        problem = "skipped tests do not count as passed here"
    return Outcome(run.name, time.monotonic() - begun, summary, problem, read_failures(report))


def read_report(path: Path) -> dict[str, int]:
    """Count tests, failures, errors and skipped tests in a JUnit report; zeros if there is none."""
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for suite in _report(path).iter("testsuite"):
        for name in counts:
            counts[name] += int(suite.get(name, "0"))
    return counts


def read_failures(path: Path, limit: int = 20) -> list[str]:
    """List the failed tests of a JUnit report, each with the first line of the reason."""
    lines = []
    for case in _report(path).iter("testcase"):
        for failure in (*case.iter("failure"), *case.iter("error")):
            why = (failure.get("message") or "").strip().splitlines()
            name = f"{case.get('classname', '')}::{case.get('name', '')}"
            lines.append(f"{name}: {why[0][:_WHY_LENGTH] if why else 'no reason given'}")
    return lines if len(lines) <= limit else [*lines[:limit], f"and {len(lines) - limit} more"]


def _report(path: Path) -> ET.Element:
    """Read a JUnit report; returns an empty one if pytest wrote none."""
    return ET.parse(path).getroot() if path.exists() else ET.Element("testsuites")

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.cluster import checks
from tests.cluster.console import Problem
from tests.cluster.settings import ROOT, Settings


def test_report_of_a_test_run_is_counted(tmp_path: Path) -> None:
    report = tmp_path / "r.xml"
    report.write_text('<testsuites><testsuite tests="5" failures="1" errors="0" skipped="2"/></testsuites>')
    assert checks.read_report(report) == {"tests": 5, "failures": 1, "errors": 0, "skipped": 2}
    assert checks.read_report(tmp_path / "none.xml")["tests"] == 0


def test_failed_tests_of_a_report_are_named_with_the_reason(tmp_path: Path) -> None:
    report = tmp_path / "r.xml"
    case = '<testcase classname="tests.a" name="test_%s"><%s message="%s"/></testcase>'
    cases = [
        case % ("b", "failure", "assert 1 == 2&#10; more"),
        case % ("c", "error", ""),
        '<testcase classname="x" name="ok"/>',
    ]
    report.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    lines = ["tests.a::test_b: assert 1 == 2", "tests.a::test_c: no reason given"]
    assert checks.read_failures(report) == lines
    assert checks.read_failures(report, limit=1) == [lines[0], "and 1 more"]
    assert checks.read_failures(tmp_path / "none.xml") == []


def test_summary_names_the_parts_that_failed(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = [checks.Outcome("unit", 2, "5 run"), checks.Outcome("e2e", 70, "3 run", "1 failed", ["test_x: why"])]
    with pytest.raises(Problem, match="test failed: e2e"):
        checks.summarise("test", outcomes)
    assert "FAILED: 1 failed\ntest:   test_x: why\n" in capsys.readouterr().out
    checks.summarise("test", outcomes[:1])


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines of pytest, which is not run."""
    found: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        found.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(checks, "REPORTS", tmp_path)
    monkeypatch.delenv("CLUSTER", raising=False)
    monkeypatch.setattr("subprocess.run", run)
    return found


def test_without_patches_only_the_tests_on_vllm_are_run(
    commands: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QWEN_TEST_PATCHES", "off")
    checks.test(["unit", "integration"])
    assert [command[-2:] == ["-m", "vllm"] for command in commands] == [False, True]
    assert "test: integration, patches off " in capsys.readouterr().out
    monkeypatch.setenv("QWEN_TEST_PATCHES", "")
    checks.test(["integration"])
    assert "tests/integration" in commands[-1]
    assert commands[-1][-2:] == ["--dist", "loadfile"]


def test_the_longer_tests_are_all_run_even_if_some_fail(
    commands: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[dict[str, str]] = []

    def run(command: list[str], env: dict[str, str] | None = None, **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        seen.append(env or {})
        return subprocess.CompletedProcess(command, 1 if "tests.fuzz" in command else 0)

    monkeypatch.setattr("subprocess.run", run)
    monkeypatch.setattr(checks, "_prepare_cluster", lambda: "")
    with pytest.raises(Problem, match=r"test-full failed: fuzz\n"):
        checks.test_full(minutes=5, cases=3000)
    on_images, clients, without_patches, histories, edges, fuzz, soak, scenarios = commands
    assert on_images[-1] == "tests/images"
    assert clients[0] == str(Settings.from_env().clients / "bin" / "python")
    assert clients[-1] == "tests/clients"
    assert (without_patches[-2:], seen[2]["QWEN_TEST_PATCHES"]) == (["-m", "vllm"], "off")
    assert histories[-1] == "worksteal"
    assert seen[3]["REMEDIATION_HISTORIES"] == "10000"
    assert (edges[-1], seen[4]["FUZZ_EDGES"]) == ("tests/unit/qwen_server/test_fuzz.py", "1")
    assert fuzz[-2:] == ["--cases", "3000"]
    assert (soak[-1], seen[6]["SOAK_MINUTES"], seen[6]["IDLE_MINUTES"]) == ("full_load or quiet_time", "5", "5")
    assert scenarios[-1] == "tests/e2e/long"
    assert "FAILED: exit code 1" in capsys.readouterr().out


def test_another_value_of_patches_is_refused(commands: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN_TEST_PATCHES", "on")
    with pytest.raises(Problem, match="PATCHES=on"):
        checks.test(["integration"])
    assert commands == []


def test_on_kind_the_tests_that_need_the_local_node_are_left_out(
    commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_prepare_cluster", lambda: "")
    monkeypatch.setenv("CLUSTER", "kind")
    checks.test(["e2e"])
    assert commands[-1][-2:] == ["-m", "not local_node"]
    with pytest.raises(Problem, match="need the node of the local cluster"):
        checks.test(["e2e-full"])
    monkeypatch.setenv("CLUSTER", "")
    checks.test(["e2e"])
    assert "-m" not in commands[-1][3:]


REACHES_THE_NODE = re.compile(
    r"\b(?:nsenter|pod_processes|keep_alive_load|ask_through_service|toggle_hang|monitored_service|BELIEVED_GPUS)\b"
)


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "e2e").glob("test_*.py")), ids=lambda path: path.stem)
def test_tests_that_reach_the_node_are_marked(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert bool(REACHES_THE_NODE.search(text)) == ("local_node" in text)

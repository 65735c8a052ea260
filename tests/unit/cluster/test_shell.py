from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.console import Problem
from tests.cluster.shell import Stamps, digest, logged, output, succeeds


def test_failed_command_becomes_one_line_with_the_tail_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "step.log"
    with pytest.raises(Problem, match="failed with exit code 3") as caught:
        logged(["sh", "-c", "seq 100; exit 3"], log, hint="try again")
    assert caught.value.hint == "try again"
    assert caught.value.details.splitlines()[-1] == "100"
    assert len(caught.value.details.splitlines()) == 15
    assert log.read_text().startswith("$ sh -c")


def test_missing_program_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no-such-program is not installed") as caught:
        logged(["no-such-program"], tmp_path / "log")
    assert "make deps" in caught.value.hint
    with pytest.raises(Problem, match="no-such-program is not installed"):
        output(["no-such-program"])


def test_output_fails_with_standard_error_and_after_the_time_is_over() -> None:
    assert output(["echo", "hello"]) == "hello\n"
    with pytest.raises(Problem) as caught:
        output(["sh", "-c", "echo reason >&2; exit 1"])
    assert caught.value.details == "reason\n"
    with pytest.raises(Problem, match="did not finish within"):
        output(["sleep", "5"], timeout=0.1)
    assert succeeds(["true"])
    assert not succeeds(["false"])


def test_digest_follows_content_names_and_modes(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    (source / "a.py").write_text("1")
    first = digest([source], "x")
    assert digest([source], "x") == first
    assert digest([source], "y") != first
    (source / "a.py").write_text("2")
    changed = digest([source], "x")
    assert changed != first
    (source / "a.py").rename(source / "b.py")
    assert digest([source], "x") != changed


def test_bytecode_and_training_tools_do_not_change_the_digest(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    first = digest([tmp_path])
    for folder in ("__pycache__", "training"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x").write_text("other")
    assert digest([tmp_path]) == first


def test_stamp_is_fresh_only_for_the_value_it_was_set_to(tmp_path: Path) -> None:
    stamps = Stamps(tmp_path / "stamps")
    assert not stamps.fresh("venv", "1")
    stamps.set("venv", "1")
    assert stamps.fresh("venv", "1")
    assert not stamps.fresh("venv", "2")

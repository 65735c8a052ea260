from __future__ import annotations

import threading

import pytest

from tests.cluster.console import Problem, complain, duration, side_by_side


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0s"), (9.94, "9.9s"), (12.3, "12s"), (59.4, "59s"), (185, "3m05s")]
)
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_problem_ends_with_the_line_that_matters(capsys: pytest.CaptureFixture[str]) -> None:
    complain(Problem("the port is taken", "choose another", "log line 1\nlog line 2"))
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["log line 1", "log line 2", "error: the port is taken", "       choose another"]


def test_independent_steps_run_at_the_same_time(capsys: pytest.CaptureFixture[str]) -> None:
    meet = threading.Barrier(2, timeout=10)

    def step() -> str:
        meet.wait()
        return "met"

    side_by_side({"one": step, "two": step}, cancel=lambda: None)
    assert capsys.readouterr().out.count("met") == 2


def test_first_failure_cancels_the_other_steps() -> None:
    cancelled = threading.Event()

    def fail() -> str:
        raise Problem("no network")

    def wait_for_cancel() -> str:
        assert cancelled.wait(10)
        return "ended"

    with pytest.raises(Problem, match="no network"):
        side_by_side({"fails": fail, "waits": wait_for_cancel}, cancel=cancelled.set)


def test_no_steps_are_no_problem() -> None:
    side_by_side({}, cancel=lambda: None)

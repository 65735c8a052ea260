from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import processes
from tests.cluster.console import Problem
from tests.cluster.processes import Supervisor, ancestors, kill_all, start_time, wait_until

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(tmp_path / "pids", tmp_path / "logs")
    yield supervisor
    supervisor.stop(path.name for path in list((tmp_path / "pids").glob("*")))


def test_started_part_is_found_again_and_stopped(parts: Supervisor) -> None:
    parts.start("sleeper", ["sleep", "60"])
    pid = parts.pid("sleeper")
    assert pid is not None
    assert Supervisor(parts.pids, parts.logs).pid("sleeper") == pid
    parts.stop(["sleeper"])
    assert parts.pid("sleeper") is None
    assert start_time(pid) is None


def test_stopping_what_never_ran_is_harmless(parts: Supervisor) -> None:
    parts.stop(["nothing"])
    assert parts.pid("nothing") is None


def test_part_outlives_the_process_group_that_started_it(parts: Supervisor) -> None:
    parts.start("sleeper", ["sleep", "60"])
    pid = parts.pid("sleeper")
    assert pid is not None
    assert os.getsid(pid) == pid


def test_number_that_belongs_to_another_process_now_is_not_killed(parts: Supervisor) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        parts.pids.mkdir()
        (parts.pids / "old").write_text(f"{other.pid} 12345\n")
        assert parts.pid("old") is None
        parts.stop(["old"])
        assert other.poll() is None
        other.kill()


def test_dead_part_is_reported_with_the_end_of_its_log(parts: Supervisor) -> None:
    parts.start("broken", ["sh", "-c", "echo cannot bind; exit 1"])
    with pytest.raises(Problem, match="broken has stopped") as caught:
        parts.wait_for("broken", lambda: False, seconds=10)
    assert caught.value.details == "cannot bind"


def test_part_that_does_not_answer_in_time_is_reported(parts: Supervisor) -> None:
    parts.start("silent", ["sleep", "60"])
    with pytest.raises(Problem, match="did not become ready"):
        parts.wait_for("silent", lambda: False, seconds=0.1)


def test_process_that_ignores_the_polite_signal_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE) as stubborn:
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        kill_all([stubborn.pid], grace=0.2)
        assert start_time(stubborn.pid) is None


def test_zombies_and_missing_processes_have_no_start_time() -> None:
    zombie = subprocess.Popen(["true"])
    assert wait_until(lambda: start_time(zombie.pid) is None, 10)
    zombie.wait()
    assert start_time(2**22 + 1) is None


def test_own_family_reaches_up_to_the_first_process() -> None:
    family = ancestors(os.getpid())
    assert {os.getpid(), os.getppid(), 1} <= family


def test_command_lines_with_parentheses_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "77"
    folder.mkdir()
    rest = " ".join(str(number) for number in range(4, 30))
    (folder / "stat").write_text(f"77 (a) b) ) S {rest}\n")
    monkeypatch.setattr(processes, "PROC", tmp_path)
    assert start_time(77) == "22"


def test_wait_until_gives_up_at_the_deadline() -> None:
    begun = time.monotonic()
    assert not wait_until(lambda: False, seconds=0.2, interval=0.01)
    assert time.monotonic() - begun < 5
    assert wait_until(lambda: True, seconds=0)

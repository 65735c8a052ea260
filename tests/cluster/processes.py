"""Background processes, identified by pid and start time so that no other process is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tests.cluster.console import Problem
from tests.cluster.shell import tail

PROC = Path("/proc")


def wait_until(condition: Callable[[], bool], seconds: float, interval: float = 0.1) -> bool:
    """Poll until the condition holds. Returns False on timeout."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True


def start_time(pid: int) -> str | None:
    """The kernel's start time of a live process; None if there is none or it is a zombie."""
    try:
        stat = (PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field, the command, may contain spaces and parentheses.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


def arguments(pid: int) -> list[str]:
    """The command line of a process; empty if it is gone."""
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return []


def all_pids() -> list[int]:
    return [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]


def ancestors(pid: int) -> set[int]:
    """The process and its ancestors, which no cleanup may kill."""
    family = {pid}
    while pid > 1:
        try:
            status = (PROC / str(pid) / "status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            break
        match = re.search(r"^PPid:\s*(\d+)", status, re.MULTILINE)
        pid = int(match.group(1)) if match else 0
        family.add(pid)
    return family


class Supervisor:
    """Starts and stops the parts of one cluster. A pid file contains `pid start-time`."""

    def __init__(self, pids: Path, logs: Path) -> None:
        self.pids = pids
        self.logs = logs

    def start(self, name: str, command: Sequence[str | Path], env: dict[str, str] | None = None) -> None:
        """Start a detached process that outlives this one; its output goes to `logs/name.log`."""
        self.pids.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(parents=True, exist_ok=True)
        with (self.logs / f"{name}.log").open("w") as log:
            process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=env,
                cwd="/",
            )
        (self.pids / name).write_text(f"{process.pid} {start_time(process.pid)}\n")

    def pid(self, name: str) -> int | None:
        """The pid of a running part; None if it ended, even if its pid was reused."""
        path = self.pids / name
        if not path.exists():
            return None
        words = path.read_text().split()
        if len(words) != 2 or start_time(int(words[0])) != words[1]:
            return None
        return int(words[0])

    def check(self, name: str) -> None:
        """Raise Problem with the end of the log if a part has died."""
        if self.pid(name) is None:
            log = self.logs / f"{name}.log"
            raise Problem(f"{name} has stopped", f"see {log}", tail(log))

    def wait_for(self, name: str, condition: Callable[[], bool], seconds: float) -> None:
        """Wait until a part responds. Raises Problem if it dies or does not respond in time."""

        def answered() -> bool:
            self.check(name)
            return condition()

        if not wait_until(answered, seconds):
            raise Problem(f"{name} did not become ready within {seconds:.0f} s", f"see {self.logs / name}.log")

    def stop(self, names: Iterable[str], grace: float = 5) -> None:
        """Stop parts: SIGTERM to all, SIGKILL to the rest after `grace` seconds."""
        pids = {name: self.pid(name) for name in names}
        kill_all([pid for pid in pids.values() if pid is not None], grace)
        for name in pids:
            (self.pids / name).unlink(missing_ok=True)


def kill_all(pids: Iterable[int], grace: float) -> None:
    """SIGTERM (skipped with grace 0), then SIGKILL; returns when the processes are gone."""
    alive = {pid: begun for pid in pids if (begun := start_time(pid)) is not None}

    def signal_all(number: signal.Signals) -> None:
        for pid, begun in alive.items():
            if start_time(pid) == begun:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue

    def gone() -> bool:
        _reap()
        return all(start_time(pid) != begun for pid, begun in alive.items())

    if grace > 0:
        signal_all(signal.SIGTERM)
        if wait_until(gone, grace, 0.02):
            return
    signal_all(signal.SIGKILL)
    if not wait_until(gone, 10, 0.02):
        left = [f"{pid} ({' '.join(arguments(pid)[:2])})" for pid, begun in alive.items() if start_time(pid) == begun]
        raise Problem(f"these processes do not exit: {', '.join(left)}", "they may hang in the kernel; a reboot helps")


def _reap() -> None:
    """Reap our children that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass

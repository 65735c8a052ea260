"""The engine's processes as the kernel sees them: who they are, whether they use the CPU, how to end them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterable
from multiprocessing import resource_tracker
from pathlib import Path

_PROC = Path("/proc")
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def adopt_orphans() -> None:
    """Makes orphaned descendants children of this process, so that none gets out of sight when its parent ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def give_memory_back() -> None:
    """Returns what this process has freed to the kernel, where the C library can (glibc does)."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def die_with_parent(parent: int | None) -> None:
    """Has the kernel kill this process when the thread that started it ends; at once if `parent` is gone already."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command's name (state first); empty when the process is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text[text.rfind(")") + 2 :].split()


def descendants(root: int | None = None) -> list[int]:
    """The living processes below `root` (by default this one), parents before children. Zombies are left out."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) and fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[int] = []
    frontier = [root if root is not None else os.getpid()]
    while frontier:
        below = [child for pid in frontier for child in children.get(pid, [])]
        found.extend(below)
        frontier = below
    return found


def cpu_seconds(pids: Iterable[int]) -> dict[int, float]:
    """The CPU time that each process has used so far, in user and system mode; those that are gone are left out."""
    used = {}
    for pid in pids:
        if fields := _stat(pid):
            used[pid] = (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND
    return used


def any_stopped(pids: Iterable[int]) -> bool:
    """Whether one of the processes was stopped by a signal (SIGSTOP) and not continued."""
    return any(_stat(pid)[:1] == ["T"] for pid in pids)


def kill_descendants(deadline_seconds: float = 5.0) -> bool:
    """Kills everything below this process, also what is started meanwhile, and tells whether nothing is left.

    multiprocessing's resource tracker is spared: it ends by itself when the last process that uses it has, and frees
    the shared memory that the killed ones left behind, which would outlive a container's restart.
    """
    deadline = time.monotonic() + deadline_seconds
    while True:
        pids = descendants()
        victims = [pid for pid in pids if not _is_resource_tracker(pid)]
        if not pids:
            return True
        if not victims:
            _let_resource_tracker_go()
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)


def _is_resource_tracker(pid: int) -> bool:
    try:
        return b"multiprocessing.resource_tracker" in (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return False


def _let_resource_tracker_go() -> None:
    """Closes our end of its pipe; only at the very end, for the next use would start another."""
    tracker = vars(resource_tracker._resource_tracker)  # noqa: SLF001 - the module has no public way to close it
    if tracker["_fd"] is not None:
        os.close(tracker["_fd"])
        tracker["_fd"] = None

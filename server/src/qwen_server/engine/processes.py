"""The engine's processes: lists them from /proc, measures their CPU time and kills them."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable
from multiprocessing import resource_tracker
from pathlib import Path

_PROC = Path("/proc")
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def adopt_orphans() -> None:
    """Makes this process the parent of orphaned descendants, so that it still finds them."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)


class Reaper:
    """Waits for ended processes for which nobody else waits, such as what a dead engine leaves.

    Each keeps its number until then, and a container has only so many. What `multiprocessing` has
    started keeps its exit code. Everything else that this process starts is waited for at once.
    """

    def __init__(self) -> None:
        self._seen: int | None = None

    def look(self) -> None:
        """Waits for a process that had ended at the last look, too."""
        multiprocessing.active_children()  # this waits for those of multiprocessing
        found = _ended_child()
        if found is not None and found == self._seen:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(found, os.WNOHANG)
            found = _ended_child()
        self._seen = found


def _ended_child() -> int | None:
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if found is None else found.si_pid


def give_memory_back() -> None:
    """Returns freed memory to the kernel if the C library has malloc_trim (glibc does)."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def die_with_parent(parent: int | None) -> None:
    """Has the kernel kill this process when the thread that started it ends.

    Kills it immediately if its parent is not `parent`, because then `parent` has already ended.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty if the process has ended."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text[text.rfind(")") + 2 :].split()


def descendants(root: int | None = None) -> list[int]:
    """The IDs of the processes below `root` (default: this one), parents first, without zombies."""
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
    """The user and system CPU time of each process so far. Leaves out those that have ended."""
    used = {}
    for pid in pids:
        if fields := _stat(pid):
            used[pid] = (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND
    return used


def is_running(pid: int) -> bool:
    """Whether the process exists and has not ended."""
    return _stat(pid)[:1] not in ([], ["Z"], ["X"])


def any_stopped(pids: Iterable[int]) -> bool:
    """Whether any of the processes is stopped by a signal such as SIGSTOP."""
    return any(_stat(pid)[:1] == ["T"] for pid in pids)


def kill_descendants(deadline_seconds: float = 5.0) -> bool:
    """Kills all descendants, including new ones. Returns whether none is left.

    Does not kill multiprocessing's resource tracker. It frees the shared memory of the killed
    processes, which would otherwise outlive a restart of the container, and ends after its last
    user.
    """

    def left() -> list[int] | None:
        pids = descendants()
        victims = [pid for pid in pids if not _is_resource_tracker(pid)]
        if pids and not victims:
            _close_resource_tracker()
        return victims if pids else None

    return _kill(left, deadline_seconds)


def kill_engine(spared: Callable[[], Iterable[int]], deadline_seconds: float = 5.0) -> bool:
    """Kills all descendants but the `spared` ones. Returns whether none of them is left.

    Does not kill multiprocessing's resource tracker, which this process goes on to use.
    """

    def left() -> list[int] | None:
        left_alone = set(spared())
        return [pid for pid in descendants() if pid not in left_alone and not _is_resource_tracker(pid)] or None

    return _kill(left, deadline_seconds)


def _kill(left: Callable[[], list[int] | None], deadline_seconds: float) -> bool:
    """Kills the processes that are `left` until that is None. Returns whether it is in time."""
    deadline = time.monotonic() + deadline_seconds
    while (victims := left()) is not None:
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def shared_memory(pids: Iterable[int]) -> set[Path]:
    """The files of shared memory that the processes map. A killed process leaves them behind."""
    found: set[str] = set()
    for pid in pids:
        try:
            lines = (_PROC / str(pid) / "maps").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        found.update(line.split(maxsplit=5)[5] for line in lines if " /dev/shm/" in line)
    return {Path(name) for name in found if not name.endswith(" (deleted)")}


def own_bytes(pids: Iterable[int]) -> int:
    """The memory that processes share with no file, in bytes. Those that have ended use none."""
    total = 0
    for pid in pids:
        try:
            fields = (_PROC / str(pid) / "statm").read_text(encoding="ascii").split()
        except OSError:
            continue
        total += (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")
    return total


def _is_resource_tracker(pid: int) -> bool:
    try:
        return b"multiprocessing.resource_tracker" in (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return False


def _close_resource_tracker() -> None:
    """Closes our end of its pipe. Only for the exit: the next use would start another tracker."""
    tracker = vars(resource_tracker._resource_tracker)  # noqa: SLF001 - the module has no public way to close it
    if tracker["_fd"] is not None:
        os.close(tracker["_fd"])
        tracker["_fd"] = None

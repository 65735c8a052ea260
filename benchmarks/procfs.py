"""What the kernel knows about a process: CPU time, memory and allowed cores."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_LOW_PRIORITY = 10  # a "nice" value


class Memory(NamedTuple):
    """In MiB: the resident set, and the proportional share of memory that is shared with others."""

    rss: float
    pss: float


def cpu_of_stat(text: str) -> float:
    """Seconds of CPU (user and system, of all threads) in the text of /proc/PID/stat."""
    fields = text[text.rindex(")") + 2 :].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def cpu_of(pid: int) -> float:
    """Seconds of CPU (user and system) that the process has used. Raises OSError if it is gone."""
    return cpu_of_stat(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace"))


def memory_of_rollup(text: str) -> Memory:
    """Reads the text of /proc/PID/smaps_rollup."""
    kib = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines()[1:]}
    return Memory(kib["Rss"] / 1024, kib["Pss"] / 1024)


def memory_of(pid: int) -> Memory:
    """The process's memory now. Raises OSError when it is gone."""
    return memory_of_rollup(Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8"))


def pin(pids: Iterable[int], cores: Iterable[int]) -> None:
    """Restricts every thread of the processes to these cores."""
    allowed = set(cores)
    for pid in pids:
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), allowed)


def yield_to_others(pids: Iterable[int]) -> None:
    """Lets other processes on the same cores run before every thread of these processes."""
    for pid in pids:
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.setpriority(os.PRIO_PROCESS, int(thread), _LOW_PRIORITY)

"""A process that has done the imports of an engine core, for the next restart of the engine."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qwen_server.engine.processes import descendants, own_bytes
from qwen_server.engine.vllm.patches.early_core import EarlyChild

_log = logging.getLogger(__name__)

# What the process needs, with a reserve: 0.6 GiB on a CPU, more with CUDA's libraries.
NEEDED_BYTES = 2 << 30
# On fewer cores, its imports delay the first requests noticeably.
NEEDED_CPUS = 4
_CGROUP = Path("/sys/fs/cgroup")
_IDLE_SECONDS = 2.0
_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Room:
    """What the server may still use: bytes of memory, and CPUs. None if it is unknown."""

    free_bytes: int | None
    cpus: float | None


def why_none(setting: Literal["auto", "on", "off"], restarts: int, room: Room) -> str | None:
    """Why there is no standby core; None if there is to be one."""
    if restarts == 0:
        return "the engine is never restarted"
    if setting == "off":
        return "--standby-core is off"
    if setting == "on":
        return None
    if room.free_bytes is None or room.free_bytes < NEEDED_BYTES:
        known = "an unknown amount of" if room.free_bytes is None else f"{room.free_bytes / 2**30:.1f} GiB of"
        return f"{known} memory is free, and {NEEDED_BYTES / 2**30:.0f} GiB are needed"
    if room.cpus is None or room.cpus < NEEDED_CPUS:
        known = "an unknown number of" if room.cpus is None else f"{room.cpus:g}"
        return f"there are {known} CPUs, and {NEEDED_CPUS} are needed"
    return None


def room(cgroup: Path = _CGROUP, meminfo: Path = Path("/proc/meminfo")) -> Room:
    """What this process's container and machine have left."""
    frees = [_available(meminfo)]
    limit, used = _number(cgroup / "memory.max"), _number(cgroup / "memory.current")
    if limit is not None and used is not None:
        frees.append(limit - used + _cached(cgroup / "memory.stat"))
    known = [free for free in frees if free is not None]
    return Room(min(known) if known else None, _cpus(cgroup / "cpu.max"))


def _available(meminfo: Path) -> int | None:
    for line in _lines(meminfo):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return None


def _cached(stat: Path) -> int:
    """What the kernel gives back when it is needed."""
    return sum(int(line.split()[1]) for line in _lines(stat) if line.startswith("inactive_file "))


def _number(file: Path) -> int | None:
    lines = _lines(file)
    return int(lines[0]) if lines and lines[0].isdecimal() else None


def _cpus(file: Path) -> float | None:
    there = float(len(os.sched_getaffinity(0)))
    for line in _lines(file):
        quota, _, period = line.partition(" ")
        if quota.isdecimal() and period.isdecimal():
            there = min(there, int(quota) / int(period))
    return there


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []


class Standby:
    """Keeps one process ready. `start` starts it; None if that is not possible."""

    def __init__(
        self, setting: Literal["auto", "on", "off"], restarts: int, start: Callable[[], EarlyChild | None]
    ) -> None:
        self._setting = setting
        self._restarts = restarts
        self._start = start
        self._child: EarlyChild | None = None

    async def prepare(self, idle: Callable[[], bool]) -> None:
        """Starts the process once the engine has nothing to do, or after a minute.

        Its imports take seconds of CPU time, which the first requests need more.
        """
        if self._child is not None:
            return
        if reason := why_none(self._setting, self._restarts, room()):
            _log.info("there is no standby core: %s", reason)
            return
        began = quiet = time.monotonic()
        while (now := time.monotonic()) - began < _PATIENCE_SECONDS and now - quiet < _IDLE_SECONDS:
            await asyncio.sleep(_IDLE_SECONDS / 4)
            if not idle():
                quiet = time.monotonic()
        self._child = self._start()
        if self._child is not None:
            _log.info("the standby core is process %d", self._child.pid)

    def take(self) -> EarlyChild | None:
        """The process, for the next engine."""
        child, self._child = self._child, None
        return child

    def processes(self) -> Iterable[int]:
        """The process and those that it has started."""
        return () if self._child is None else (self._child.pid, *descendants(self._child.pid))

    def bytes(self) -> int:
        """The memory that it shares with no file."""
        return 0 if self._child is None else own_bytes([self._child.pid])

    def discard(self) -> None:
        """Ends the process."""
        child = self.take()
        if child is not None:
            child.discard()

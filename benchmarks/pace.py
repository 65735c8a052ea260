"""What the replaying engine and the benchmark tell each other, through files that both know.

The benchmark sets the pace: how long a step takes once all streams run. The engine notes when each
step made its tokens, and whether at the full pace.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

FOLDER = "BENCH_PACE"  # the variable that names the folder of the files
WHICH = "BENCH_SERVER"  # the variable that names the server to its own processes
# Until all streams run, steps are slow: a frontend that reads requests is not yet measured.
SLOW_SECONDS = 0.02
SETTLE_SECONDS = 0.25
_PACE: Final = struct.Struct("dd")  # seconds of a step, number of streams
_STEP: Final = struct.Struct("dd")  # the time, 1 at the full pace and otherwise 0


class Step(NamedTuple):
    """One step of the engine: when it made its tokens (time.monotonic), and whether it counts."""

    at: float
    full: bool


class Files:
    """The benchmark's side, for one server."""

    def __init__(self, folder: Path, which: str) -> None:
        self._folder = folder
        self._which = which

    def words(self) -> str:
        """The tokens, one character each: the engine gives all streams word i in its i-th step."""
        return _words(self._folder, self._which).read_text(encoding="utf-8")

    def steps(self) -> int:
        """How many steps the engine has noted."""
        return _steps(self._folder, self._which).stat().st_size // _STEP.size

    def since(self, first: int) -> list[Step]:
        """The steps from the one with this number on."""
        with _steps(self._folder, self._which).open("rb") as file:
            file.seek(first * _STEP.size)
            data = file.read()
        whole = len(data) - len(data) % _STEP.size
        return [Step(at, bool(full)) for at, full in _STEP.iter_unpack(data[:whole])]


def set_pace(folder: Path, seconds: float, streams: int) -> None:
    """Sets the duration of a step with `streams` streams, from the next one on."""
    path = _pace(folder)
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(_PACE.pack(seconds, streams))


class Pacemaker:
    """The engine's side. The environment says where the files are, and for which server."""

    def __init__(self, words: Sequence[str]) -> None:
        folder, which = Path(os.environ[FOLDER]), os.environ[WHICH]
        _words(folder, which).write_text("".join(words), encoding="utf-8")
        self._log = os.open(_steps(folder, which), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        with _pace(folder).open("rb") as file:
            self._map = mmap.mmap(file.fileno(), _PACE.size, prot=mmap.PROT_READ)
        self._all_since: float | None = None

    def is_set(self) -> bool:
        """Whether there is a pace. Until then, its duration is 0."""
        seconds: float = _PACE.unpack(self._map[:])[0]
        return seconds > 0

    def seconds(self, streams: int, now: float) -> tuple[float, bool]:
        """How long a step of so many streams takes, and whether that is the full pace."""
        seconds, expected = _PACE.unpack(self._map[:])
        if streams < expected:
            self._all_since = None
        elif self._all_since is None:
            self._all_since = now
        if self._all_since is None or now - self._all_since < SETTLE_SECONDS:
            return max(seconds, SLOW_SECONDS), False
        return seconds, True

    def note(self, step: Step) -> None:
        """Notes a step."""
        os.write(self._log, _STEP.pack(*step))


def _pace(folder: Path) -> Path:
    return folder / "pace"


def _words(folder: Path, which: str) -> Path:
    return folder / f"words-{which}"


def _steps(folder: Path, which: str) -> Path:
    return folder / f"steps-{which}"

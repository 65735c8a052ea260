"""Why the engine failed, in one line: found in the errors that its processes logged, or in how they ended."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from qwen_server.engine.vllm.patches.vllm_texts import CORE_ENDED, HEARSAY, WORKER_ENDED

_TAIL_BYTES = 256 * 1024
_CAUSE_LENGTH = 1000
# The words of torch's allocator on a CPU, of C++ and of the kernel, for what CUDA calls out of memory.
_NO_MEMORY = re.compile(r"can't allocate memory|Cannot allocate memory|bad_alloc|MemoryError|OutOfMemory|_ALLOC_FAILED")


@dataclass(frozen=True, slots=True)
class LoggedError:
    """An error that a process logged; `error` is the exception's class and text, empty when there was none."""

    time: float
    pid: int
    message: str
    error: str


def read_errors(path: Path) -> list[LoggedError]:
    """The errors in the file's tail, oldest first; lines that cannot be read are left out."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(size - _TAIL_BYTES, 0))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    errors = []
    for line in lines:
        try:
            entry = json.loads(line)
            errors.append(LoggedError(entry["time"], entry["pid"], entry["message"], entry["error"]))
        except (ValueError, KeyError, TypeError):
            continue
    return errors


def cause_of(errors: Iterable[LoggedError], *, since: float, server: int) -> str | None:
    """The first error since `since` (wall clock) that is a cause and not the echo of one; None if there is none.

    The processes fail one after the other, from the worker up: the first to speak knows.
    """
    recent = [error for error in errors if error.time >= since and error.pid != server]
    for error in recent:
        if error.error and not HEARSAY.search(error.error):
            return one_line(error.error)
    for error in recent:
        if not HEARSAY.search(error.message):
            return one_line(error.message)
    return None


def ending_of(exit_codes: Mapping[str, int | None]) -> str | None:
    """How processes ended, by name: None for one that lives, negative for a signal. None when all live."""
    texts = [f"{name} {_ending(code)}" for name, code in exit_codes.items() if code is not None]
    return "; ".join(texts) or None


def _ending(code: int) -> str:
    if code >= 0:
        return f"exited with code {code}"
    hint = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}{hint}"


def explain(error: BaseException) -> str:
    """An exception of vLLM's own as one line, without the decoration of pydantic's messages."""
    text = str(error).strip() or type(error).__name__
    if failed := CORE_ENDED.search(text):
        return f"{failed[1]} {_ending(int(failed[2]))}"
    match = re.search(r"validation errors? for \w+\s*(.*?)\s*\[type=", text, re.DOTALL)
    if match:
        text = re.sub(r"^(Value|Assertion) error, ", "", match[1])
    return one_line(text)


def one_line(text: str) -> str:
    """The text without line breaks and not too long; what clients and counters look for is named in the usual words."""
    flat = " ".join(text.split())
    if ended := WORKER_ENDED.search(flat):
        # Its parent may have been told of the end before it could read the code.
        unknown = "ended unexpectedly, perhaps killed for want of memory"
        return f"{ended[1]} {unknown if ended[2] == 'None' else _ending(int(ended[2]))}"
    if _NO_MEMORY.search(flat) and "out of memory" not in flat.lower():
        flat = f"out of memory: {flat}"
    return flat if len(flat) <= _CAUSE_LENGTH else flat[: _CAUSE_LENGTH - 3] + "..."

"""Finds out why the engine failed, from the errors that its processes logged or their exit codes.

A cause is one line. Clients, the termination message and the log show it.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from qwen_server.engine.vllm.patches.vllm_texts import CORE_ENDED, HEARSAY, NO_DEVICE, WORKER_ENDED

_TAIL_BYTES = 256 * 1024
_CAUSE_LENGTH = 1000
# What torch's CPU allocator, C++ and the kernel say instead of CUDA's "out of memory".
_NO_MEMORY = re.compile(r"can't allocate memory|Cannot allocate memory|bad_alloc|MemoryError|OutOfMemory|_ALLOC_FAILED")


@dataclass(frozen=True, slots=True)
class LoggedError:
    """An error that a process logged.

    time: in seconds of the wall clock.
    error: the class and text of the exception, empty if there was none.
    """

    time: float
    pid: int
    message: str
    error: str


def read_errors(path: Path) -> list[LoggedError]:
    """The errors in the last 256 KiB of the file, oldest first. Skips lines that do not parse."""
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
    """The first error since `since` that is a cause and does not just report another one's failure.

    The worker fails first, then the processes above it, so the first error is the most precise.

    Args:
        errors: oldest first.
        since: in seconds of the wall clock.
        server: the process ID of the server, whose own errors do not count.
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
    """How processes ended. None if all are alive.

    `exit_codes` has the code of each process by name: None if it is alive, negative for a signal.
    """
    texts = [f"{name} {_ending(code)}" for name, code in exit_codes.items() if code is not None]
    return "; ".join(texts) or None


def _ending(code: int) -> str:
    if code >= 0:
        return f"exited with code {code}"
    # Not "out of memory": clients and metrics treat these words as a reported error.
    hint = ", possibly by the OOM killer" if code == -signal.SIGKILL else ""
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}{hint}"


def explain(error: BaseException) -> str:
    """The text of one of vLLM's exceptions as a cause, without pydantic's additions."""
    text = str(error).strip() or type(error).__name__
    if failed := CORE_ENDED.search(text):
        return f"{failed[1]} {_ending(int(failed[2]))}"
    match = re.search(r"validation errors? for \w+\s*(.*?)\s*\[type=", text, re.DOTALL)
    if match:
        text = re.sub(r"^(Value|Assertion) error, ", "", match[1])
    return one_line(text)


def one_line(text: str) -> str:
    """A text as a cause: without line breaks, at most 1,000 characters.

    Says "out of memory" for all errors of that kind, because clients and metrics match these words.
    """
    flat = " ".join(text.split())
    if ended := WORKER_ENDED.search(flat):
        # vLLM may notice that the process has ended before its exit code is available.
        unknown = "ended unexpectedly, possibly killed by the OOM killer"
        return f"{ended[1]} {unknown if ended[2] == 'None' else _ending(int(ended[2]))}"
    if _NO_MEMORY.search(flat) and "out of memory" not in flat.lower():
        flat = f"out of memory: {flat}"
    return flat if len(flat) <= _CAUSE_LENGTH else flat[: _CAUSE_LENGTH - 3] + "..."


def with_advice(cause: str, device: str) -> str:
    """The cause, with what to look at where vLLM's words say too little or another thing."""
    if "gpu_memory_utilization" in cause and device != "cuda":
        return f"{cause} (on a CPU: --kv-cache-gib)"
    if NO_DEVICE.search(cause):
        return f"{cause} (CUDA finds no GPU: see CUDA_VISIBLE_DEVICES and the driver's version)"
    return cause

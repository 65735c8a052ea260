"""How much memory there is for an engine: of this container, or of each GPU.

The numbers are upper bounds, so that nobody is refused by mistake. What is not known is None.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

from qwen_server.observe.visible_gpus import visible_handles

_NVML_SECONDS = 5.0  # a broken driver may not answer at all


def container_memory(root: Path = Path("/")) -> int | None:
    """Returns the bytes that this container may use, with swap. `root` replaces `/` in tests."""
    machine = _meminfo(root / "proc/meminfo")
    if machine is None:
        return None
    memory, swap = machine
    limits = [memory + swap]
    for folder in _cgroups(root):
        if (limit := _number(folder / "memory.max")) is not None:  # version 2
            extra = _number(folder / "memory.swap.max")
            limits.append(limit + (swap if extra is None else min(extra, swap)))
        if (limit := _number(folder / "memory.limit_in_bytes")) is not None:  # version 1
            limits.append(limit + swap)
    return min(limits)


def _cgroups(root: Path) -> list[Path]:
    """The folders of this process's control group, and of those around it."""
    base = root / "sys/fs/cgroup"
    folders = [base, base / "memory"]
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        lines = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        inside = base if not controllers else base / "memory"
        if controllers in ("", "memory") and ".." not in path.split("/"):
            parts = [part for part in path.split("/") if part]
            folders += [inside.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
    return folders


def _meminfo(path: Path) -> tuple[int, int] | None:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    found = dict(re.findall(r"^(MemTotal|SwapTotal):\s*(\d+) kB$", text, re.MULTILINE))
    return (1024 * int(found["MemTotal"]), 1024 * int(found.get("SwapTotal", 0))) if "MemTotal" in found else None


def _number(path: Path) -> int | None:
    """The number in a file; None for `max`, and if there is no such file."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return int(text) if text.isascii() and text.isdigit() else None


def gpu_memory(count: int) -> int | None:
    """Returns the bytes of each of the engine's GPUs; of the largest one if they differ.

    None if there are fewer than `count`, without a driver, or if it does not answer in 5 s.
    """
    try:
        import pynvml  # noqa: PLC0415 - not installed without GPU support
    except ImportError:
        return None
    found: list[int] = []

    def ask() -> None:
        try:
            found.extend(_totals(pynvml, count))
        except Exception:  # noqa: BLE001 - whatever fails, the number is not known
            found.clear()

    thread = threading.Thread(target=ask, name="gpu-memory", daemon=True)
    thread.start()
    thread.join(_NVML_SECONDS)
    totals = list(found)
    return None if thread.is_alive() or len(totals) < count else max(totals)


def _totals(nvml: ModuleType | Any, count: int) -> list[int]:
    """The memory of the engine's devices, or of all GPUs if they are alike.

    Only CUDA knows which GPUs come first. Asking it takes seconds, and where all GPUs have the same
    memory it does not matter.
    """
    nvml.nvmlInit()
    gpus = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    if not any(_is_divided(nvml, gpu) for gpu in gpus):
        totals = [int(nvml.nvmlDeviceGetMemoryInfo(gpu).total) for gpu in gpus]
        if len(set(totals)) == 1:
            return totals
    return [int(nvml.nvmlDeviceGetMemoryInfo(device).total) for device in visible_handles(nvml, count)]


def _is_divided(nvml: ModuleType | Any, gpu: Any) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetMigMode(gpu)[0])
    except nvml.NVMLError:
        return False

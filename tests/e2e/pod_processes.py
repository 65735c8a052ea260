"""Processes inside pods, seen from the node: for stopping and killing parts of a server."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any


def pids(pod: dict[str, Any], name: str) -> list[int]:
    """The processes of a pod whose title starts with `name`, such as `VLLM::EngineCore`.

    The kubelet names a pod's cgroup by its UID; a process's title is what vLLM sets as its command
    line.
    """
    uid = pod["metadata"]["uid"]
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            inside = uid in (folder / "cgroup").read_text()
            title = (folder / "cmdline").read_bytes().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if inside and title.startswith(name):
            found.append(int(folder.name))
    return found


def send(signal_number: signal.Signals, targets: list[int]) -> None:
    """Sends a signal to processes that must exist."""
    assert targets, "no such process in the pod"
    for pid in targets:
        os.kill(pid, signal_number)

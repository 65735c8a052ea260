"""Whether there is a standby core, and what the engine's processes leave behind."""

from __future__ import annotations

import asyncio
import mmap
import os
import subprocess
import sys
from multiprocessing import shared_memory
from pathlib import Path
from typing import cast

import pytest

from qwen_server.engine import processes
from qwen_server.engine.vllm import standby
from qwen_server.engine.vllm.patches.early_core import EarlyChild
from qwen_server.engine.vllm.standby import NEEDED_BYTES, Room, Standby, room, why_none
from tests.unit.qwen_server.serving import until

ROOMY = Room(NEEDED_BYTES, 4.0)


@pytest.mark.parametrize(
    ("setting", "restarts", "found", "reason"),
    [
        ("auto", 3, ROOMY, None),
        ("on", 3, Room(0, 1.0), None),
        ("off", 3, ROOMY, "off"),
        ("auto", 0, ROOMY, "never restarted"),
        ("on", 0, ROOMY, "never restarted"),
        ("auto", 3, Room(NEEDED_BYTES - 1, 4.0), "2.0 GiB of memory is free"),
        ("auto", 3, Room(None, 4.0), "unknown amount"),
        ("auto", 3, Room(NEEDED_BYTES, 2.0), "2 CPUs"),
    ],
)
def test_there_is_one_where_there_is_room(setting: str, restarts: int, found: Room, reason: str | None) -> None:
    why = why_none(setting, restarts, found)  # type: ignore[arg-type]
    assert (why is None) if reason is None else (why is not None and reason in why)


def test_room_is_what_the_container_has_left(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 32 kB\nMemAvailable:    8388608 kB\n")
    assert room(tmp_path, meminfo).free_bytes == 8 << 30
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert room(tmp_path, meminfo) == Room(8 << 30, float(len(os.sched_getaffinity(0))))
    (tmp_path / "memory.max").write_text(f"{4 << 30}\n")
    (tmp_path / "memory.current").write_text(f"{3 << 30}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {1 << 29}\n")
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert room(tmp_path, meminfo) == Room((1 << 30) + (1 << 29), 0.5)


class Child:
    """A process that waits for its work."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.discarded = False

    def discard(self) -> None:
        self.discarded = True


async def test_it_starts_when_the_engine_is_idle_and_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "_IDLE_SECONDS", 0.02)
    started: list[Child] = []

    def start() -> EarlyChild:
        started.append(Child())
        return cast("EarlyChild", started[-1])

    idle = False
    kept = Standby("on", 3, start)
    preparing = asyncio.create_task(kept.prepare(lambda: idle))
    await asyncio.sleep(0.1)
    assert (started, kept.bytes()) == ([], 0)
    idle = True
    await until(lambda: started)
    await preparing
    assert kept.bytes() > 0
    assert os.getpid() in kept.processes()
    assert kept.take() is cast("EarlyChild", started[0])
    assert (kept.take(), list(kept.processes())) == (None, [])
    await kept.prepare(lambda: True)
    kept.discard()
    assert [child.discarded for child in started] == [False, True]


async def test_it_starts_after_a_minute_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    assert standby._PATIENCE_SECONDS == 60
    monkeypatch.setattr(standby, "_PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(standby, "_IDLE_SECONDS", 0.02)
    kept = Standby("on", 3, lambda: cast("EarlyChild", Child()))
    preparing = asyncio.create_task(kept.prepare(lambda: False))
    await asyncio.sleep(0.05)
    assert not kept.bytes()
    await preparing
    assert kept.bytes() > 0


def test_an_engine_is_killed_but_not_who_stands_by() -> None:
    sleeping = [sys.executable, "-c", "import time; time.sleep(60)"]
    engine, standing_by = subprocess.Popen(sleeping), subprocess.Popen(sleeping)
    try:
        others = {pid for pid in processes.descendants() if pid != engine.pid}
        assert processes.kill_engine(lambda: others)
        assert engine.wait(5) < 0
        assert standing_by.poll() is None
    finally:
        standing_by.kill()
        standing_by.wait()


def test_the_files_of_shared_memory_are_found() -> None:
    block = shared_memory.SharedMemory(create=True, size=mmap.PAGESIZE)
    try:
        assert Path("/dev/shm") / block.name.lstrip("/") in processes.shared_memory([os.getpid()])
        assert processes.shared_memory([2**22 + 1]) == set()
    finally:
        block.close()
        block.unlink()
    assert processes.own_bytes([os.getpid()]) > 1 << 20
    assert processes.own_bytes([2**22 + 1]) == 0

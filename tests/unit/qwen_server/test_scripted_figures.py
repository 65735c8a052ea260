"""What tests can script besides answers: how full the KV cache is, and the figures of a GPU."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from qwen_server.observe.gpu import GpuReading
from tests.scripted_gpu import reading
from tests.unit.qwen_server.serving import serve, until

HALF = '@{"tokens": 100, "delay": 0.02, "cache": 0.5}'


async def test_requests_fill_the_kv_cache_while_they_run() -> None:
    async with serve() as served:
        chats = [asyncio.create_task(served.chat(HALF)) for _ in range(2)]
        await until(lambda: served.engine.kv_cache_usage == 1.0)
        for chat in chats:
            await chat
        await served.until_idle()
        assert served.engine.kv_cache_usage == 0.0


def test_a_file_has_the_figures_of_the_gpu(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    assert reading(file) == GpuReading()
    file.write_text(json.dumps({"allocated": 99, "total": 100, "temperature": 95.0, "faults": ["Xid 79"]}))
    found = reading(file)
    assert (found.utilization_percent, found.temperature, found.faults) == (99.0, 95.0, ("Xid 79",))

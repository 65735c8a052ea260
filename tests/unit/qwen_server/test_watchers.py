"""Nothing may be deaf: what watches the engine, the files and the GPUs survives its errors."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, cast

import pytest

from qwen_server.control.lifecycle import Lifecycle
from qwen_server.control.service import Service
from qwen_server.engine.background import BackgroundTasks
from qwen_server.engine.vllm import watch as watch_module
from qwen_server.engine.vllm.heartbeat import Heartbeat
from qwen_server.engine.vllm.watch import Watch
from qwen_server.http.disconnects import UntilDisconnect
from qwen_server.http.error_bodies import ClientDisconnectedError
from tests.scripted_engine import ScriptedEngine
from tests.unit.qwen_server.serving import make_settings, serve, until
from tests.unit.qwen_server.test_gpu import GIB, FakeNvml

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM


class Llm:
    """The part of AsyncLLM that the watch uses."""

    errored = False

    def __init__(self) -> None:
        self.pings = 0

    def get_num_unfinished_requests(self) -> int:
        return 0

    async def is_sleeping(self) -> bool:
        self.pings += 1
        return False


@pytest.mark.parametrize("broken", ["descendants", "cpu_seconds", "any_stopped", "get_num_unfinished_requests"])
async def test_the_watch_of_the_engine_survives_its_errors(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    fails = True

    def fail(*_: Any) -> Any:
        if fails:
            raise OSError("no such process")
        return {} if broken == "cpu_seconds" else []

    monkeypatch.setattr(watch_module, "_PULSE_SECONDS", 0.005)
    llm = Llm()
    if broken == "get_num_unfinished_requests":
        monkeypatch.setattr(llm, broken, lambda: fail() or 0)
    else:
        monkeypatch.setattr(watch_module, broken, fail)
    heartbeat = Heartbeat(most_compiling_seconds=0.0)
    if broken == "cpu_seconds":  # read only while an answer is overdue
        monkeypatch.setattr(Heartbeat, "quiet_seconds", lambda *_: 1.0)

    async def probe() -> None:
        pass

    whole = Watch(
        cast("AsyncLLM", llm),
        heartbeat,
        BackgroundTasks(),
        sees_steps=False,
        on_cpu=True,
        asleep=lambda: False,
        strangers=lambda: (),
        probe=probe,
    )
    with caplog.at_level(logging.ERROR):
        watch = asyncio.create_task(whole.run())
        await until(lambda: caplog.records)
        fails = False
        seen = llm.pings
        await until(lambda: llm.pings > seen + 2 and heartbeat.cpu_active_at is not None)
        llm.errored = True
        await asyncio.wait_for(watch, 5)
    assert len(caplog.records) == 1


async def test_a_failed_task_of_the_engine_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ValueError("unexpected")

    tasks = BackgroundTasks()
    tasks.start(fail())
    await until(lambda: caplog.records)
    assert "unexpected" in caplog.text


def test_a_part_of_the_ticker_that_fails_does_not_stop_the_alerts(caplog: pytest.LogCaptureFixture) -> None:
    fails = True
    reloaded = []

    def reload() -> None:
        if fails:
            raise ValueError("not a key")
        reloaded.append(1)

    engine = ScriptedEngine()
    engine.started = True
    lifecycle = Lifecycle()
    lifecycle.mark_ready()
    service = Service(make_settings(engine_restarts=0), engine, lifecycle, reloads=[reload])
    engine.die()
    for _ in range(3):
        service.tick()
    assert service.alert_state.fires("EngineDead")
    assert len([record for record in caplog.records if record.exc_info]) == 1
    fails = False
    service.tick()
    assert reloaded == [1]


async def test_a_watch_of_a_client_that_fails_ends_the_request() -> None:
    async def receive() -> dict[str, Any]:
        raise ValueError("unexpected")

    with pytest.raises(ClientDisconnectedError):
        async with asyncio.timeout(5), UntilDisconnect(receive):
            await asyncio.Future()


class SlowNvml(FakeNvml):
    """A driver that blocks until it is let go, and fails at first."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go = threading.Event()
        self.threads: list[int] = []

    def nvmlInit(self) -> None:  # noqa: N802
        self.threads.append(threading.get_ident())
        self.may_go.wait(10)
        if len(self.threads) == 1:
            raise self.NVMLError("the driver is not loaded")


async def test_a_driver_that_blocks_does_not_block_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = SlowNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr("qwen_server.observe.gpu._REFRESH_SECONDS", 0.02)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    begin = time.monotonic()
    async with serve(device="cuda") as served:
        await until(lambda: nvml.threads)
        assert (await served.client.get("/health")).status_code == 200
        assert time.monotonic() - begin < 5
        nvml.may_go.set()
        await until(lambda: served.service.gpu.latest.total == 10 * GIB)
        assert len(nvml.threads) == 2
        assert threading.get_ident() not in nvml.threads

"""Ways in which a server stops working, and healthy servers that look alike.

docs/remediation.md lists all of them, with the tests of the others.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from qwen_server.control import service as service_module
from qwen_server.engine.base import EngineGoneError, EngineInfo
from qwen_server.engine.vllm import engine as engine_module
from qwen_server.engine.vllm.engine import VllmEngine
from tests.unit.qwen_server.serving import Served, make_settings, serve, until
from tests.unit.qwen_server.test_lifecycle_of_program import Program

THRESHOLD = 1.0


@pytest.fixture
async def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    """A server whose engine counts as hung or stalled after a second."""
    monkeypatch.setattr(service_module, "TICK_SECONDS", 0.02)
    path = tmp_path / "alerts.json"
    alerts = [{"name": name, "threshold": THRESHOLD} for name in ("EngineUnresponsive", "GenerationStalled")]
    path.write_text(json.dumps({"alerts": alerts}))
    async with serve(alerts_file=path) as served:
        yield served


async def watched(served: Served, seconds: float) -> set[str]:
    """The alerts that were active within a time in which the server stayed healthy and ready."""
    seen: set[str] = set()
    end = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < end:
        seen |= {alert.rule.name for alert in served.service.alert_state.active}
        for path in ("/health", "/health/ready", "/health/live"):
            assert (await served.client.get(path)).status_code == 200
        await asyncio.sleep(0.02)
    return seen


# Wedges.


def test_a_stopped_api_process_answers_no_probe_and_comes_back_without_an_alert(tmp_path: Path) -> None:
    rules = [{"name": "EngineUnresponsive", "threshold": 0.3}]
    (tmp_path / "alerts.json").write_text(json.dumps({"alerts": rules}))
    program = Program(tmp_path)
    try:
        program.until_ready()
        program.process.send_signal(signal.SIGSTOP)
        for path in ("/health/ready", "/health/live", "/api/v1/metrics"):
            with pytest.raises(httpx.TimeoutException):
                httpx.get(program.url + path, timeout=0.3)
        program.process.send_signal(signal.SIGCONT)
        program.until_ready()
        assert httpx.get(f"{program.url}/api/v1/metrics", timeout=5).json()["alerts"] == []
    finally:
        program.process.kill()
        program.process.wait()


class Llm:
    """The part of AsyncLLM that matters here: without its output handler it counts as dead."""

    def __init__(self) -> None:
        self.output_handler = asyncio.create_task(asyncio.Event().wait())

    @property
    def errored(self) -> bool:
        return self.output_handler.done()

    def get_num_unfinished_requests(self) -> int:
        return 1


async def test_an_engine_whose_output_handler_has_ended_is_dead_at_once() -> None:
    """The engine core works on, but nobody reads its tokens. The server exits with code 70."""
    llm = Llm()
    engine = VllmEngine(make_settings(engine_restarts=0))
    info = EngineInfo("m", "m", 2048, 256, 65536, "cpu")
    running = engine_module._Running(SimpleNamespace(llm=llm, info=info), None, None, None)  # type: ignore[arg-type]
    engine._running = running
    engine._revival.arrived(running)
    engine._state = "ready"
    assert engine.vitals().state == "ready"
    llm.output_handler.cancel()
    await asyncio.wait([llm.output_handler])
    vitals = engine.vitals()
    assert (vitals.state, vitals.death_cause) == ("dead", "the engine died")
    with pytest.raises(EngineGoneError):
        await engine.prepare_completion({}, "1", 0.0)
    await engine.shutdown(0)


# Healthy ones.


async def test_a_saturated_server_is_not_taken_for_a_hung_one(served: Served) -> None:
    """Three run, ten wait and the rest is refused, for longer than the thresholds."""
    answers = [asyncio.create_task(served.chat('@{"tokens": 15, "delay": 0.04}')) for _ in range(20)]
    await until(lambda: served.service.admission.waiting == served.service.admission.queue_limit)
    assert await watched(served, 1.5 * THRESHOLD) == set()
    statuses = [answer.status_code for answer in await asyncio.gather(*answers)]
    assert set(statuses) == {200, 503}


async def test_a_grammar_that_compiles_for_long_raises_no_alert_and_delays_no_other(served: Served) -> None:
    served.engine.compiles.clear()
    slow = asyncio.create_task(served.chat(structured_outputs={"regex": "a|b"}))
    await until(lambda: served.engine.checks == 1)
    assert await watched(served, 1.5 * THRESHOLD) == set()
    assert (await served.chat()).status_code == 200
    served.engine.compiles.set()
    assert (await slow).status_code == 200

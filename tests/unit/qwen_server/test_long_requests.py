"""Requests that are too long for their deadline are no sign of a sick server; a hung engine is."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from qwen_server.control import service
from tests.unit.qwen_server.serving import Served, serve, until

FLOWING: dict[str, Any] = {"tokens": 500, "delay": 0.05}
SILENT: dict[str, Any] = {"tokens": 500, "first": 60}


async def time_out(served: Served, count: int, script: dict[str, Any], **fields: Any) -> None:
    text = "@" + json.dumps(script)
    answers = await asyncio.gather(*(served.chat(text, max_tokens=500, **fields) for _ in range(count)))
    assert all("超时" in answer.text for answer in answers)


async def test_long_requests_alone_raise_no_alert() -> None:
    async with serve(request_timeout=1.5, max_concurrent_requests=100) as served:
        await asyncio.gather(*(served.chat() for _ in range(5)))
        await asyncio.gather(time_out(served, 15, FLOWING), time_out(served, 15, FLOWING, stream=True))
        requests = (await served.metrics())["requests"]
        assert (requests["failed"], requests["successful"]) == (30, 5)
        assert served.service.figures.recent_errors() == (5, 0)
        assert served.service.figures.counters.errors == {"timeout": 30}
        served.service.evaluate()
        assert not served.service.alert_state.active


async def test_requests_that_get_nothing_until_their_deadline_raise_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_WORKING_SECONDS", 0.2)
    async with serve(request_timeout=2.5, max_concurrent_requests=100) as served:
        await time_out(served, 25, SILENT)
        assert served.service.figures.recent_errors() == (25, 25)
        await until(lambda: served.service.alert_state.fires("HighErrorRate"))


async def test_requests_that_the_engine_does_not_know_raise_it() -> None:
    async with serve(request_timeout=0.7, max_concurrent_requests=100) as served:

        async def prepare(*_: object) -> None:
            await asyncio.sleep(60)

        served.engine.prepare_chat = prepare  # type: ignore[method-assign, assignment]
        served.engine._last_token = served.service.clock()
        await time_out(served, 25, FLOWING)
        assert served.service.figures.recent_errors() == (25, 25)

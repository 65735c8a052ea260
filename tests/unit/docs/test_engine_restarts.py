"""What docs/engine-restarts.md shows is what the server answers."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

from qwen_server.config.settings import Settings
from qwen_server.control.restarts import BUDGET_SECONDS
from qwen_server.engine.replays import _REASONS, BEGUN_TEXT
from qwen_server.engine.vllm.standby import NEEDED_BYTES, NEEDED_CPUS
from qwen_server.http.error_bodies import interrupted, stream_event
from qwen_server.observe.request_figures import RESTART_CAUSES
from tests.unit.qwen_server.serving import until
from tests.unit.qwen_server.test_engine_restarts import LONG, revived

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "engine-restarts.md").read_text(encoding="utf-8")
ERROR, METRICS = (json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))


def test_the_error_is_that_of_a_stream() -> None:
    event = stream_event(interrupted(ERROR["error"]["message"]))
    assert json.loads(event.removeprefix(b"data: ")) == ERROR
    assert ERROR["error"]["message"].endswith(_REASONS["seed"])


async def test_the_figures_are_those_after_a_restart() -> None:
    async with revived() as served:
        stream = asyncio.create_task(served.chat(LONG, stream=True, max_tokens=500))
        await until(lambda: served.engine.generated > 5)
        served.engine.die()
        await stream
        engine: dict[str, Any] = (await served.metrics())["engine"]
    assert engine == METRICS


def test_every_reason_and_every_cause_is_in_its_table() -> None:
    for reason in (*_REASONS.values(), BEGUN_TEXT):
        assert f"| {reason} |" in PAGE or reason == _REASONS["unknown"] or reason == _REASONS["logprobs"]
    assert re.findall(r"^\| `(\w+)` \| [atr]", PAGE, re.MULTILINE) == list(RESTART_CAUSES)


def test_the_defaults_are_those_of_the_page() -> None:
    settings = Settings()
    assert f"by default {settings.engine_restarts}." in PAGE
    assert (settings.standby_core, BUDGET_SECONDS) == ("auto", 600)
    assert f"if {NEEDED_BYTES >> 30} GiB of memory are\nfree and the container has {NEEDED_CPUS} CPUs" in PAGE

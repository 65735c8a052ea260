"""A short, deterministic run of the fuzzer against a scripted engine; see `make fuzz`.

`make test-full` adds the edges of every parameter, FUZZ_EDGES=1, which the integration tests send
to a real vLLM.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path

import pytest

from tests.fuzz.hostile import attack
from tests.fuzz.rounds import fuzz
from tests.fuzz.silence import Silence
from tests.unit.qwen_server.serving import serve

EDGES = os.environ.get("FUZZ_EDGES") == "1"
CASES = 1000 if EDGES else 160


@pytest.mark.timeout(300)
async def test_every_answer_is_as_the_api_describes_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with serve(max_tokens_limit=16, default_max_tokens=16) as served:
            rounds = await asyncio.to_thread(fuzz, served.url, cases=CASES, seed=1, folder=tmp_path, edges=EDGES)
            assert (served.service.admission.running, served.service.admission.waiting) == (0, 0)
    assert all(each.clean for each in rounds), rounds[-1].output
    assert sum(each.cases for each in rounds) >= CASES
    assert not [record.getMessage() for record in caplog.records if record.exc_info]


async def test_hostile_grammars_are_tried_and_silence_is_measured() -> None:
    async with serve(max_tokens_limit=16, default_max_tokens=16) as served:
        silence = Silence(served.url)
        silence.start()
        found = await asyncio.to_thread(attack, served.url, count=60, seed=1)
        time.sleep(0.5)  # noqa: ASYNC251 - blocks the loop, which is to be seen
        await asyncio.sleep(0.05)
        await asyncio.to_thread(silence.stop)
        assert not found.findings
        assert sum(found.statuses.values()) == 60
        assert found.statuses[400] > 5
        assert served.engine.checked
        assert silence.failed is None
        assert silence.longest > 0.3

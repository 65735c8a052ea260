"""A short, deterministic run of the fuzzer against a scripted engine; see `make fuzz`."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from tests.fuzz.rounds import fuzz
from tests.unit.qwen_server.serving import serve


@pytest.mark.timeout(300)
async def test_every_answer_is_as_the_api_describes_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with serve(max_tokens_limit=16, default_max_tokens=16) as served:
            rounds = await asyncio.to_thread(fuzz, served.url, cases=1000, seed=1, folder=tmp_path)
            assert (served.service.admission.running, served.service.admission.waiting) == (0, 0)
    assert all(each.clean for each in rounds), rounds[-1].output
    assert sum(each.cases for each in rounds) >= 1000
    assert not [record.getMessage() for record in caplog.records if record.exc_info]

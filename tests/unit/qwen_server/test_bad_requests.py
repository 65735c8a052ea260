"""Every bad request is refused quickly and in OpenAI's shape, and leaves nothing behind: no slot,
no memory.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from benchmarks.procfs import memory_of
from tests.unit.qwen_server.bad_requests import Answer, Bad, Connection, corpus
from tests.unit.qwen_server.serving import Served, serve, until
from tests.unit.qwen_server.test_lifecycle_of_program import Program

CORPUS = corpus()
SMALL = [bad for bad in CORPUS if len(bad.raw) < 1 << 16]
LARGE = [bad for bad in CORPUS if len(bad.raw) >= 1 << 16]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Served]:
    async with serve() as served:
        yield served


def connection_to(url: str) -> Connection:
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    return Connection(parts.hostname, parts.port)


def check(bad: Bad, answer: Answer) -> None:
    """The answer is the status that the request deserves, in OpenAI's shape (or Anthropic's)."""
    assert answer.status == bad.status, (bad.name, answer)
    if bad.has_body:
        error = json.loads(answer.body)["error"]
        fields = {"message", "type"} if bad.is_anthropics else {"message", "type", "param", "code"}
        assert set(error) == fields, bad.name
        assert error["message"]
        assert b"Traceback" not in answer.body
        assert len(answer.body) < 20_000


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("bad", CORPUS, ids=lambda bad: bad.name)
async def test_a_bad_request_is_refused(served: Served, bad: Bad, caplog: pytest.LogCaptureFixture) -> None:
    connection = connection_to(served.url)
    try:
        with caplog.at_level(logging.WARNING):
            answer = await connection.send(bad)
    finally:
        await connection.close()
    check(bad, answer)
    assert answer.seconds < 3  # 30 ms at most on an idle machine
    admission = served.service.admission
    assert (admission.running, admission.waiting, served.engine.unfinished) == (0, 0, 0)
    assert not [record.getMessage() for record in caplog.records if record.exc_info]


async def send_all(url: str, requests: Sequence[Bad], connections: int = 4) -> None:
    """Sends all requests over a few connections, each taking its share."""

    async def send(share: Sequence[Bad]) -> None:
        connection = connection_to(url)
        for bad in share:
            check(bad, await connection.send(bad))
        await connection.close()

    await asyncio.gather(*(send(requests[start::connections]) for start in range(connections)))


async def test_ten_thousand_bad_requests_leave_no_memory_behind(tmp_path: Path) -> None:
    # What is freed goes back to the system at once, so that what is left is what is held.
    malloc = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    program = Program(tmp_path, "--log-level=warning", environment=malloc)
    try:
        await asyncio.to_thread(program.until_ready)
        repeated = [SMALL[index % len(SMALL)] for index in range(10_000)]
        await send_all(program.url, [*repeated[:1000], *LARGE * 3])
        before = memory_of(program.process.pid).rss
        await send_all(program.url, [*repeated, *LARGE])
        # The last body may be freed a moment after its answer.
        await until(lambda: memory_of(program.process.pid).rss <= 1.05 * before)
        assert program.health() == "ok"
    finally:
        program.process.kill()
        program.process.wait()
    assert "Traceback" not in program.log.read_text(encoding="utf-8")

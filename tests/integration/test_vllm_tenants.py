"""Two tenants on a real vLLM: one that floods the server waits for itself, not the other for it."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

import pytest

from tests.integration.load import Load, Plan, Request, measured
from tests.integration.server_process import ServerProcess, ready_server

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(420, func_only=True)]

PATH = "/v1/completions"
SLOTS = 4
LONG: dict[str, Any] = {"prompt": "请分类：", "max_tokens": 60, "ignore_eos": True, "stream": True}
SHORT: dict[str, Any] = {"prompt": "央行", "max_tokens": 2, "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("tenants")
    (folder / "keys").mkdir()
    for name in ("editors", "batch"):
        (folder / "keys" / name).write_text(f"key-of-{name}\n")
    limits = (f"--max-concurrent-requests={SLOTS}", "--max-queue-size=64", "--tenant-reserve=1", "--queue-timeout=300")
    with ready_server(folder, f"--api-keys-dir={folder / 'keys'}", *limits) as process:
        yield process


def first_tokens(server: ServerProcess, tenant: str, count: int) -> list[float]:
    """The times to the first token of short requests, one after another."""
    question = Request(PATH, SHORT, key=f"key-of-{tenant}")
    answers = measured(Plan(server.port, [question], count=count), 300)
    assert [(answer.status, answer.complete) for answer in answers] == [(200, True)] * count
    return [answer.ttft or 0.0 for answer in answers]


def test_a_flood_of_one_tenant_keeps_no_other_waiting(server: ServerProcess) -> None:
    first_tokens(server, "editors", 1)  # from now on, a slot is kept free for them
    flood = Plan(server.port, [Request(PATH, LONG, key="key-of-batch")], connections=10 * SLOTS, seconds=600)
    with Load(flood) as load:
        server.until(lambda: server.metrics()["requests"]["waiting"] > 2 * SLOTS, 30, "the flood waits")
        others, own = first_tokens(server, "editors", 12), first_tokens(server, "batch", 3)
        assert load.running
    print(f"first tokens of the others: {others}, of the flood's tenant: {own}")
    # Those of the flood's own tenant wait behind it, the others only for the engine.
    assert 4 * median(others) < median(own)
    assert max(others) < median(own)

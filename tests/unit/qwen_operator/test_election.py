"""The election's thread: the Lease is renewed, or given up, whatever the acting event loop does."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from qwen_operator.kube import election, lease
from qwen_operator.kube.election import Election
from qwen_operator.kube.lease import Leader
from tests.unit.qwen_operator.kube_server import Server, until

pytestmark = pytest.mark.usefixtures("leases")


class Holding:
    """In place of a leader's renewals: their times and thread. `lost` ends them."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.threads: set[int] = set()
        self.lost = threading.Event()

    async def hold(self, _: Leader) -> None:
        while not self.lost.is_set():
            self.times.append(time.monotonic())
            self.threads.add(threading.get_ident())
            await asyncio.sleep(0.01)


@pytest.fixture
def holding(monkeypatch: pytest.MonkeyPatch) -> Holding:
    holding = Holding()

    async def hold(leader: Leader) -> None:
        await holding.hold(leader)

    monkeypatch.setattr(Leader, "hold", hold)
    return holding


@pytest.fixture
def leases(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The election looks at things often, and bears the pauses of a busy machine."""
    monkeypatch.setattr(lease, "STANDBY_SECONDS", 0.05)
    monkeypatch.setattr(election, "_PULSE_SECONDS", 0.01)
    monkeypatch.setattr(election, "END_SECONDS", 1.0)
    monkeypatch.setattr(election, "STILL_SECONDS", 10.0)


@asynccontextmanager
async def joined(ended: list[float]) -> AsyncIterator[Election]:
    candidate = await Election.join(name="l", namespace="n", identity="me", end=lambda: ended.append(time.monotonic()))
    try:
        yield candidate
    finally:
        await candidate.leave()


async def test_the_lease_is_renewed_while_the_acting_loop_is_busy(holding: Holding) -> None:
    ended: list[float] = []
    async with joined(ended) as candidate:
        held = asyncio.create_task(candidate.hold())
        await until(lambda: holding.times)
        began = time.monotonic()
        while sum(began < at for at in holding.times) < 3:
            assert time.monotonic() < began + 5.0, "not renewed"
            time.sleep(0.01)  # noqa: ASYNC251 - the loop stands still
        assert not held.done()
        held.cancel()
        await asyncio.wait((held,))
    assert threading.get_ident() not in holding.threads
    assert ended == []


async def test_a_process_that_stands_still_is_ended(holding: Holding, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(election, "STILL_SECONDS", 1.0)
    ended: list[float] = []
    async with joined(ended) as candidate:
        held = asyncio.create_task(candidate.hold())
        await until(lambda: holding.times)
        assert ended == []
        time.sleep(2.5)  # noqa: ASYNC251 - the loop stands still
        assert ended
        held.cancel()


async def test_a_process_that_does_not_end_by_itself_without_its_lease_is_ended(holding: Holding) -> None:
    ended: list[float] = []
    async with joined(ended) as candidate:
        held = asyncio.create_task(candidate.hold())
        await until(lambda: holding.times)
        holding.lost.set()
        await asyncio.wait_for(held, 10)
        await until(lambda: ended)


@pytest.mark.parametrize("how", ["leaves", "is cancelled"])
async def test_a_process_that_ends_in_order_is_not_ended(holding: Holding, how: str) -> None:
    ended: list[float] = []
    async with joined(ended) as candidate:
        held: asyncio.Task[Any] = asyncio.create_task(candidate.hold())
        await until(lambda: holding.times)
        if how == "leaves":
            holding.lost.set()
        else:
            held.cancel()
        await asyncio.wait((held,))
    renewed = len(holding.times)
    await asyncio.sleep(1.5)  # longer than it has to end
    assert ended == []
    assert len(holding.times) == renewed
    assert "election" not in {thread.name for thread in threading.enumerate()}


async def test_a_wait_for_the_lease_can_be_cancelled(server: Server) -> None:
    async def never(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    server.answer = never
    async with joined([]) as candidate:
        assert candidate.seen_at < 0
        waiting = asyncio.create_task(candidate.acquire())
        await until(lambda: server.asked)
        waiting.cancel()
        await asyncio.wait((waiting,), timeout=10)
        assert waiting.cancelled()

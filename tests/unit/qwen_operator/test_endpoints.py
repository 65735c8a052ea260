"""The endpoints answer, however many connect to them and say nothing."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from qwen_operator.process import endpoints
from qwen_operator.process.endpoints import MAX_CONNECTIONS, serve
from qwen_operator.process.health import Health
from tests.loopback import ADDRESSES, url
from tests.unit.qwen_operator.kube_server import until

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def serving(monkeypatch: pytest.MonkeyPatch, idle: float) -> AsyncIterator[int]:
    """The port of endpoints that close an idle connection after so many seconds."""
    monkeypatch.setattr(endpoints, "IDLE_SECONDS", idle)
    runner, port = await serve(Health(ready=True), 0)
    try:
        yield port
    finally:
        await runner.cleanup()


async def connect(port: int, number: int) -> list[Connection]:
    """So many connections, a hundred at a time."""
    found: list[Connection] = []
    while len(found) < number:
        found += await asyncio.gather(*(asyncio.open_connection("127.0.0.1", port) for _ in range(100)))
    return found


async def healthy(port: int) -> bool:
    timeout = aiohttp.ClientTimeout(total=5.0)  # that of a probe
    url = f"http://127.0.0.1:{port}/healthz"
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as got:
        return got.status == 200


def still_open(connections: list[Connection]) -> int:
    return sum(not reader.at_eof() and reader.exception() is None for reader, _ in connections)


async def close(connections: list[Connection]) -> None:
    for _, writer in connections:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for _, writer in connections), return_exceptions=True)


@pytest.fixture
def files() -> None:
    """As many open files as the system allows: both ends of each connection are one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@pytest.mark.usefixtures("files")
async def test_two_thousand_silent_connections_hold_up_no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(monkeypatch, 60.0) as port:
        connections = []
        for _ in range(4):
            connections += await connect(port, 500)
            assert await healthy(port)
        await until(lambda: still_open(connections) <= MAX_CONNECTIONS)
        assert await healthy(port)
        await close(connections)


async def test_a_connection_that_says_nothing_is_closed_and_one_that_asks_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(monkeypatch, 2.0) as port:
        silent = await connect(port, 100)
        for _, writer in silent[:50]:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: ")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        opened = time.monotonic()
        while still_open(silent) or time.monotonic() < opened + 3.0:
            writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await reader.readuntil(b"true}")
            await asyncio.sleep(0.1)
        await close([*silent, (reader, writer)])


async def test_the_connection_with_the_oldest_request_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "MAX_CONNECTIONS", 3)
    async with serving(monkeypatch, 60.0) as port:
        asking, *silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        asking[1].write(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        await asking[0].readuntil(b"true}")
        silent.append(await asyncio.open_connection("127.0.0.1", port))
        await until(lambda: still_open(silent) == 2)
        assert still_open([asking]) == 1
        await close([asking, *silent])


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/other", 404), ("POST", "/metrics", 405)])
async def test_there_is_nothing_else(monkeypatch: pytest.MonkeyPatch, method: str, path: str, status: int) -> None:
    async with (
        serving(monkeypatch, 60.0) as port,
        aiohttp.ClientSession() as session,
        session.request(method, f"http://127.0.0.1:{port}{path}") as response,
    ):
        assert response.status == status


async def test_probes_of_both_families_are_answered() -> None:
    runner, _ = await serve(Health(ready=True), 0)
    try:
        ports = {":" in address[0]: int(address[1]) for address in runner.addresses}
        for host in ADDRESSES:
            probe = url(host, ports[":" in host]) + "/readyz"
            async with aiohttp.ClientSession() as session, session.get(probe) as got:
                assert got.status == 200
    finally:
        await runner.cleanup()

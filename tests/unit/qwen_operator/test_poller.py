"""The HTTP client that polls pods: a pod may answer anything, and never at the cost of others."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from typing import Any

import pytest
from aiohttp import web

from qwen_operator.remediation import poll
from qwen_operator.remediation.poll import GENERATIONS_AT_ONCE, MAX_BODY, Answer, Poller
from qwen_operator.remediation.shares import Shares
from qwen_operator.remediation.values import Evidence
from tests.loopback import ADDRESSES, url
from tests.unit.qwen_operator.kube_server import until
from tests.unit.qwen_operator.pod_server import WELL, pods


class Held:
    """Pods whose requests in namespace a hang. `most` is how many did at once, by path."""

    def __init__(self) -> None:
        self.now: dict[str, int] = {}
        self.most: dict[str, int] = {}

    async def __call__(self, ip: str, path: str) -> web.Response:
        if ip.startswith("a"):
            self.now[path] = self.now.get(path, 0) + 1
            self.most[path] = max(self.most.get(path, 0), self.now[path])
            try:
                await asyncio.sleep(60)
            finally:
                self.now[path] -= 1
        return web.json_response(WELL)


async def cancelled(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_test_generations_that_hang_silence_no_pod_of_another_namespace() -> None:
    held = Held()
    async with pods(held) as poller:
        hanging = [asyncio.create_task(poller.generate(f"a{number}", "a")) for number in range(300)]
        await until(lambda: held.most.get("health/generate", 0) >= GENERATIONS_AT_ONCE)
        polls = [await poller.metrics("b", "b") for _ in range(20)]
        proof = await poller.generate("b", "b")
        await cancelled(hanging)
    assert sum(answer.evidence is not None for answer in polls) >= 19
    assert proof
    assert held.most["health/generate"] == GENERATIONS_AT_ONCE


async def poll_again_and_again(poller: Poller, ip: str) -> None:
    while True:
        await poller.metrics(ip, "a")


async def test_pods_that_are_silent_silence_no_pod_of_another_namespace() -> None:
    held = Held()
    async with pods(held) as poller:
        poller._polls = Shares(8)
        silent = [asyncio.create_task(poll_again_and_again(poller, f"a{number}")) for number in range(20)]
        await until(lambda: held.most.get("api/v1/metrics", 0) >= 8)
        polls = [await poller.metrics("b", "b") for _ in range(10)]
        await cancelled(silent)
    assert sum(answer.evidence is not None for answer in polls) >= 9


async def test_a_namespace_takes_no_more_slots_than_its_own_and_leaves_nothing_behind() -> None:
    shares = Shares(2)
    inside: list[int] = []

    async def work() -> None:
        async with shares.slot("a"):
            inside.append(len(inside))
            await asyncio.sleep(60)

    working = [asyncio.create_task(work()) for _ in range(5)]
    await asyncio.sleep(0.01)
    async with shares.slot("b"):
        assert len(inside) == 2
    await cancelled(working)
    assert (shares._slots, shares._users) == ({}, {})


def padded(size: int) -> bytes:
    """A valid answer of so many bytes."""
    body = json.dumps({**WELL, "padding": ""})
    return json.dumps({**WELL, "padding": "x" * (size - len(body))}).encode()


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("size", "valid"), [(MAX_BODY, True), (MAX_BODY + 1, False)])
async def test_an_answer_has_a_bound(size: int, valid: bool, chunked: bool) -> None:
    async def answer(_ip: str, _path: str) -> web.Response:
        response = web.Response(body=padded(size))
        if chunked:
            response.enable_chunked_encoding()
        return response

    async with pods(answer) as poller:
        assert ((await poller.metrics("a", "a")).evidence is not None) is valid


async def test_an_answer_is_not_unpacked() -> None:
    async def answer(_ip: str, _path: str) -> web.Response:
        return web.Response(body=gzip.compress(padded(1000)), headers={"Content-Encoding": "gzip"})

    async with pods(answer) as poller:
        assert await poller.metrics("a", "a") == Answer(None, garbled=True)


async def test_a_cookie_of_a_pod_is_not_kept() -> None:
    async def answer(ip: str, _path: str) -> web.Response:
        response = web.json_response(WELL)
        response.set_cookie("from", ip)
        return response

    async with pods(answer) as poller:
        assert (await poller.metrics("a", "a")).evidence is not None
        assert list(poller._client().cookie_jar) == []


def nested(depth: int) -> Any:
    """Lists in lists."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("status", "excerpt"),
    [
        (r'"\ud800"', '{"status": "?"}'),
        ("[" * 5000 + "]" * 5000, ""),
        ('"' + "新" * 5000 + '"', '{"status": "' + "新" * 2036),
        ("NaN", '{"status": NaN}'),
    ],
    ids=["no Unicode", "deep", "long", "not a number"],
)
def test_an_excerpt_is_text_that_the_api_accepts(status: str, excerpt: str) -> None:
    assert Evidence(5.0, body=f'{{"status": {status}, "padding": 1}}'.encode()).excerpt == excerpt


async def test_an_answer_says_when_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poll, "POLL_SECONDS", 10.0)
    arrived: list[float] = []

    async def late(*_: str) -> web.Response:
        arrived.append(time.monotonic())
        await asyncio.sleep(0.4)
        return web.json_response(WELL)

    async with pods(late) as poller:
        before = time.monotonic()
        evidence = (await poller.metrics("a", "a")).evidence
    assert evidence is not None
    assert evidence.asked_at is not None
    assert before <= evidence.asked_at <= arrived[0]


@pytest.mark.parametrize("ip", ADDRESSES)
async def test_pods_of_both_families_are_polled(ip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        asked.append(f"{request.host} {request.path}")
        return web.json_response(WELL)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, ip, 0).start()
    port = runner.addresses[0][1]
    monkeypatch.setattr(poll, "PORT", port)
    poller = Poller()
    try:
        assert (await poller.metrics(ip, "a")).evidence is not None
        assert await poller.generate(ip, "a")
    finally:
        await poller.close()
        await runner.cleanup()
    host = url(ip, port).removeprefix("http://")
    assert asked == [f"{host} /api/v1/metrics", f"{host} /health/generate"]

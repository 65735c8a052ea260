"""How often and how much of the Events of pods that are held up is read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import web

from qwen_operator.api.objects import Key
from qwen_operator.kube import pod_events
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.errors import ForbiddenError
from qwen_operator.kube.pod_events import MAX_BYTES, MAX_EVENTS, PodEvents
from qwen_operator.kube.resources import CORE_EVENTS, Resource
from tests.unit.qwen_operator.kube_server import Server, until
from tests.unit.qwen_operator.objects import Object, pod

KEY = ("default", "news")


class Kube:
    """The API server, which has one Event of each pod."""

    def __init__(self, *namespaces: str) -> None:
        self.namespaces = namespaces or ("default",)
        self.asked: list[str] = []
        self.forbidden = False

    async def first(self, resource: Resource, namespace: str, fields: str, **_: Any) -> Sequence[Object]:
        assert resource == CORE_EVENTS
        assert namespace in self.namespaces
        self.asked.append(fields)
        if self.forbidden:
            raise ForbiddenError(403, "no")
        return [{"reason": "FailedMount", "message": fields, "source": {"host": "node"}}]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pod_events, "time", clock)
    return clock


async def settle(events: PodEvents) -> None:
    """Waits for the reads that have begun."""
    await asyncio.gather(*events._reading.values())
    await asyncio.sleep(0)


async def looks(clock: Clock, kube: Any, pods: Sequence[Object], seconds: int) -> list[float]:
    """When the service is looked at again, for so many seconds, starting from the first look."""
    due: list[float] = []
    events = PodEvents(kube, lambda key, after: due.append(clock.now + after))
    end, times = clock.now + seconds, []
    while clock.now <= end:
        await events.of(KEY, pods)
        if not due:
            break
        following = due.pop()
        await settle(events)
        due.clear()
        clock.now = following
        times.append(clock.now - 100.0)
    return times


async def test_a_pod_that_starts_at_once_costs_nothing(clock: Clock) -> None:
    kube: Any = Kube()
    events = PodEvents(kube, lambda key, after: None)
    assert await events.of(KEY, [pod()]) == {"uid-news-1": ()}
    clock.now += 1.0
    await events.of(KEY, [pod()])
    assert await events.of(KEY, []) == {}
    await settle(events)
    assert kube.asked == []


async def test_a_late_event_of_a_pod_that_is_held_up_is_read_within_five_seconds(clock: Clock) -> None:
    kube: Any = Kube()
    times = await looks(clock, kube, [pod()], 300)
    assert times[:4] == [2.0, 7.0, 12.0, 17.0]
    assert max(after - before for before, after in pairwise(times)) <= 5.001
    assert set(kube.asked) == {"involvedObject.uid=uid-news-1"}


async def test_a_pod_that_stays_held_up_is_asked_less_and_less_often(clock: Clock) -> None:
    kube: Any = Kube()
    times = await looks(clock, kube, [pod()], 2 * 3600)
    pauses = [round(after - before, 3) for before, after in pairwise(times)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 60.0


async def test_many_pods_that_are_held_up_cost_two_reads_a_second(clock: Clock) -> None:
    kube: Any = Kube()
    events = PodEvents(kube, lambda key, after: None)
    keys = [("default", f"s{number}") for number in range(100)]
    for _ in range(60):
        for key in keys:
            await events.of(key, [pod()])
        await settle(events)
        clock.now += 1.0
    assert 100 <= len(kube.asked) <= 220


async def test_however_many_pods_of_a_namespace_are_held_up_those_of_another_are_read_as_often(clock: Clock) -> None:
    kube: Any = Kube("default", "crowded")
    events = PodEvents(kube, lambda key, after: None)
    keys = [("crowded", f"s{number}") for number in range(100)]
    for _ in range(60):
        for key in keys:
            await events.of(key, [pod("crowd-1")])
        await events.of(KEY, [pod()])
        await settle(events)
        clock.now += 1.0
    assert kube.asked.count("involvedObject.uid=uid-news-1") >= 11
    assert len(kube.asked) <= 220


async def test_of_a_thousand_pods_a_few_are_asked(clock: Clock) -> None:
    kube: Any = Kube()
    await looks(clock, kube, [pod(f"news-{number}") for number in range(1000)], 3)
    assert len(kube.asked) == 5


async def test_what_was_read_is_reported_at_once_and_stays_until_it_is_read_again(clock: Clock) -> None:
    kube: Any = Kube()
    again: list[float] = []
    events = PodEvents(kube, lambda key, after: again.append(after))
    await events.of(KEY, [pod()])
    clock.now += 2.0
    assert await events.of(KEY, [pod()]) == {"uid-news-1": ()}
    await settle(events)
    assert again[-1] == 0.0
    found = (await events.of(KEY, [pod()]))["uid-news-1"]
    assert found == [{"reason": "FailedMount", "message": "involvedObject.uid=uid-news-1"}]
    clock.now += 100.0
    kube.forbidden = True
    await events.of(KEY, [pod()])
    await settle(events)
    assert (await events.of(KEY, [pod()]))["uid-news-1"] == found


async def held_up(events: PodEvents, clock: Clock, *keys: Key) -> None:
    """Lets the Events of a pod of each service become due."""
    for key in keys:
        await events.of(key, [pod()])
    clock.now += 2.0
    for key in keys:
        await asyncio.wait_for(events.of(key, [pod()]), 1.0)


async def test_events_of_any_size_are_neither_waited_for_nor_kept(
    clock: Clock, kube: KubeClient, server: Server
) -> None:
    sent = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        assert request.query["limit"] == str(MAX_EVENTS)
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"items":[{"reason":"FailedMount","message":"')
        for _ in range(200):
            await response.write(b"x" * MAX_BYTES)
            sent += 1
        return response

    server.answer = answer
    events = PodEvents(kube, lambda key, after: None)
    await held_up(events, clock, KEY)
    await asyncio.wait_for(settle(events), 10)
    assert sent < 20  # what the buffers of both ends hold
    assert await events.of(KEY, [pod()]) == {"uid-news-1": ()}


async def test_only_the_beginning_of_a_long_message_is_kept(clock: Clock, kube: KubeClient, server: Server) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        series = {"count": 9, "lastObservedTime": "2026-01-02T03:04:05.000000Z", "more": "x" * 9_999}
        event = {"message": "y" * 9_999, "metadata": {"annotations": {"a": "z" * 9_999}}, "series": series}
        return web.json_response({"items": [event], "metadata": {}})

    server.answer = answer
    events = PodEvents(kube, lambda key, after: None)
    await held_up(events, clock, KEY)
    await settle(events)
    [found] = (await events.of(KEY, [pod()]))["uid-news-1"]
    assert found == {"message": "y" * 1024, "series": {"lastObservedTime": "2026-01-02T03:04:05.000000Z"}}


async def test_a_namespace_whose_events_do_not_come_keeps_nobody_waiting(
    clock: Clock, kube: KubeClient, server: Server
) -> None:
    asked: list[str] = []
    over = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        namespace = request.path.split("/")[4]
        asked.append(namespace)
        if namespace == "slow":
            await over.wait()
        return web.json_response({"items": [{"reason": "FailedMount"}], "metadata": {}})

    server.answer = answer
    again: list[Key] = []
    events = PodEvents(kube, lambda key, after: again.append(key) if after == 0.0 else None)
    services = [("slow", f"news-{number}") for number in range(20)]
    await held_up(events, clock, *services, ("other", "news"))
    await until(lambda: again == [("other", "news")], pod_events.READ_SECONDS - 1.0)
    assert asked.count("slow") == 1
    for key in services:
        events.forget(key)
    over.set()
    await until(lambda: not events._reading)


async def test_events_that_do_not_come_are_given_up(
    clock: Clock, kube: KubeClient, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = asyncio.Event()

    async def answer(_: web.Request) -> web.StreamResponse:
        await over.wait()
        return web.Response()

    server.answer = answer
    monkeypatch.setattr(pod_events, "READ_SECONDS", 0.2)
    events = PodEvents(kube, lambda key, after: None)
    await held_up(events, clock, ("slow", "a"), ("slow", "b"))
    await asyncio.wait_for(settle(events), 10)
    assert not events._reading
    over.set()

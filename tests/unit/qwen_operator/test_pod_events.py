"""How often the Events of pods that are held up are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from qwen_operator.kube import pod_events
from qwen_operator.kube.errors import ForbiddenError
from qwen_operator.kube.pod_events import PodEvents
from qwen_operator.kube.resources import CORE_EVENTS, Resource
from tests.unit.qwen_operator.objects import Object, pod

KEY = ("default", "news")


class Kube:
    """The API server, which has one Event of each pod."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.forbidden = False

    async def list(self, resource: Resource, namespace: str, *, fields: str) -> tuple[Sequence[Object], str]:
        assert (resource, namespace) == (CORE_EVENTS, "default")
        self.asked.append(fields)
        if self.forbidden:
            raise ForbiddenError(403, "no")
        return [{"reason": "FailedMount", "message": fields}], "1"


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


async def looks(clock: Clock, kube: Any, pods: Sequence[Object], seconds: int) -> list[float]:
    """When the service is looked at again, for so many seconds, starting from the first look."""
    due: list[float] = []
    events = PodEvents(kube, lambda key, after: due.append(clock.now + after))
    end, times = clock.now + seconds, []
    while clock.now <= end:
        await events.of(KEY, pods)
        if not due:
            break
        clock.now = due.pop()
        times.append(clock.now - 100.0)
    return times


async def test_a_pod_that_starts_at_once_costs_nothing(clock: Clock) -> None:
    kube: Any = Kube()
    events = PodEvents(kube, lambda key, after: None)
    assert await events.of(KEY, [pod()]) == {"uid-news-1": ()}
    clock.now += 1.0
    await events.of(KEY, [pod()])
    assert await events.of(KEY, []) == {}
    assert kube.asked == []


async def test_a_pod_that_is_held_up_is_asked_soon_and_then_less_and_less_often(clock: Clock) -> None:
    kube: Any = Kube()
    assert await looks(clock, kube, [pod()], 200) == [2.0, 6.0, 14.0, 30.0, 62.0, 122.0, 182.0, 242.0]
    assert kube.asked == ["involvedObject.uid=uid-news-1"] * 7


async def test_of_a_thousand_pods_a_few_are_asked(clock: Clock) -> None:
    kube: Any = Kube()
    await looks(clock, kube, [pod(f"news-{number}") for number in range(1000)], 3)
    assert len(kube.asked) == 5


async def test_what_was_read_stays_until_it_is_read_again(clock: Clock) -> None:
    kube: Any = Kube()
    events = PodEvents(kube, lambda key, after: None)
    await events.of(KEY, [pod()])
    clock.now += 2.0
    [found] = (await events.of(KEY, [pod()]))["uid-news-1"]
    clock.now += 100.0
    kube.forbidden = True
    assert (await events.of(KEY, [pod()]))["uid-news-1"] == [found]

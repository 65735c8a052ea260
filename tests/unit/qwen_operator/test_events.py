"""Events: their order, series of what happens again, and bounds for objects and namespaces."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from qwen_operator.kube.errors import NotFoundError
from qwen_operator.kube.events import BURST, REFILL_SECONDS, Recorder, Subject
from qwen_operator.kube.resources import CORE_EVENTS, Resource
from tests.unit.qwen_operator.kube_server import until

Object = dict[str, Any]
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def subject(name: str = "news", namespace: str = "n") -> Subject:
    return Subject("qwen-vllm.io/v1alpha1", "QwenService", namespace, name, f"uid-{namespace}-{name}")


class Api:
    """The Events in the API server, by name. Writes in the namespace `slow` do not return."""

    def __init__(self) -> None:
        self.events: dict[str, Object] = {}
        self.writes = 0
        self.mono = 1000.0
        self.ticks = 0

    def now(self) -> datetime:
        """The time, a millisecond later with each look."""
        self.ticks += 1
        return START + timedelta(milliseconds=self.ticks)

    async def create(self, obj: Object) -> Object:
        self.writes += 1
        if obj["metadata"]["namespace"] == "slow":
            await asyncio.Event().wait()
        self.events[obj["metadata"]["name"]] = obj
        return obj

    async def patch(self, resource: Resource, name: str, _: str, body: Object) -> Object:
        assert resource is CORE_EVENTS
        self.writes += 1
        if name not in self.events:
            raise NotFoundError(404, "not found")
        self.events[name] = {**self.events[name], **body}
        return self.events[name]

    def described(self) -> list[str]:
        """The texts as `kubectl describe` orders them: by lastTimestamp, then as listed."""
        listed = [self.events[name] for name in sorted(self.events)]
        return [event["message"] for event in sorted(listed, key=lambda event: str(event["lastTimestamp"]))]


@asynccontextmanager
async def recording(api: Any) -> AsyncIterator[Recorder]:
    """A recorder that writes."""
    recorder = Recorder(api, "operator-1", now=api.now, clock=lambda: float(api.mono))
    task = asyncio.create_task(recorder.run())
    try:
        yield recorder
        assert not task.done()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_what_happens_within_a_second_is_shown_in_order() -> None:
    api = Api()
    texts = ["taken out", "will be restarted", "is being restarted", "is back"]
    async with recording(api) as recorder:
        for text in texts:
            recorder.emit(subject(), "Warning", "Step", text)
        await until(lambda: len(api.events) == len(texts))
    assert api.described() == texts
    assert next(iter(api.events.values()))["eventTime"] == "2026-01-02T03:04:05.001000Z"


async def test_an_event_has_what_the_api_server_wants_with_an_event_time() -> None:
    api = Api()
    async with recording(api) as recorder:
        recorder.emit(subject(), "Normal", "Ready", "x", action="Evict")
        recorder.emit(subject(), "Normal", "Ready", "ä" * 1000)
        await until(lambda: len(api.events) == 2)
    first, second = api.events.values()
    assert (first["action"], first["reportingComponent"], first["reportingInstance"]) == (
        "Evict",
        "qwen-operator",
        "operator-1",
    )
    assert second["action"]
    assert 1000 < len(second["message"].encode()) <= 1024
    assert "lastObservedTime" not in str(first)


async def test_what_happens_again_is_a_series_of_one_event() -> None:
    api = Api()
    async with recording(api) as recorder:
        for count in range(1, 4):
            recorder.emit(subject(), "Warning", "DriftRepaired", "again")
            await until(lambda count=count: api.writes == count)  # type: ignore[misc]
        recorder.emit(subject(), "Warning", "Other", "in between")
        await until(lambda: len(api.events) == 2)
    [event] = [event for event in api.events.values() if event["message"] == "again"]
    assert event["series"] == {"count": 3, "lastObservedTime": "2026-01-02T03:04:05.003000Z"}
    assert event["count"] == 3
    assert api.described() == ["again", "in between"]


async def test_what_happens_again_after_something_else_is_an_event_of_its_own_so_that_all_are_in_order() -> None:
    api = Api()
    texts = ["Ready", "hung", "Ready", "hung"]
    async with recording(api) as recorder:
        for count, text in enumerate(texts, 1):
            recorder.emit(subject(), "Normal", "Step", text)
            await until(lambda count=count: api.writes == count)  # type: ignore[misc]
            api.ticks += 1000  # a second
    times = [api.events[name]["lastTimestamp"] for name in sorted(api.events)]
    assert times == sorted(times)
    assert api.described() == texts


async def test_what_happens_again_before_it_is_written_is_one_write() -> None:
    api = Api()
    async with recording(api) as recorder:
        for _ in range(5):
            recorder.emit(subject(), "Warning", "Step", "again")
        await until(lambda: api.events)
        await asyncio.sleep(0.05)
    [event] = api.events.values()
    assert event["series"]["count"] == 5
    assert event["eventTime"] < event["series"]["lastObservedTime"]
    assert api.writes == 1


async def test_an_event_that_has_expired_is_written_again() -> None:
    api = Api()
    async with recording(api) as recorder:
        recorder.emit(subject(), "Warning", "Step", "again")
        await until(lambda: api.events)
        api.events.clear()
        recorder.emit(subject(), "Warning", "Step", "again")
        await until(lambda: api.events)
    [event] = api.events.values()
    assert "series" not in event


async def test_an_object_with_a_thousand_events_gets_a_few_and_the_others_get_theirs() -> None:
    api = Api()
    async with recording(api) as recorder:
        for number in range(1000):
            recorder.emit(subject("noisy"), "Warning", "Step", f"number {number}")
        recorder.emit(subject("quiet"), "Warning", "Step", "the only one")
        await until(lambda: "the only one" in api.described())
        assert api.writes == BURST + 1
        api.mono += REFILL_SECONDS
        for number in range(5):
            recorder.emit(subject("noisy"), "Warning", "Step", f"later {number}")
        await until(lambda: "later 0" in api.described())
        await asyncio.sleep(0.05)
    assert api.writes == BURST + 2


async def test_what_is_held_back_is_counted_all_the_same() -> None:
    api = Api()
    async with recording(api) as recorder:
        for number in range(BURST):
            recorder.emit(subject(), "Warning", "Step", f"number {number}")
        await until(lambda: api.writes == BURST)
        for _ in range(10):
            recorder.emit(subject(), "Warning", "Step", f"number {BURST - 1}")
        await asyncio.sleep(0.05)
        assert api.writes == BURST
        api.mono += REFILL_SECONDS
        recorder.emit(subject(), "Warning", "Step", f"number {BURST - 1}")
        await until(lambda: api.writes == BURST + 1)
    [event] = [event for event in api.events.values() if event["message"] == f"number {BURST - 1}"]
    assert event["series"]["count"] == 12


async def test_no_namespace_waits_for_the_events_of_another() -> None:
    api = Api()
    async with recording(api) as recorder:
        for number in range(10):
            recorder.emit(subject(namespace="slow"), "Warning", "Step", f"number {number}")
        recorder.emit(subject(), "Warning", "Step", "here")
        await until(lambda: "here" in api.described())

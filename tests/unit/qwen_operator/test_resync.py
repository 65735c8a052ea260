"""The resync: each service is due once in an interval, and never many at a time."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from qwen_operator import controller
from qwen_operator.api.objects import Key
from qwen_operator.controller import Controller
from qwen_operator.kube.client import KubeClient
from qwen_operator.process.health import Health
from tests.unit.qwen_operator.test_process import service, settings

SERVICES = 40


class Clock:
    """A clock that goes on only while somebody sleeps, until it ends whoever does."""

    def __init__(self, end: float) -> None:
        self.now = 0.0
        self._end = end

    async def sleep(self, seconds: float) -> None:
        """Lets time pass."""
        self.now += max(0.0, seconds)
        if self.now >= self._end:
            raise asyncio.CancelledError


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(end=179.0)
    monkeypatch.setattr(controller, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


async def resync(subject: Controller, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, Key]]:
    due: list[tuple[float, Key]] = []

    def add(key: Key, *_: Any, **__: Any) -> None:
        due.append((clock.now, key))

    monkeypatch.setattr(subject, "_queue", SimpleNamespace(add=add))
    with monkeypatch.context() as patched:
        patched.setattr(controller, "asyncio", SimpleNamespace(sleep=clock.sleep))
        with pytest.raises(asyncio.CancelledError):
            await subject._resync()
    return due


async def test_services_are_due_one_after_another(
    kube: KubeClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = Controller(kube, settings("--resync-seconds=60"), Health())
    for number in range(SERVICES):
        subject.cluster.store_service(service(f"s{number}", uid=f"u{number}"))
    due = await resync(subject, clock, monkeypatch)
    assert min(at for at, _ in due) == 60.0
    assert Counter(key for _, key in due) == dict.fromkeys(subject.cluster.services, 2)
    assert max(Counter(int(at) for at, _ in due).values()) == 1


async def test_a_resync_without_services_waits(kube: KubeClient, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Controller(kube, settings("--resync-seconds=60"), Health())
    assert await resync(subject, clock, monkeypatch) == []

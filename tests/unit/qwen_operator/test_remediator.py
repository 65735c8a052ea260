"""The loop of remediation: its heartbeat."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from qwen_operator.api.objects import Key
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.events import Recorder
from qwen_operator.process.health import Health
from qwen_operator.remediation.poll import Poller
from qwen_operator.remediation.remediator import Remediator
from qwen_operator.remediation.writes import Writer

Object = dict[str, Any]
KEY: Key = ("n", "news")


class OneService:
    """A cluster with a service that has no pods."""

    def __init__(self, interval: str) -> None:
        self.obj: Object = {
            "apiVersion": "qwen-vllm.io/v1alpha1",
            "kind": "QwenService",
            "metadata": {"namespace": "n", "name": "news", "uid": "u"},
            "spec": {"model": {"source": {"builtin": "x"}}, "remediation": {"pollInterval": interval}},
        }

    def service(self, key: Key) -> Object | None:
        return self.obj if key == KEY else None

    def pods(self, key: Key) -> Sequence[Object]:
        assert key == KEY
        return ()

    def deployment(self, key: Key) -> Object | None:
        assert key == KEY
        return None


async def test_a_long_poll_interval_does_not_make_the_operator_look_dead() -> None:
    clock = 0.0
    health = Health(clock=lambda: clock)
    kube = cast("KubeClient", None)
    writer = Writer(kube, Recorder(kube, "test"), lambda _: None, lambda _: None)
    remediator = Remediator(kube, OneService("10m"), Poller(), writer, health=health, on_change=lambda _: None)
    remediator.sync(KEY)
    await asyncio.sleep(0.1)
    clock = 599.0
    overdue = health.overdue()
    await remediator.stop()
    assert overdue == []

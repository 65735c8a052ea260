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
    remediator = Remediator(kube, OneService("30s"), Poller(), writer, health=health, on_change=lambda _: None)
    remediator.sync(KEY)
    await asyncio.sleep(0.1)
    clock = 119.0
    overdue = health.overdue()
    await remediator.stop()
    assert overdue == []


def remediator_of(cluster: OneService) -> Remediator:
    kube = cast("KubeClient", None)
    writer = Writer(kube, Recorder(kube, "test"), lambda _: None, lambda _: None)
    return Remediator(kube, cluster, Poller(), writer, health=Health(), on_change=lambda _: None)


async def test_an_invalid_field_elsewhere_does_not_end_remediation() -> None:
    cluster = OneService("5s")
    cluster.obj["spec"]["engine"] = {"dtype": "int3"}
    assert await remediator_of(cluster).tick(KEY) == 5.0


async def test_a_policy_that_became_unreadable_stays_the_last_one() -> None:
    cluster = OneService("5s")
    remediator = remediator_of(cluster)
    assert await remediator.tick(KEY) == 5.0
    cluster.obj["spec"]["remediation"]["mode"] = "Sometimes"
    assert await remediator.tick(KEY) == 5.0


async def test_nothing_is_done_to_pods_whose_policy_is_unknown() -> None:
    class Untouched(OneService):
        def pods(self, key: Key) -> Sequence[Object]:
            raise AssertionError("the pods were looked at")

    cluster = Untouched("5s")
    cluster.obj["spec"]["remediation"]["mode"] = "Sometimes"
    assert await remediator_of(cluster).tick(KEY) == 2.0

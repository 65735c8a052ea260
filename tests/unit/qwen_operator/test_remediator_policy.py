"""Remediation of a service whose spec is invalid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from qwen_operator.api.objects import Key
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.events import Recorder
from qwen_operator.process.health import Health
from qwen_operator.remediation.poll import Poller
from qwen_operator.remediation.remediator import Remediator
from qwen_operator.remediation.writes import Writer
from tests.unit.qwen_operator.test_remediator import KEY, OneService

Object = dict[str, Any]


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
    cluster.change(mode="Sometimes")
    assert await remediator.tick(KEY) == 5.0
    assert await remediator.tick(KEY) == 5.0


async def test_nothing_is_done_to_pods_whose_policy_is_unknown() -> None:
    class Untouched(OneService):
        def pods(self, key: Key) -> Sequence[Object]:
            raise AssertionError("the pods were looked at")

    cluster = Untouched("5s")
    cluster.obj["spec"]["remediation"]["mode"] = "Sometimes"
    assert await remediator_of(cluster).tick(KEY) == 2.0

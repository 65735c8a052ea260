"""Which nodes are not ready, and for which pods remediation asks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from qwen_operator.api.objects import Key
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.errors import ForbiddenError
from qwen_operator.kube.events import Recorder
from qwen_operator.process.health import Health
from qwen_operator.remediation import nodes
from qwen_operator.remediation.nodes import NODE_SECONDS, Nodes
from qwen_operator.remediation.poll import Poller
from qwen_operator.remediation.remediator import Remediator
from qwen_operator.remediation.values import Evidence
from qwen_operator.remediation.writes import Writer
from tests.unit.qwen_operator.objects import crashed, pod
from tests.unit.qwen_operator.remediation_world import policy
from tests.unit.qwen_operator.test_remediator import KEY, OneService

Object = dict[str, Any]


class Kube:
    """An API server with nodes. `lost` are not ready; a read takes `seconds`."""

    def __init__(self, *lost: str, seconds: float = 0.0) -> None:
        self.lost = lost
        self.seconds = seconds
        self.asked: list[str] = []
        self.now = self.most = 0

    async def get(self, _resource: object, name: str, *_: object) -> Object:
        self.asked.append(name)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.now -= 1
        if name == "hidden":
            raise ForbiddenError(403, "no")
        ready = {"type": "Ready", "status": "Unknown" if name in self.lost else "True"}
        return {"status": {"conditions": [{"type": "DiskPressure", "status": "False"}, ready]}}


def client(kube: Kube) -> KubeClient:
    return cast("KubeClient", kube)


async def test_a_node_is_ready_unless_the_api_says_otherwise() -> None:
    kube = Kube("n1")
    assert await Nodes(client(kube)).not_ready(["n1", "n2", "hidden", "", "n1"]) == {"n1"}
    assert sorted(kube.asked) == ["hidden", "n1", "n2"]


async def test_an_answer_counts_for_a_while_and_is_then_forgotten() -> None:
    clock, kube = 0.0, Kube("n1")
    known = Nodes(client(kube), clock=lambda: clock)
    assert await known.not_ready(["n1"]) == {"n1"}
    clock = NODE_SECONDS
    assert await known.not_ready(["n1"]) == {"n1"}
    assert kube.asked == ["n1"]
    clock, kube.lost = NODE_SECONDS + 1.0, ()
    assert await known.not_ready(["n1"]) == frozenset()
    clock += NODE_SECONDS + 1.0
    assert await known.not_ready([]) == frozenset()
    assert known._known == {}


async def test_many_nodes_are_read_at_the_same_time_but_not_all() -> None:
    kube = Kube("n7", seconds=0.01)
    assert await Nodes(client(kube)).not_ready(f"n{number}" for number in range(40)) == {"n7"}
    assert 1 < kube.most <= 8


async def test_slow_nodes_do_not_hold_up_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "LOOK_SECONDS", 0.05)
    kube = Kube("n1", seconds=60.0)
    async with asyncio.timeout(5):
        assert await Nodes(client(kube)).not_ready(["n1"]) == frozenset()
    assert kube.now == 0


# For which pods.

OUT = {"status": "False", "reason": "EngineUnresponsive"}


def on(node: str, obj: Object) -> Object:
    """A pod on a node, with a readiness gate."""
    gates = [{"conditionType": "qwen-vllm.io/slo-ready"}]
    return {**obj, "spec": {"nodeName": node, "readinessGates": gates}}


@pytest.mark.parametrize(
    ("obj", "alerts", "asked"),
    [
        (pod("p", ready=True, containers=True, gate=True), {"EngineUnresponsive"}, True),
        (pod("p", ready=False, containers=True, gate=OUT), None, True),
        (pod("p", ready=False, containers=False, gate=True, server=crashed(70)), None, True),
        (pod("p", ready=False, containers=False, gate=True, server=crashed(78)), None, False),
        (pod("p", ready=True, containers=True, gate=True), {"QueueSaturated"}, False),
        (pod("p", ready=True, containers=True, gate=True), set(), False),
    ],
    ids=["an alert", "out of rotation", "a dead engine", "a wrong configuration", "saturated", "well"],
)
async def test_the_node_matters_of_each_pod_that_may_be_taken_out_or_restarted(
    obj: Object, alerts: set[str] | None, asked: bool
) -> None:
    class WithPod(OneService):
        def pods(self, key: Key) -> Sequence[Object]:
            return [] if key != KEY else [on("n1", obj)]

    kube = Kube("n1")
    writer = Writer(client(kube), Recorder(client(kube), "test"), lambda _: None, lambda _: None)
    cluster = WithPod("2s")
    remediator = Remediator(client(kube), cluster, Poller(), writer, health=Health(), on_change=lambda _: None)
    answer = None if alerts is None else Evidence(5.0, frozenset(alerts))
    seen = await remediator._round(KEY, cluster.pods(KEY), {"uid-p": answer}, policy(), 1)
    assert kube.asked == ["n1"] * asked
    assert [view.node_ready for view in seen.pods] == [not asked]

"""The gates of new pods: no namespace or service waits for another, and none is given up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from qwen_operator.api.names import READINESS_GATE, SERVICE_LABEL
from qwen_operator.kube.errors import KubeError
from qwen_operator.remediation.gates import GateKeeper
from qwen_operator.remediation.poll import Answer
from qwen_operator.remediation.values import Pod
from tests.unit.qwen_operator.kube_server import until
from tests.unit.qwen_operator.objects import Object


def new_pod(service: str, number: int, namespace: str = "n") -> Object:
    name = f"{service}-{number}"
    metadata = {"namespace": namespace, "name": name, "uid": f"uid-{name}", "labels": {SERVICE_LABEL: service}}
    spec = {"readinessGates": [{"conditionType": READINESS_GATE}]}
    return {"metadata": metadata, "spec": spec, "status": {"phase": "Running", "podIP": f"ip-{name}"}}


class Cluster:
    """New pods, their servers and the API server.

    Pods of services that are called `slow...` answer a poll late. The gates of `refused` cannot be
    written.
    """

    def __init__(self) -> None:
        self.pods: dict[str, Object] = {}
        self.opened: list[str] = []
        self.refused = {"refused"}
        self.asked = 0
        fake: Any = self
        self.keeper = GateKeeper(fake, fake, fake)

    def add(self, service: str, count: int = 1, namespace: str = "n") -> None:
        for number in range(count):
            pod = new_pod(service, number, namespace)
            self.pods[pod["metadata"]["name"]] = pod
            self.keeper.offer(pod)

    def get(self, namespace: str, name: str) -> Object | None:
        assert namespace in ("n", "m")
        return self.pods.get(name)

    async def metrics(self, ip: str, _namespace: str, _service: str) -> Answer:
        self.asked += 1
        await asyncio.sleep(0.2 if ip.startswith("ip-slow") else 0.0)
        return Answer(None)

    async def set_gate(self, pod: Pod, namespace: str, *, is_open: bool, reason: str, message: str) -> bool:
        assert (namespace in ("n", "m"), is_open, reason) == (True, True, "NewPod")
        assert message
        if pod.name.rpartition("-")[0] in self.refused:
            raise KubeError(500, "a webhook says no")
        self.opened.append(pod.name)
        return True


@asynccontextmanager
async def working(cluster: Cluster) -> AsyncIterator[None]:
    task = asyncio.create_task(cluster.keeper.run())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_gates_that_cannot_be_written_hold_up_no_other_service() -> None:
    cluster = Cluster()
    async with working(cluster):
        cluster.add("refused", 100)
        cluster.add("well")
        await until(lambda: cluster.opened == ["well-0"], 5)


async def check_that_well_is_among_the_first(cluster: Cluster) -> None:
    """Waits for all 201 gates, and asserts that the pod `well-0` did not wait for most of them."""
    await until(lambda: "well-0" in cluster.opened)
    assert len(cluster.opened) <= 64
    await until(lambda: len(cluster.opened) == 201)


async def test_many_pods_that_answer_late_hold_up_no_other_service() -> None:
    cluster = Cluster()
    async with working(cluster):
        cluster.add("slow", 200)
        cluster.add("well")
        await check_that_well_is_among_the_first(cluster)


async def test_many_services_hold_up_no_other_namespace() -> None:
    cluster = Cluster()
    async with working(cluster):
        for number in range(200):
            cluster.add(f"slow{number}")
        cluster.add("well", namespace="m")
        await check_that_well_is_among_the_first(cluster)


async def test_a_gate_that_could_not_be_written_is_tried_again_without_a_poll() -> None:
    cluster = Cluster()
    async with working(cluster):
        cluster.add("refused")
        await until(lambda: cluster.asked == 1)
        cluster.refused.clear()
        await until(lambda: cluster.opened == ["refused-0"])
    assert cluster.asked == 1


async def test_a_pod_that_is_gone_is_forgotten_and_one_that_is_offered_twice_is_handled_once() -> None:
    cluster = Cluster()
    async with working(cluster):
        cluster.add("slow")
        cluster.add("slow")
        cluster.add("gone")
        del cluster.pods["gone-0"]
        await until(lambda: cluster.opened)
        await asyncio.sleep(0.3)
    assert cluster.opened == ["slow-0"]
    assert cluster.asked == 1

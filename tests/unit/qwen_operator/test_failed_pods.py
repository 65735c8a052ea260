"""What a thousand failed pods of one service cost, and that they delay no other service."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from qwen_operator.api.objects import Key
from qwen_operator.controller import Controller
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.errors import KubeError
from qwen_operator.process.health import Health
from tests.unit.qwen_operator.kube_server import Server, until
from tests.unit.qwen_operator.objects import READY_POD, Object, pod, service_object
from tests.unit.qwen_operator.statuses import condition, status_of
from tests.unit.qwen_operator.test_remediator import KEY, OneService, remediator_of
from tests.unit.qwen_operator.test_requests import SETTINGS, Api

HOT: Key = ("hot", "news")
CALM: Key = ("calm", "news")


def failed(number: int, version: int = 1) -> Object:
    """A pod that its node has evicted, in a version."""
    found = pod(
        f"failed-{number}", phase="Failed", reason="Evicted", message="The node was low on memory.", podIP="192.0.2.1"
    )
    found["metadata"].update(namespace="hot", resourceVersion=str(version), creationTimestamp="2026-01-02T03:00:00Z")
    return found


async def keep_changing(controller: Controller) -> None:
    """Changes a thousand failed pods again and again, as their watch would report it."""
    version = 100
    while True:
        for number in range(1000):
            version += 1
            controller.cluster.pod_informer._take("MODIFIED", failed(number, version))
        await asyncio.sleep(0.05)


def service_of(key: Key) -> Object:
    """A QwenService in a namespace of its own."""
    obj = service_object(key[1], replicas=1)
    obj["metadata"].update(namespace=key[0], uid=f"uid-{key[0]}")
    return obj


async def test_a_thousand_failed_pods_that_keep_changing_delay_no_other_service(
    server: Server, kube: KubeClient
) -> None:
    server.answer = api = Api()
    controller = Controller(kube, SETTINGS, Health())
    order: list[Key] = []
    reconcile = controller._reconciler.reconcile

    async def counted(key: Key) -> KubeError | None:
        order.append(key)
        return await reconcile(key)

    controller._reconciler.reconcile = counted  # type: ignore[method-assign]
    tasks = [asyncio.create_task(controller.run())]
    await until(lambda: api.watches)
    api.put(service_of(HOT))
    await until(lambda: api.items[HOT]["status"].get("conditions"))
    tasks.append(asyncio.create_task(keep_changing(controller)))
    seen = order.count(HOT)
    await until(lambda: order.count(HOT) >= seen + 3)
    begun = len(order)
    api.put(service_of(CALM))
    await until(lambda: CALM in order)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert len(order[begun : order.index(CALM)]) <= 4  # one for each worker


@contextmanager
def counted_calls() -> Iterator[list[int]]:
    """Counts the calls of Python functions in the block: the work, whatever the machine does."""
    count = [0]

    def profile(_frame: FrameType, event: str, _what: object) -> None:
        count[0] += event == "call"

    sys.setprofile(profile)
    try:
        yield count
    finally:
        sys.setprofile(None)


def work_of_a_status(number: int) -> int:
    """The calls that the status of a service costs, of which one pod serves and others failed."""
    pods = [READY_POD, *map(failed, range(number))]
    with counted_calls() as count:
        status = status_of(*pods, replicas=2)
    assert (status.replicas, status.ready_replicas) == (1, 1)
    assert condition(status, "Degraded").reason == "Evicted"
    return count[0]


def test_the_work_for_a_status_grows_no_faster_than_the_number_of_failed_pods() -> None:
    assert work_of_a_status(1000) <= 11 * work_of_a_status(100)


class WithPods(OneService):
    """A cluster with a service all of whose pods have failed."""

    def __init__(self, number: int) -> None:
        super().__init__("2s")
        self.found = [failed(one) for one in range(number)]

    def pods(self, key: Key) -> Sequence[Object]:
        assert key == KEY
        return self.found


async def work_of_a_round(number: int) -> int:
    """The calls that a round of remediation costs."""
    subject = remediator_of(WithPods(number))
    await subject.tick(KEY)  # which reads the policy
    with counted_calls() as count:
        await subject.tick(KEY)
    return count[0]


async def test_the_work_of_a_round_grows_no_faster_than_the_number_of_failed_pods() -> None:
    assert await work_of_a_round(1000) <= 11 * await work_of_a_round(100)

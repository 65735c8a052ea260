"""The gates of new pods open whatever their metrics say, and soon."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from qwen_operator.kube.informer import Informer
from qwen_operator.remediation import gates
from qwen_operator.remediation.gates import GateKeeper
from qwen_operator.remediation.poll import Poller
from qwen_operator.remediation.values import Pod
from qwen_operator.remediation.writes import Writer
from tests.unit.qwen_operator.kube_server import until

Object = dict[str, Any]


def new_pod(number: int) -> Object:
    return {
        "metadata": {"namespace": "n", "name": f"p{number}", "uid": f"u{number}"},
        "spec": {"readinessGates": [{"conditionType": "qwen-vllm.io/slo-ready"}]},
        "status": {"podIP": "192.0.2.1"},
    }


class Pods:
    """The pods in the cache."""

    def __init__(self, *pods: Object) -> None:
        self.by_name = {pod["metadata"]["name"]: pod for pod in pods}

    def get(self, _namespace: str, name: str) -> Object | None:
        return self.by_name.get(name)


class Gates:
    """Takes the writes of gates."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    async def set_gate(self, pod: Pod, _namespace: str, **_: object) -> bool:
        self.opened.append(pod.name)
        return True


class Full(Poller):
    """A poller in which the namespace has no slot left."""

    async def metrics(self, ip: str, namespace: str, service: str = "") -> Any:
        await asyncio.Event().wait()


async def test_a_gate_opens_although_its_namespace_has_no_slot_for_the_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "POLL_SECONDS", 0.02)
    pods, written = [new_pod(number) for number in range(40)], Gates()
    keeper = GateKeeper(cast("Informer", Pods(*pods)), Full(), cast("Writer", written))
    running = asyncio.create_task(keeper.run())
    for pod in pods:
        keeper.offer(pod)
    await until(lambda: len(written.opened) == 40)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

"""The loop of remediation: its heartbeat, its pace and its metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from qwen_operator.api import RemediationStatus
from qwen_operator.api.objects import Key
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.events import Recorder
from qwen_operator.process.health import Health
from qwen_operator.process.operator_metrics import REGISTRY
from qwen_operator.remediation.memory import Latch, Memory, PodMemory, next_poll
from qwen_operator.remediation.poll import Poller
from qwen_operator.remediation.remediator import Remediator
from qwen_operator.remediation.steps import BeginRestart, CloseGate
from qwen_operator.remediation.values import Evidence, Round
from qwen_operator.remediation.writes import Writer
from tests.unit.qwen_operator.remediation_world import World, policy, until

Object = dict[str, Any]
KEY: Key = ("n", "news")


class OneService:
    """A cluster with a service that has no pods."""

    def __init__(self, interval: str) -> None:
        self.obj: Object = {
            "apiVersion": "qwen-vllm.io/v1alpha1",
            "kind": "QwenService",
            "metadata": {"namespace": "n", "name": "news", "uid": "u", "generation": 1},
            "spec": {"model": {"source": {"builtin": "x"}}, "remediation": {"pollInterval": interval}},
        }

    def change(self, **remediation: Any) -> None:
        """Changes the section `remediation` of the spec."""
        self.obj["spec"]["remediation"].update(remediation)
        self.obj["metadata"]["generation"] += 1

    def service(self, key: Key) -> Object | None:
        return self.obj if key == KEY else None

    def pods(self, key: Key) -> Sequence[Object]:
        assert key == KEY
        return ()

    def deployment(self, key: Key) -> Object | None:
        assert key == KEY
        return None


def remediator_of(cluster: OneService, health: Health | None = None) -> Remediator:
    kube = cast("KubeClient", None)
    writer = Writer(kube, Recorder(kube, "test"), lambda _: None, lambda _: None)
    return Remediator(kube, cluster, Poller(), writer, health=health or Health(), on_change=lambda _: None)


async def test_a_long_poll_interval_does_not_make_the_operator_look_dead() -> None:
    clock = 0.0
    health = Health(clock=lambda: clock)
    remediator = remediator_of(OneService("10m"), health)
    remediator.sync(KEY)
    await asyncio.sleep(0.1)
    clock = 599.0
    overdue = health.overdue()
    await remediator.stop()
    assert overdue == []


@pytest.mark.parametrize(("mode", "out"), [("Enforce", 1.0), ("DryRun", 0.0)])
def test_a_dry_run_counts_no_pod_as_out_of_rotation(mode: str, out: float) -> None:
    remediator = remediator_of(OneService("2s"))
    world = World.of(2, policy(mode=mode))
    for uptime in (1.0, 2.0, 3.0):
        evidence = {"u0": Evidence(uptime, frozenset({"EngineUnresponsive"})), "u1": Evidence(uptime)}
        seen = Round(tuple(patient.pod for patient in world.patients.values()), evidence, 2)
        remediator.judge(KEY, seen, replace(world.policy, poll=0.0), RemediationStatus())
    labels = {"namespace": KEY[0], "service": KEY[1], "qwenservice": KEY[1]}
    assert REGISTRY.get_sample_value("qwen_operator_pods_out_of_rotation", labels) == out


def test_a_pod_that_is_being_restarted_is_counted_apart() -> None:
    """Its model may take longer to load than anybody waits for a pod that is only out."""
    remediator = remediator_of(OneService("2s"))
    world = World.of(2)
    world["u0"].alerts, world["u0"].generates = frozenset({"EngineUnresponsive"}), False
    labels = {"namespace": KEY[0], "service": KEY[1], "qwenservice": KEY[1]}

    def look() -> tuple[float | None, float | None]:
        names = ("qwen_operator_pods_out_of_rotation", "qwen_operator_pods_restarting")
        remediator._memories[KEY] = world.memory
        world.look()  # as the pods are after the last steps
        remediator.judge(KEY, world.seen, world.policy, world.ledger)
        out, restarting = (REGISTRY.get_sample_value(name, labels) for name in names)
        return out, restarting

    until(world, CloseGate)
    assert look() == (1.0, 0.0)
    until(world, BeginRestart)
    assert look() == (1.0, 1.0)


async def test_a_round_follows_at_once_when_a_restart_has_begun() -> None:
    remediator = remediator_of(OneService("30s"))
    rounds: list[float] = []

    async def tick(key: Key) -> float:
        rounds.append(asyncio.get_running_loop().time())
        if len(rounds) == 1:
            remediator.hurry(key)
        return 600.0

    remediator.tick = tick  # type: ignore[method-assign]
    remediator.sync(KEY)
    await asyncio.sleep(0.5)
    await remediator.stop()
    assert len(rounds) == 2


def test_the_poll_that_decides_about_a_pod_comes_sooner() -> None:
    world = World.of(2)
    world["u0"].alerts, world["u1"].alerts = frozenset({"EngineUnresponsive"}), frozenset({"QueueSaturated"})
    world.round()
    assert next_poll(world.memory, world.policy) == pytest.approx(1.2)
    world.round()
    assert next_poll(world.memory, world.policy) == 2.0


def test_a_hung_pod_that_is_the_last_is_polled_at_that_pace_until_it_leaves() -> None:
    world = World.of(1)
    world["u0"].alerts = frozenset({"EngineUnresponsive"})
    for _ in range(3):
        world.round()
        assert next_poll(world.memory, world.policy) == pytest.approx(1.2)


def test_a_pod_that_falls_silent_after_one_poll_with_an_alert_changes_no_pace() -> None:
    world = World.of(2)
    world["u0"].alerts = frozenset({"EngineUnresponsive"})
    world.round()
    world["u0"].silent = True
    world.round()
    assert next_poll(world.memory, world.policy) == 2.0


@pytest.mark.parametrize(
    ("ran", "runs", "latched", "at_once"),
    [(False, True, True, True), (True, True, True, False), (False, False, True, False), (False, True, False, False)],
)
def test_a_round_follows_at_once_when_a_pod_that_is_out_runs_again(
    ran: bool, runs: bool, latched: bool, at_once: bool
) -> None:
    remediator = remediator_of(OneService("30s"))
    latch = Latch("EngineUnresponsive", since=0.0) if latched else None
    remediator._memories[KEY] = Memory(pods={"u0": PodMemory(first_seen=0.0, latch=latch, running=ran)})
    wake = remediator._wake[KEY] = asyncio.Event()
    conditions = [{"type": "ContainersReady", "status": "True" if runs else "False"}]
    pod: Object = {"metadata": {"uid": "u0", "name": "p0"}, "spec": {}, "status": {"conditions": conditions}}
    remediator.pod_seen(KEY, pod)
    remediator.pod_seen(KEY, {**pod, "metadata": {"uid": "another", "name": "p1"}})
    remediator.pod_seen(("n", "unknown"), pod)
    assert wake.is_set() is at_once

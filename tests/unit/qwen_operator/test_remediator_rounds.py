"""The rounds of remediation: their pace, proofs and counters, and the first one of a leader."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from qwen_operator.api import RemediationStatus
from qwen_operator.api.objects import Key
from qwen_operator.api.series import labels_of
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.events import Recorder
from qwen_operator.process.health import Health
from qwen_operator.process.operator_metrics import ACTIONS, REGISTRY
from qwen_operator.remediation import failing
from qwen_operator.remediation.memory import Memory
from qwen_operator.remediation.poll import Poller
from qwen_operator.remediation.remediator import Remediator
from qwen_operator.remediation.steps import Decisions, Prove
from qwen_operator.remediation.values import Evidence, Pod, Round
from qwen_operator.remediation.writes import Writer
from qwen_operator.status.adapters import AdapterReport
from tests.unit.qwen_operator.kube_server import until
from tests.unit.qwen_operator.remediation_world import World, policy
from tests.unit.qwen_operator.test_remediator import KEY, OneService

Object = dict[str, Any]
LABELS = {"namespace": KEY[0], "service": KEY[1], "qwenservice": KEY[1]}


def remediator_of(cluster: OneService, poller: Poller | None = None) -> Remediator:
    kube = cast("KubeClient", None)
    writer = Writer(kube, Recorder(kube, "test"), lambda _: None, lambda _: None)
    return Remediator(kube, cluster, poller or Poller(), writer, health=Health(), on_change=lambda _: None)


# Pace.


@pytest.mark.parametrize(("asked", "seconds"), [("100ms", 1.0), ("999ms", 1.0), ("2s", 2.0), ("10m", 600.0)])
async def test_no_pod_is_polled_more_often_than_once_a_second(asked: str, seconds: float) -> None:
    assert await remediator_of(OneService(asked)).tick(KEY) == seconds


class SlowPoller(Poller):
    """A poller whose test generations wait until `ended` is set, and then have `result`."""

    def __init__(self, *, result: bool) -> None:
        super().__init__()
        self.result = result
        self.asked: list[str] = []
        self.ended = asyncio.Event()

    async def generate(self, ip: str, namespace: str) -> bool:
        self.asked.append(f"{namespace}/{ip}")
        await self.ended.wait()
        return self.result


PROVE = Decisions((Prove(Pod(uid="u0", name="p0")),), Memory())
PODS = {"u0": {"metadata": {"uid": "u0"}, "status": {"podIP": "192.0.2.1"}}}


@pytest.mark.parametrize("well", [True, False])
async def test_the_next_round_follows_a_proof_at_once_and_a_failure_in_its_turn(well: bool) -> None:
    poller = SlowPoller(result=well)
    remediator = remediator_of(OneService("2s"), poller)
    wake = remediator._wake[KEY] = asyncio.Event()
    remediator._ask(KEY, PROVE, PODS)
    poller.ended.set()
    await asyncio.sleep(0.01)
    assert poller.asked == ["n/192.0.2.1"]
    assert remediator._proofs == {KEY: {"u0": well}}
    assert wake.is_set() is well


def test_the_adapters_of_a_pod_that_is_silent_count_while_its_containers_are_ready() -> None:
    changed: list[Key] = []
    kube = cast("KubeClient", None)
    writer = Writer(kube, Recorder(kube, "test"), lambda _: None, lambda _: None)
    remediator = Remediator(kube, OneService("2s"), Poller(), writer, health=Health(), on_change=changed.append)
    pod, loaded = Pod(uid="u0", name="p0"), {"news": AdapterReport("/models/news", "loaded")}
    remediator._take_reports(KEY, {"u0": Evidence(1.0, adapters=loaded)}, [pod])
    remediator._take_reports(KEY, {"u0": None}, [pod])
    assert (remediator.adapters(KEY), len(changed)) == ({"u0": loaded}, 1)
    remediator._take_reports(KEY, {"u0": None}, [replace(pod, running=False)])
    assert (remediator.adapters(KEY), len(changed)) == ({"u0": None}, 2)


async def test_results_of_pods_that_are_gone_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    poller, cluster = SlowPoller(result=True), OneService("2s")
    remediator = remediator_of(cluster, poller)
    remediator._ask(KEY, PROVE, PODS)
    poller.ended.set()
    await asyncio.sleep(0.01)
    await remediator.tick(KEY)
    assert remediator._proofs == {}
    remediator._ask(KEY, PROVE, PODS)
    monkeypatch.setattr(cluster, "service", lambda _: None)
    await asyncio.sleep(0.01)
    assert (remediator._asked, remediator._proofs) == ({}, {})


async def test_rounds_that_fail_suspend_remediation_until_one_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    changed: list[Key] = []
    kube = cast("KubeClient", None)
    writer = Writer(kube, Recorder(kube, "test"), lambda _: None, lambda _: None)
    cluster, health = OneService("2s"), Health()
    remediator = Remediator(kube, cluster, Poller(), writer, health=health, on_change=changed.append)
    broken, rounds = True, 0

    async def tick(key: Key) -> float:
        nonlocal rounds
        rounds += 1
        remediator.hurry(key)
        if broken:
            raise KeyError("HighTTFT")
        return 2.0

    monkeypatch.setattr(remediator, "tick", tick)
    remediator.sync(KEY)
    await until(lambda: remediator.suspended(KEY) is not None)
    suspended = remediator.suspended(KEY)
    assert suspended is not None
    assert (suspended.reason, rounds) == ("InternalError", failing.ENOUGH)
    assert "KeyError" in suspended.message
    assert REGISTRY.get_sample_value("qwen_operator_remediation_suspended", LABELS) == 1.0
    broken = False
    await until(lambda: remediator.suspended(KEY) is None)
    await remediator.stop()
    assert REGISTRY.get_sample_value("qwen_operator_remediation_suspended", LABELS) == 0.0
    assert changed == [KEY, KEY]


async def test_a_pod_has_one_test_generation_at_a_time() -> None:
    poller = SlowPoller(result=True)
    remediator = remediator_of(OneService("2s"), poller)
    for _ in range(3):
        remediator._ask(KEY, PROVE, PODS)
        await asyncio.sleep(0.01)
    assert len(poller.asked) == 1
    poller.ended.set()
    await asyncio.sleep(0.01)
    remediator._ask(KEY, PROVE, PODS)
    await asyncio.sleep(0.01)
    assert len(poller.asked) == 2


# Counters.


def well_round(uptime: float) -> Round:
    """A round in which two pods are well."""
    world = World.of(2)
    pods = tuple(patient.pod for patient in world.patients.values())
    return Round(pods, {pod.uid: Evidence(uptime) for pod in pods}, 2)


async def test_the_counter_of_restarts_exists_before_the_first_restart_and_ends_with_the_service() -> None:
    class Deletable(OneService):
        gone = False

        def service(self, key: tuple[str, str]) -> Object | None:
            return None if self.gone else super().service(key)

    cluster = Deletable("2s")
    remediator = remediator_of(cluster)
    remediator.sync(KEY)
    remediator.judge(KEY, well_round(1.0), policy(), RemediationStatus())
    assert REGISTRY.get_sample_value("qwen_operator_restarts_total", LABELS) is not None
    ACTIONS.inc(labels_of(KEY), 1, "GPUUnhealthy", "Evict", "Evicted")
    ACTIONS.inc(labels_of((KEY[0], "other")), 1, "GPUUnhealthy", "Evict", "Evicted")
    cluster.gone = True
    remediator.sync(KEY)
    await asyncio.sleep(0)  # its loop ends
    of_reconciler = ("qwen_operator_condition", "qwen_operator_scaled_to_zero")
    metrics = [metric for metric in REGISTRY.collect() if metric.name not in of_reconciler]
    series = [sample for metric in metrics for sample in metric.samples]
    assert [sample for sample in series if LABELS.items() <= sample.labels.items()] == []
    assert any(sample.labels.get("service") == "other" for sample in series)


# A new leader.


def suspended(status: str = "True") -> OneService:
    """A service whose status was written by an earlier leader."""
    condition = {
        "type": "RemediationSuspended",
        "status": status,
        "reason": "BudgetExhausted" if status == "True" else "Active",
        "message": "The budget is exhausted.",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    cluster = OneService("2s")
    cluster.obj["status"] = {"conditions": [condition]}
    return cluster


def test_a_new_leader_believes_the_status_until_it_has_decided() -> None:
    found = remediator_of(suspended()).suspended(KEY)
    assert found is not None
    assert (found.reason, found.message) == ("BudgetExhausted", "The budget is exhausted.")
    assert remediator_of(suspended("False")).suspended(KEY) is None
    assert remediator_of(OneService("2s")).suspended(KEY) is None


def test_a_suspension_outlasts_the_first_polls_of_a_new_leader_and_ends_if_its_reason_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = 1000.0
    monkeypatch.setattr("qwen_operator.remediation.remediator.time", SimpleNamespace(monotonic=lambda: clock))
    changes: list[object] = []
    remediator = remediator_of(suspended())
    remediator._on_change = changes.append
    for number in range(4):
        clock = 1000.0 + 2.0 * number
        remediator.judge(KEY, well_round(clock), policy(), RemediationStatus())
        assert remediator.suspended(KEY) is not None
        assert REGISTRY.get_sample_value("qwen_operator_remediation_suspended", LABELS) == 1.0
    clock = 1008.0
    remediator.judge(KEY, well_round(clock), policy(), RemediationStatus())
    assert remediator.suspended(KEY) is None


def test_a_suspension_is_not_kept_if_remediation_was_turned_off() -> None:
    remediator = remediator_of(suspended())
    remediator.judge(KEY, well_round(1.0), replace(policy(), mode="Off"), RemediationStatus())
    assert remediator.suspended(KEY) is None

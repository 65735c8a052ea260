"""What the steps of remediation write: the ledger, the history and Events."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, cast

import pytest

from qwen_operator.api import RemediationStatus, RestartIntent
from qwen_operator.api.qwenservice import parse_status
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.errors import ForbiddenError, InvalidError, KubeError, TooManyRequestsError
from qwen_operator.kube.events import Recorder
from qwen_operator.kube.resources import QWEN_SERVICES, Resource
from qwen_operator.process.health import Health
from qwen_operator.process.operator_metrics import REGISTRY
from qwen_operator.remediation.act import _FINISHED, BUSY_SECONDS, GATES_AT_ONCE, ServiceActor
from qwen_operator.remediation.gate_tries import LONGEST_SECONDS, GateTries
from qwen_operator.remediation.steps import (
    BeginRestart,
    CloseGate,
    Died,
    ExecuteRestart,
    FinishRestart,
    OpenGate,
    Recount,
    ResetBudget,
    Step,
)
from qwen_operator.remediation.values import Evidence, Pod
from qwen_operator.remediation.writes import Writer
from tests.unit.qwen_operator.remediation_world import policy

START = datetime(2026, 1, 1, tzinfo=UTC)
POD = Pod(uid="u0", name="p0", node="n1")
Object = dict[str, Any]


class Cluster:
    """One QwenService in an API server that refuses each restart.

    Attributes:
        error: the answer to a restart, None if it is made.
        restarts: how many restarts were asked for.
        writes: how often the status of the service was written.
    """

    def __init__(self) -> None:
        self.service: Object = {
            "apiVersion": "qwen-vllm.io/v1alpha1",
            "kind": "QwenService",
            "metadata": {"namespace": "n", "name": "news", "uid": "s", "resourceVersion": "1"},
        }
        self.now = START
        self.error: KubeError | None = TooManyRequestsError(429, "the disruption budget news needs 1 healthy pod")
        self.evidence: dict[str, Evidence | None] = {}
        self.recorder = Recorder(cast("KubeClient", self), "test")
        self.policy = policy()
        self.restarts = 0
        self.writes = 0

    async def get(self, *_: object) -> Object:
        return self.service

    async def patch(self, resource: Resource, _name: str, _namespace: str, body: Object, **_: object) -> Object:
        if resource == QWEN_SERVICES:
            self.writes += 1
            self.service = {**self.service, "status": body["status"]}
            return self.service
        await self.patch_pod(body)
        return {}

    async def patch_pod(self, body: Object) -> None:
        """A restart in place, or a gate."""
        if "status" not in body:
            self._restart()

    async def evict(self, *_: object, **__: object) -> None:
        self._restart()

    def _restart(self) -> None:
        self.restarts += 1
        if self.error is not None:
            raise self.error

    @property
    def ledger(self) -> RemediationStatus:
        return parse_status(self.service).remediation

    def events(self, reason: str) -> list[tuple[str, str, str]]:
        """The Events with a reason that wait to be written: kind of the object, type and text."""
        waiting = self.recorder._pending.get("n", {})
        return [(found.subject.kind, found.type, found.text) for found in waiting if found.reason == reason]

    async def perform(self, *steps: Step, **options: Any) -> None:
        kube = cast("KubeClient", self)
        writer = Writer(kube, self.recorder, lambda _: None, lambda _: None, now=lambda: self.now)
        await ServiceActor(writer, self.service, {}, self.evidence, self.policy, **options).carry_out(steps)


def intent_at(moment: datetime, **changes: Any) -> RestartIntent:
    return RestartIntent(
        **{"pod_uid": "u0", "pod": "p0", "alert": "GPUUnhealthy", "method": "Evict", "time": moment, **changes}
    )


REFUSALS = [
    TooManyRequestsError(429, "the disruption budget news needs 1 healthy pod"),
    ForbiddenError(403, "a policy forbids it"),
    InvalidError(422, "a policy wants an annotation"),
    KubeError(500, "this pod has more than one PodDisruptionBudget"),
]


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: str(error.status))
async def test_a_refused_eviction_does_not_fill_the_history(error: KubeError) -> None:
    cluster = Cluster()
    cluster.error = error
    for _ in range(12):
        intent = intent_at(cluster.now)
        await cluster.perform(BeginRestart(POD, intent, tuple(cluster.ledger.restart_times)))
        assert cluster.ledger.intents == [intent]
        await cluster.perform(ExecuteRestart(POD, intent, hung=False))
        assert cluster.ledger.intents == []
        assert cluster.ledger.backoff_until is not None
        cluster.now = cluster.ledger.backoff_until
    assert [(entry.action, entry.time) for entry in cluster.ledger.history] == [("Blocked", START)]
    assert error.message in cluster.ledger.history[0].message
    assert (cluster.ledger.restarts_in_window, cluster.ledger.last_restart_time) == (0, None)
    assert cluster.now - START > timedelta(hours=1)  # twelve attempts take more than an hour


@pytest.mark.parametrize("error", REFUSALS[1:], ids=lambda error: str(error.status))
async def test_a_refused_restart_in_place_is_refunded(error: KubeError) -> None:
    cluster = Cluster()
    cluster.error = error
    intent = intent_at(START, method="InPlace")
    await cluster.perform(BeginRestart(POD, intent))
    await cluster.perform(ExecuteRestart(POD, intent, hung=False))
    assert (cluster.ledger.intents, cluster.ledger.restart_times) == ([], [])
    assert [(entry.action, entry.reason) for entry in cluster.ledger.history] == [("Blocked", "RestartRefused")]


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("Engine", TooManyRequestsError(429, "too many requests")),
        ("InPlace", TooManyRequestsError(429, "too many requests")),
        ("InPlace", KubeError(0, "no answer")),
        ("Evict", KubeError(0, "no answer")),
    ],
)
async def test_a_busy_api_server_refuses_nothing_unless_it_lasts(method: str, error: KubeError) -> None:
    cluster = Cluster()
    cluster.error = error
    intent = intent_at(START, method=method)
    await cluster.perform(BeginRestart(POD, intent))
    for _ in range(3):
        await cluster.perform(ExecuteRestart(POD, intent, hung=False))
        assert cluster.ledger.intents == [intent]
    assert [entry.action for entry in cluster.ledger.history] == [method]
    cluster.now += timedelta(seconds=policy().drain + BUSY_SECONDS + 1)
    await cluster.perform(ExecuteRestart(POD, intent, hung=False))
    assert cluster.ledger.intents == []
    assert [entry.action for entry in cluster.ledger.history] == ["Blocked"]


async def test_a_decision_does_not_hold_if_another_restart_was_counted_since() -> None:
    cluster = Cluster()
    await cluster.perform(BeginRestart(POD, intent_at(START), (START - timedelta(minutes=1),)))
    assert cluster.ledger.intents == []


async def test_a_restart_begins_beside_those_that_the_decision_knew_of_and_no_other() -> None:
    cluster = Cluster()
    first, second = intent_at(START), intent_at(START + timedelta(minutes=2))
    await cluster.perform(BeginRestart(POD, first))
    await cluster.perform(BeginRestart(POD, second, (first.time,), (first.time,)))
    assert cluster.ledger.intents == [first]
    await cluster.perform(BeginRestart(POD, second, (first.time,), (first.time,), beside=(first,)))
    assert cluster.ledger.intents == [first, second]
    assert cluster.ledger.restart_times == [first.time, second.time]


async def test_the_history_says_why_a_restart_was_cancelled() -> None:
    cluster = Cluster()
    intent = intent_at(START)
    await cluster.perform(BeginRestart(POD, intent))
    await cluster.perform(FinishRestart(intent, "Cancelled", "its alert has ended"))
    assert cluster.ledger.history[-1].message == "the restart of pod p0 was cancelled: its alert has ended"
    assert cluster.ledger.restart_times == []


@pytest.mark.parametrize(
    "status",
    [r'"\ud800"', "[" * 985 + "]" * 985, "[" * 5000 + "]" * 5000, '"' + "x" * 100_000 + '"', "no JSON"],
    ids=["no Unicode", "deep", "deeper", "long", "no JSON"],
)
async def test_no_answer_of_a_pod_prevents_its_restart(status: str) -> None:
    cluster = Cluster()
    cluster.evidence = {"u0": Evidence(1.0, body=f'{{"status": {status}}}'.encode())}
    intent = intent_at(START)
    await cluster.perform(BeginRestart(POD, intent))
    assert cluster.ledger.intents == [intent]


async def test_a_step_that_fails_in_whatever_way_prevents_no_other() -> None:
    class Odd(Cluster):
        async def evict(self, *_: object, **__: object) -> None:
            raise ZeroDivisionError

    cluster = Odd()
    first, second = intent_at(START), intent_at(START, pod_uid="u1", pod="p1")
    steps = (ExecuteRestart(POD, first, hung=False), BeginRestart(Pod(uid="u1", name="p1"), second))
    await cluster.perform(*steps)
    assert cluster.ledger.intents == [second]


# A slow API server.


def pods(count: int) -> list[Pod]:
    return [Pod(uid=f"u{number}", name=f"p{number}") for number in range(count)]


async def test_a_slow_api_server_does_not_make_the_operator_look_dead() -> None:
    clock, late, closed = 0.0, list[str](), list[str]()
    health = Health(clock=lambda: clock)

    class Slow(Cluster):
        async def patch_pod(self, body: Object) -> None:
            nonlocal clock
            clock += 10.0
            late.extend(health.overdue())
            closed.append(body["metadata"]["uid"])

    cluster, rounds = Slow(), 0
    while len(closed) < 20:
        rounds += 1
        steps = [CloseGate(pod, "EngineUnresponsive") for pod in pods(20) if pod.uid not in closed]
        await cluster.perform(*steps, beat=lambda: health.beat("remediation", 90.0), clock=lambda: clock)
    assert late == []
    assert rounds == 7  # three gates in half a minute, then the pods are looked at again
    assert len(set(closed)) == 20


async def test_a_gate_that_cannot_be_written_is_tried_again_less_and_less_often() -> None:
    clock, tried = 0.0, list[float]()

    class Refusing(Cluster):
        async def patch_pod(self, body: Object) -> None:
            assert "status" in body
            tried.append(clock)
            if clock < 200.0:
                raise ForbiddenError(403, "a webhook says no")

    cluster, tries = Refusing(), GateTries(lambda: clock)
    while clock < 300.0 and not cluster.ledger.history:
        await cluster.perform(CloseGate(POD, "EngineUnresponsive"), tries=tries)
        clock += 2.0
    pauses = [later - earlier for earlier, later in pairwise(tried)]
    assert pauses[0] <= 4.0
    assert pauses == sorted(pauses)
    assert max(pauses) <= LONGEST_SECONDS + 2.0
    assert len(tried) <= 12
    assert tried[-1] <= 200.0 + LONGEST_SECONDS + 2.0
    tries.keep(())
    assert tries.may(POD.uid)


@pytest.mark.parametrize(("seconds", "begun"), [(3.0, True), (8.0, False)])
async def test_a_restart_begins_while_its_evidence_is_current(seconds: float, *, begun: bool) -> None:
    cluster, times = Cluster(), iter([0.0])
    await cluster.perform(BeginRestart(POD, intent_at(START)), clock=lambda: next(times, seconds))
    assert bool(cluster.ledger.intents) is begun


async def test_what_would_not_be_decided_again_is_reported_however_slow_the_api_server_is() -> None:
    cluster = Cluster()
    clock = iter(range(0, 1000, 100))
    died, intent = Died(POD), intent_at(START)
    await cluster.perform(BeginRestart(POD, intent), died, clock=lambda: float(next(clock)))
    assert cluster.ledger.intents == []
    assert [entry.action for entry in cluster.ledger.history] == ["Died"]


@pytest.mark.parametrize(("code", "text"), [(70, "the engine of pod p0 died"), (137, "killed for lack of memory")])
async def test_a_kill_for_lack_of_memory_is_told_from_a_death(code: int, text: str) -> None:
    cluster = Cluster()
    await cluster.perform(Died(replace(POD, exit_code=code, out_of_memory=True)))
    [entry] = cluster.ledger.history
    assert text in entry.message


async def test_the_history_has_what_a_dead_engine_said_last() -> None:
    cluster = Cluster()
    cluster.evidence[POD.uid] = Evidence(uptime=1.0, body=json.dumps({"status": "starting"}).encode())
    await cluster.perform(Died(POD, Evidence(uptime=300.0, body=json.dumps({"status": "ok"}).encode())), Died(POD))
    assert [entry.metrics for entry in cluster.ledger.history] == ['{"status": "ok"}', ""]


async def test_gates_are_written_several_at_a_time_and_the_history_once() -> None:
    now = most = 0

    class Counting(Cluster):
        async def patch_pod(self, body: Object) -> None:
            nonlocal now, most
            assert "status" in body
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.01)
            now -= 1

    cluster = Counting()
    closing = [CloseGate(pod, "EngineUnresponsive") for pod in pods(18)]
    await cluster.perform(*closing, OpenGate(Pod(uid="u18", name="p18"), "Recovered"))
    assert most == GATES_AT_ONCE
    assert cluster.writes == 1
    assert sorted(entry.action for entry in cluster.ledger.history) == ["Ready", *["Unready"] * 18]


async def test_the_history_is_in_the_order_of_the_steps() -> None:
    cluster = Cluster()
    await cluster.perform(BeginRestart(POD, intent_at(START)), Died(POD), CloseGate(POD, "GPUUnhealthy"))
    assert [entry.action for entry in cluster.ledger.history] == ["Unready", "Evict", "Died"]


# Counts.


async def test_each_restart_is_counted() -> None:
    labels = {"namespace": "n", "service": "news", "qwenservice": "news"}
    before = REGISTRY.get_sample_value("qwen_operator_restarts_total", labels) or 0.0
    cluster = Cluster()
    await cluster.perform(ExecuteRestart(POD, intent_at(START), hung=False))  # refused
    cluster.error = None
    await cluster.perform(ExecuteRestart(POD, intent_at(START), hung=False))
    await cluster.perform(ExecuteRestart(POD, intent_at(START, method="InPlace"), hung=False))
    assert REGISTRY.get_sample_value("qwen_operator_restarts_total", labels) == before + 2


async def test_the_number_of_restarts_is_corrected_unless_another_began_since() -> None:
    cluster = Cluster()
    await cluster.perform(BeginRestart(POD, intent_at(START)))
    await cluster.perform(Recount(0, ()))
    assert cluster.ledger.restarts_in_window == 1
    await cluster.perform(Recount(0, (START,)))
    assert cluster.ledger.restarts_in_window == 0


@pytest.mark.parametrize("outcome", _FINISHED)
async def test_each_end_of_a_restart_is_an_event_of_the_service_and_of_the_pod(outcome: str) -> None:
    cluster = Cluster()
    intent = intent_at(START)
    await cluster.perform(BeginRestart(POD, intent))
    await cluster.perform(FinishRestart(intent, outcome, "its alert has ended"))
    kind = "Normal" if outcome == "Recovered" else "Warning"
    text = _FINISHED[outcome].format("p0", "its alert has ended")
    assert cluster.events(f"Restart{outcome}") == [("QwenService", kind, text), ("Pod", kind, text)]


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: str(error.status))
async def test_a_refused_eviction_is_an_event_that_says_why(error: KubeError) -> None:
    cluster = Cluster()
    cluster.error = error
    intent = intent_at(START)
    await cluster.perform(BeginRestart(POD, intent))
    await cluster.perform(ExecuteRestart(POD, intent, hung=False))
    found = cluster.events("EvictionBlocked" if error.status == 429 else "RestartRefused")
    assert [(kind, severity) for kind, severity, _ in found] == [("QwenService", "Warning"), ("Pod", "Warning")]
    assert all(error.message in text for _, _, text in found)


async def test_a_reset_of_the_budget_is_an_event_of_the_service_alone() -> None:
    cluster = Cluster()
    await cluster.perform(ResetBudget("today"))
    assert cluster.ledger.handled_reset == "today"
    text = "the restart budget was reset by the annotation"
    assert cluster.events("RestartBudgetReset") == [("QwenService", "Normal", text)]
    cluster.policy = policy(max_restarts=0)
    await cluster.perform(ResetBudget("tomorrow"))
    text = f"{text}, but remediation.restartBudget.maxRestarts is 0, which allows no restart"
    assert cluster.events("RestartBudgetReset")[-1] == ("QwenService", "Normal", text)


@pytest.mark.parametrize(
    ("method", "annotation"), [("Engine", "qwen-vllm.io/restart-engine"), ("InPlace", "qwen-vllm.io/restart")]
)
async def test_each_kind_of_restart_is_requested_by_its_annotation(method: str, annotation: str) -> None:
    cluster = Cluster()
    cluster.error = None
    asked: list[Object] = []

    async def patch_pod(body: Object) -> None:
        asked.append(body["metadata"]["annotations"])

    cluster.patch_pod = patch_pod  # type: ignore[method-assign]
    intent = intent_at(START, method=method)
    await cluster.perform(BeginRestart(POD, intent))
    await cluster.perform(ExecuteRestart(POD, intent, hung=True))
    assert asked == [{annotation: "2026-01-01T00:00:00Z"}]
    assert [entry.action for entry in cluster.ledger.history] == [method]
    assert [item.phase for item in cluster.ledger.intents] == ["Restarting"]

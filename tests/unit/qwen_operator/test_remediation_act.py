"""What the steps of remediation write: the ledger, the history and Events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

from qwen_operator.api import RemediationStatus, RestartIntent
from qwen_operator.api.qwenservice import parse_status
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.errors import TooManyRequestsError
from qwen_operator.kube.events import Recorder
from qwen_operator.remediation.act import ServiceActor
from qwen_operator.remediation.steps import BeginRestart, ExecuteRestart, FinishRestart, Step
from qwen_operator.remediation.values import Pod
from qwen_operator.remediation.writes import Writer
from tests.unit.qwen_operator.remediation_world import policy

START = datetime(2026, 1, 1, tzinfo=UTC)
POD = Pod(uid="u0", name="p0", node="n1")
Object = dict[str, Any]


class Cluster:
    """One QwenService in an API server that refuses each eviction."""

    def __init__(self) -> None:
        self.service: Object = {
            "apiVersion": "qwen-vllm.io/v1alpha1",
            "kind": "QwenService",
            "metadata": {"namespace": "n", "name": "news", "uid": "s", "resourceVersion": "1"},
        }
        self.now = START

    async def get(self, *_: object) -> Object:
        return self.service

    async def patch(self, _resource: object, _name: str, _namespace: str, body: Object, **_: object) -> Object:
        self.service = {**self.service, "status": body["status"]}
        return self.service

    async def evict(self, *_: object, **__: object) -> None:
        raise TooManyRequestsError(429, "the disruption budget news needs 1 healthy pod")

    @property
    def ledger(self) -> RemediationStatus:
        return parse_status(self.service).remediation

    async def perform(self, *steps: Step) -> None:
        kube = cast("KubeClient", self)
        writer = Writer(kube, Recorder(kube, "test"), lambda _: None, lambda _: None, now=lambda: self.now)
        await ServiceActor(writer, self.service, {}, {}, policy()).carry_out(steps)


def intent_at(moment: datetime) -> RestartIntent:
    return RestartIntent(pod_uid="u0", pod="p0", alert="GPUUnhealthy", method="Evict", time=moment)


async def test_a_refused_eviction_does_not_fill_the_history() -> None:
    cluster = Cluster()
    for _ in range(12):
        intent = intent_at(cluster.now)
        await cluster.perform(BeginRestart(POD, intent, tuple(cluster.ledger.restart_times)))
        assert cluster.ledger.intents == [intent]
        await cluster.perform(ExecuteRestart(POD, intent, hung=False))
        assert cluster.ledger.intents == []
        assert cluster.ledger.backoff_until is not None
        cluster.now = cluster.ledger.backoff_until
    assert [(entry.action, entry.time) for entry in cluster.ledger.history] == [("Blocked", START)]
    assert "needs 1 healthy pod" in cluster.ledger.history[0].message
    assert cluster.ledger.restarts_in_window == 0
    assert cluster.now - START > timedelta(hours=1)  # twelve attempts take more than an hour


async def test_a_decision_does_not_hold_if_another_restart_was_counted_since() -> None:
    cluster = Cluster()
    await cluster.perform(BeginRestart(POD, intent_at(START), (START - timedelta(minutes=1),)))
    assert cluster.ledger.intents == []


async def test_the_history_says_why_a_restart_was_cancelled() -> None:
    cluster = Cluster()
    intent = intent_at(START)
    await cluster.perform(BeginRestart(POD, intent))
    await cluster.perform(FinishRestart(intent, "Cancelled", "its alert has ended"))
    assert cluster.ledger.history[-1].message == "the restart of pod p0 was cancelled: its alert has ended"
    assert cluster.ledger.restart_times == []

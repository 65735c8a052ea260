"""A status that another version wrote is neither forgotten nor overwritten as if it were empty."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest

from qwen_operator.api import InvalidSpecError
from qwen_operator.api.objects import Key
from qwen_operator.api.qwenservice import parse_status
from qwen_operator.api.status import UnreadableStatusError, read_ledger
from qwen_operator.kube.events import Recorder
from qwen_operator.process.health import Health
from qwen_operator.remediation.poll import Poller
from qwen_operator.remediation.remediator import Remediator
from qwen_operator.remediation.writes import Writer
from qwen_operator.status.conditions import Observed, evaluate, invalid_status
from qwen_operator.status.transitions import status_patch
from tests.unit.qwen_operator.objects import NOW, Object, service, service_object

KEY: Key = ("default", "news")
INTENT = {"podUID": "u", "pod": "news-7", "method": "Replace", "phase": "Cordoning", "time": "2026-01-02T03:00:00Z"}
READY = {"type": "Ready", "status": "True", "reason": "Serving", "lastTransitionTime": "2026-01-01T00:00:00Z"}
NEWER: Object = {
    "replicas": 2,
    "readyReplicas": 2,
    "url": "http://news.default.svc:8000",
    "conditions": [{**READY, "type": "Brand", "status": "Perhaps"}, READY],
    "remediation": {"intents": [INTENT], "restartTimes": ["2026-01-02T03:00:00Z"], "restartsInWindow": 1},
}


class Cluster:
    """The API server and the cache of a cluster with one service that has no pods."""

    def __init__(self) -> None:
        self.obj = service_object(status=copy.deepcopy(NEWER))
        self.obj["metadata"]["resourceVersion"] = "7"
        self.patched: list[Object] = []

    async def get(self, *_: Any) -> Object:
        return self.obj

    async def patch(self, _resource: Any, _name: str, _namespace: str, body: Object, **_: Any) -> Object:
        self.patched.append(body)
        return self.obj

    def service(self, key: Key) -> Object | None:
        return self.obj if key == KEY else None

    def pods(self, _: Key) -> Sequence[Object]:
        return ()

    def deployment(self, _: Key) -> Object | None:
        return None


def writer(cluster: Any) -> Writer:
    return Writer(cluster, Recorder(cluster, "test"), lambda _: None, lambda _: None)


def test_what_can_be_read_of_a_status_is_read() -> None:
    status = parse_status({"status": NEWER})
    assert (status.replicas, status.ready_replicas) == (2, 2)
    assert [condition.type for condition in status.conditions] == ["Ready"]


@pytest.mark.parametrize("value", [None, {}, [], "text", {"conditions": "text"}, {"conditions": [1, None]}])
def test_a_status_without_anything_to_read_is_empty(value: Any) -> None:
    assert parse_status({"status": value}).to_dict() == parse_status({}).to_dict()


def test_a_ledger_that_cannot_be_read_is_not_taken_for_an_empty_one() -> None:
    with pytest.raises(UnreadableStatusError, match=r"status\.remediation\.intents\.0\.method"):
        read_ledger(NEWER)
    assert read_ledger(None).intents == read_ledger({}).intents == read_ledger({"remediation": None}).intents == []
    with pytest.raises(UnreadableStatusError):
        read_ledger({"remediation": "text"})


async def test_a_ledger_that_cannot_be_read_is_not_overwritten() -> None:
    cluster = Cluster()
    with pytest.raises(UnreadableStatusError):
        await writer(cluster).update(KEY, lambda ledger: ledger)
    assert cluster.patched == []


async def test_remediation_waits_until_the_ledger_can_be_read() -> None:
    cluster: Any = Cluster()
    changed: list[Key] = []
    remediator = Remediator(cluster, cluster, Poller(), writer(cluster), health=Health(), on_change=changed.append)
    cluster.obj["metadata"]["annotations"] = {"qwen-vllm.io/reset-restart-budget": "now"}
    for _ in range(2):
        await remediator.tick(KEY)
    suspended = remediator.suspended(KEY)
    assert suspended is not None
    assert suspended.reason == "StatusUnreadable"
    assert "intents.0.method" in suspended.message
    assert (cluster.patched, changed) == ([], [KEY])
    del cluster.obj["status"]["remediation"]
    cluster.obj["metadata"]["resourceVersion"] = "8"
    await remediator.tick(KEY)
    assert remediator.suspended(KEY) is None
    assert len(cluster.patched) == 1


def test_the_conditions_are_written_without_the_ledger() -> None:
    subject = service(status=copy.deepcopy(NEWER))
    new = evaluate(subject, Observed(), NOW).to_dict()
    assert "remediation" not in status_patch(NEWER, new)


@pytest.mark.parametrize("time", ["9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "2026-01-01T00:00:00"])
def test_a_time_that_nothing_can_be_added_to_is_unreadable_and_breaks_nothing(time: str) -> None:
    intent = {"podUID": "u", "pod": "p", "method": "Evict", "phase": "Waiting", "time": time}
    status: Object = {"replicas": 2, "remediation": {"intents": [intent]}}
    with pytest.raises(UnreadableStatusError, match=r"intents\.0\.time"):
        read_ledger(status)
    subject = service(status=status)
    assert subject.status.replicas == 2
    evaluate(subject, Observed(remediation=subject.status.remediation), NOW)


def test_an_invalid_spec_keeps_what_does_not_come_from_pods() -> None:
    error = InvalidSpecError("spec.replicas", "must be a number")
    new = invalid_status(service_object(status=copy.deepcopy(NEWER)), error, Observed(), NOW).to_dict()
    assert not status_patch(NEWER, new).keys() & {"url", "remediation"}
    assert (new["replicas"], new["readyReplicas"]) == (0, 0)


def test_fields_that_a_newer_version_wrote_survive() -> None:
    newer = {**NEWER, "gateway": {"phase": "Done"}}
    patch = status_patch(newer, evaluate(service(status=copy.deepcopy(newer)), Observed(), NOW).to_dict())
    assert "gateway" not in patch
    assert patch["replicas"] == 0


async def test_budget_and_intents_survive_a_version_that_cannot_read_them() -> None:
    cluster: Any = Cluster()
    remediator = Remediator(cluster, cluster, Poller(), writer(cluster), health=Health(), on_change=lambda _: None)
    for _ in range(3):
        await remediator.tick(KEY)
        new = evaluate(service(status=cluster.obj["status"]), Observed(suspended=remediator.suspended(KEY)), NOW)
        patch = status_patch(cluster.obj["status"], new.to_dict())
        cluster.obj["status"] = {**cluster.obj["status"], **patch}
    assert cluster.patched == []
    assert cluster.obj["status"]["remediation"] == NEWER["remediation"]
    degraded = next(item for item in cluster.obj["status"]["conditions"] if item["type"] == "Degraded")
    assert degraded["reason"] == "StatusUnreadable"

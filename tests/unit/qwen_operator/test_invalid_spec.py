"""A QwenService whose spec cannot be read: its status is that of the pods that run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from qwen_operator.api import InvalidSpecError, ServiceStatus
from qwen_operator.api.names import selector_labels
from qwen_operator.api.objects import Key
from qwen_operator.controller import Controller
from qwen_operator.kube.events import Recorder
from qwen_operator.kube.resources import Resource
from qwen_operator.process.health import Health
from qwen_operator.process.settings import read_settings
from qwen_operator.reconcile import Reconciler
from qwen_operator.status.conditions import Observed, Suspension, invalid_status
from qwen_operator.status.diagnosis import EngineReport
from tests.unit.qwen_operator.objects import NOW, READY_POD, UID, Object, crashed, deployment, pod, service_object
from tests.unit.qwen_operator.statuses import LOADING, condition, status_of

ERROR = InvalidSpecError("spec.replicas", "must be a number")
SECOND = {**READY_POD, "metadata": {**READY_POD["metadata"], "name": "news-2", "uid": "uid-news-2"}}
LATER = NOW + timedelta(hours=1)


def invalid(*pods: Object, before: ServiceStatus | None = None, **observed: Any) -> ServiceStatus:
    """The status an hour after a status that was written before the spec became invalid."""
    observed.setdefault("deployment", deployment(2))
    observed.setdefault("selector", selector_labels("news"))
    obj = service_object(status=None if before is None else before.to_dict())
    obj["metadata"]["generation"] = 4
    return invalid_status(obj, ERROR, Observed(pods=pods, **observed), LATER)


def test_a_service_that_never_ran_is_not_ready() -> None:
    status = invalid(deployment=None)
    assert {found.type: found.status for found in status.conditions} == {
        "Ready": "False",
        "Progressing": "False",
        "Available": "False",
        "Degraded": "True",
    }
    assert status.reason == "InvalidSpec"
    assert "spec.replicas" in condition(status, "Ready").message


def test_a_service_that_runs_stays_ready() -> None:
    before = status_of(READY_POD, SECOND, replicas=2)
    status = invalid(READY_POD, SECOND, before=before)
    assert condition(status, "Ready") == condition(before, "Ready").model_copy(update={"observed_generation": 4})
    assert condition(status, "Progressing").reason == condition(status, "Degraded").reason == "InvalidSpec"
    assert (status.replicas, status.ready_replicas, status.reason) == (2, 2, "InvalidSpec")
    assert len(status.conditions) == len(before.conditions)
    assert (status.url, status.model) == (before.url, before.model)


def test_the_numbers_are_those_of_the_pods_that_run_now() -> None:
    status = invalid(READY_POD, before=status_of(READY_POD, SECOND, replicas=2))
    assert (status.replicas, status.ready_replicas) == (1, 1)
    assert "1 of 2 replicas serve at http://news.default.svc:8000" in condition(status, "Ready").message


def test_a_service_that_no_longer_serves_says_why() -> None:
    status = invalid(LOADING, before=status_of(READY_POD, SECOND, replicas=2))
    for kind in ("Ready", "Available"):
        found = condition(status, kind)
        assert (found.status, found.reason, found.observed_generation) == ("False", "ModelLoading", 4)
        assert found.last_transition_time == LATER
        assert "may take until" not in found.message  # only the spec would say it
    assert condition(status, "Degraded").reason == "InvalidSpec"
    assert status.reason == "ModelLoading"


def test_what_only_a_spec_can_tell_names_its_generation() -> None:
    before = status_of(READY_POD)
    assert condition(invalid(READY_POD, before=before), "HasWarnings") == condition(before, "HasWarnings")
    assert condition(before, "HasWarnings").observed_generation == 3


def test_pods_that_serve_without_a_deployment_are_counted() -> None:
    status = invalid(READY_POD, deployment=None)
    assert condition(status, "Ready").status == "True"
    assert "1 of 1 replicas" in condition(status, "Ready").message


def test_a_service_that_is_not_made_again_is_named() -> None:
    found = condition(invalid(READY_POD, selector=None), "Ready")
    assert (found.status, found.reason) == ("False", "NotSelected")
    assert "The Service is missing" in found.message


def test_remediation_says_that_it_has_stopped() -> None:
    status = invalid(READY_POD, suspended=Suspension("BudgetExhausted", "3 restarts in 1h"))
    assert condition(status, "RemediationSuspended").reason == "BudgetExhausted"


class Cluster:
    """The API server and the cache of a cluster with one service, its children and its pods."""

    def __init__(self, obj: Object, *pods: Object) -> None:
        self.obj = obj
        self.found = pods
        self.patched: list[Object] = []

    def service(self, _: Key) -> Object:
        return self.obj

    def pods(self, _: Key) -> tuple[Object, ...]:
        return self.found

    def child(self, resource: Resource, _namespace: str, name: str) -> Object | None:
        metadata = {"name": name, "generation": 1, "ownerReferences": [{"uid": UID}]}
        if resource.kind == "Service":
            return {"metadata": metadata, "spec": {"selector": selector_labels("news")}}
        return {**deployment(2), "metadata": metadata}

    def store_service(self, _: Object) -> None:
        """The answer to a write."""

    async def patch(self, _resource: Resource, _name: str, _namespace: str, body: Object, **_: Any) -> Object:
        self.patched.append(body)
        return self.obj


async def test_a_reconciliation_counts_the_pods_of_a_spec_that_it_cannot_read() -> None:
    before = status_of(READY_POD, SECOND, replicas=2).to_dict()
    cluster: Any = Cluster(service_object(status=before, replicas="many"), READY_POD, pod("news-3"))
    recorder = Recorder(cluster, "test")
    reconciler = Reconciler(
        cluster,
        cluster,
        recorder,
        read_settings(["--server-image-cpu=a", "--server-image-cuda=b"], {}),
        suspended=lambda _: None,
        gone=lambda _: None,
        again=lambda *_: None,
    )
    assert await reconciler.reconcile(("default", "news")) is None
    [written] = cluster.patched
    assert (written["status"]["readyReplicas"], written["status"]["reason"]) == (1, "InvalidSpec")
    assert "replicas" not in written["status"]  # there are still two
    [event] = recorder._pending["default"]
    assert (event.type, event.reason, "spec.replicas" in event.text) == ("Warning", "InvalidSpec", True)


async def test_a_reconciliation_knows_the_newest_revision_and_what_the_engines_say() -> None:
    newer = {**READY_POD, "metadata": {**READY_POD["metadata"], "labels": {"pod-template-hash": "b"}}}
    cluster: Any = Cluster(service_object(replicas="many"), pod("news-0", server=crashed(78, "typo")), newer)

    async def newest(_: Key, pods: Sequence[Object], found: Object | None) -> str:
        assert len(pods) == 2
        assert found is not None
        return "b"

    reconciler = Reconciler(
        cluster,
        cluster,
        Recorder(cluster, "test"),
        read_settings(["--server-image-cpu=a", "--server-image-cuda=b"], {}),
        suspended=lambda _: None,
        gone=lambda _: None,
        again=lambda *_: None,
        engines=lambda _: {"uid-news-1": EngineReport(alert="EngineUnresponsive")},
        newest=newest,
    )
    await reconciler.reconcile(("default", "news"))
    conditions = cluster.patched[0]["status"]["conditions"]
    assert {item["type"]: item["reason"] for item in conditions}["Ready"] == "EngineUnresponsive"


async def test_the_controller_asks_the_remediator_and_the_replica_sets() -> None:
    kube: Any = None
    controller = Controller(kube, read_settings(["--server-image-cpu=a", "--server-image-cuda=b"], {}), Health())
    assert controller._reconciler._engines == controller._remediator.engines
    assert controller._reconciler._newest == controller._revisions.newest

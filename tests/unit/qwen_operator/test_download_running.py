"""Jobs that download models, while they run: when they are made again, what they cost and say."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from qwen_operator import downloads
from qwen_operator.api import QwenService
from qwen_operator.api.names import DOWNLOAD_LABEL, JOB_NAME_LABEL
from qwen_operator.controller import Controller
from qwen_operator.downloads import ASK_SECONDS, Downloads
from qwen_operator.kube.cache import ClusterCache
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.errors import ForbiddenError
from qwen_operator.kube.projection import MAX_LABELS, keeper
from qwen_operator.kube.resources import JOBS, PODS
from qwen_operator.planning.download import has_condition
from qwen_operator.process.health import Health
from qwen_operator.status.conditions import ApplyError
from qwen_operator.status.download import Figures
from tests.unit.qwen_operator.kube_server import Server, until
from tests.unit.qwen_operator.objects import Object, ended, planned, service, service_object
from tests.unit.qwen_operator.pod_server import pods
from tests.unit.qwen_operator.test_children import KEY
from tests.unit.qwen_operator.test_download import CACHED, download_of
from tests.unit.qwen_operator.test_repairs import Recorded
from tests.unit.qwen_operator.test_requests import SETTINGS, Api

SUBJECT = service(**CACHED)
JOB = ("Job", download_of(SUBJECT).name)
OTHER = service(model={"source": {"builtin": None, "huggingFace": {"repo": "Qwen/Qwen3-14B"}}}, cache={"size": "50Gi"})


async def pass_over(cluster: Recorded, subject: QwenService = SUBJECT, *jobs: Object) -> Sequence[ApplyError]:
    """One pass over the children of a service that has these Jobs."""
    todo = planned(subject, jobs=jobs)
    left, _ = await cluster.children.remove(KEY, subject, todo.removed)
    errors, _ = await cluster.children.apply(KEY, subject, todo.children)
    return [*left, *errors]


# When it is made again.


async def test_a_failed_job_that_the_cluster_has_deleted_is_made_again_and_nobody_has_meddled() -> None:
    cluster = Recorded()
    await pass_over(cluster)
    await pass_over(cluster, SUBJECT, ended(cluster.objects[JOB], "Failed"))
    assert cluster.writes("Job") == 1
    del cluster.objects[JOB]
    assert await pass_over(cluster) == []
    assert cluster.writes("Job") == 2
    assert cluster.reported == []


async def test_a_running_job_that_somebody_deletes_is_made_again_and_told() -> None:
    cluster = Recorded()
    await pass_over(cluster)
    del cluster.objects[JOB]
    await pass_over(cluster)
    assert cluster.writes("Job") == 2
    assert cluster.reported == [("DriftRepaired", f"Job {JOB[1]} was deleted and was created again.")]


async def test_the_job_of_another_model_is_removed_and_made_again_when_the_spec_returns() -> None:
    cluster = Recorded()
    await pass_over(cluster)
    await pass_over(cluster, OTHER, cluster.objects[JOB])
    assert ("delete", "Job") in cluster.calls
    assert JOB not in cluster.objects
    await pass_over(cluster, SUBJECT)
    assert JOB in cluster.objects
    assert cluster.reported == []


async def test_a_job_that_cannot_be_removed_is_tried_again_with_a_back_off() -> None:
    cluster = Recorded()
    await pass_over(cluster)
    cluster.stuck = True
    for _ in range(3):
        [error] = await pass_over(cluster, OTHER, cluster.objects[JOB])
        assert (error.reason, error.kind) == ("ApplyFailed", "Job")
    assert cluster.calls.count(("delete", "Job")) == 1


async def test_a_refused_job_is_tried_again_and_holds_back_nothing() -> None:
    cluster = Recorded()
    cluster.refused["Job"] = ForbiddenError(403, "exceeded quota: team, requested: count/jobs.batch=1")
    bad = service(**CACHED, metadata={"labels": {"team": "bad"}}, replicas=2)
    [error] = await pass_over(cluster, bad)
    assert (error.reason, error.kind) == ("ApplyFailed", "Job")
    assert "count/jobs.batch" in error.message
    assert cluster.again
    assert "PodDisruptionBudget" in cluster.kinds()


async def test_without_its_claim_no_job_is_made() -> None:
    cluster = Recorded()
    cluster.refused["PersistentVolumeClaim"] = ForbiddenError(403, "no")
    bad = service(**CACHED, metadata={"labels": {"team": "bad"}})
    [error] = await pass_over(cluster, bad)
    assert error.kind == "PersistentVolumeClaim"
    assert "Job" not in cluster.kinds()


# What it costs.


async def requests_of(server: Server, kube: KubeClient, **spec: Any) -> list[str]:
    """The requests that a new service costs, without those for Events."""
    server.answer = api = Api()
    controller = Controller(kube, SETTINGS, Health())
    task = asyncio.create_task(controller.run())
    await until(lambda: api.watches)
    before = len(server.asked)
    api.put(service_object(**spec))
    await until(lambda: api.items[("default", "news")]["status"].get("conditions"))
    await asyncio.sleep(1.0)  # nothing follows
    task.cancel()
    await asyncio.wait((task,))
    return [
        path.rpartition("/namespaces/default/")[2]
        for _, path, query, _, _ in server.asked[before:]
        if "watch" not in query and not path.endswith("/events")
    ]


async def test_a_download_costs_one_request_and_no_pod(server: Server, kube: KubeClient) -> None:
    asked = await requests_of(server, kube, replicas=1, **CACHED)
    assert sorted(re.sub(r"-download-[0-9a-f]{8}$", "-download", path) for path in asked) == [
        "configmaps/news-alerts",
        "jobs/news-download",
        "persistentvolumeclaims/news-cache",
        "poddisruptionbudgets/news",
        "qwenservices/news/status",
        "services/news",
    ]


async def test_the_pod_of_a_job_is_found_by_its_labels(kube: KubeClient) -> None:
    changed: list[Object] = []
    cluster = ClusterCache(kube, (), on_child=lambda _: None, on_pod=changed.append, on_api=lambda: None)
    obj = service_object()
    obj["metadata"]["resourceVersion"] = "1"
    cluster.store_service(obj)
    labels = {DOWNLOAD_LABEL: "news", JOB_NAME_LABEL: JOB[1]}
    metadata = {"namespace": "default", "name": "a", "uid": "a", "resourceVersion": "2", "labels": labels}
    pod: Object = {"metadata": metadata}
    cluster.pod_informer._take("ADDED", pod)
    assert [found["metadata"]["name"] for found in changed] == ["a"]
    assert cluster.key_by_label(pod) == KEY
    assert [found["metadata"]["name"] for found in cluster.download_pods(KEY)] == ["a"]
    assert list(cluster.pods(KEY)) == []
    assert list(cluster.download_pods(("default", "other"))) == []


def test_of_a_job_its_end_is_kept_and_of_its_pod_the_labels() -> None:
    job = ended({**download_of(SUBJECT).job, "apiVersion": "batch/v1"}, "Failed")
    kept = keeper(JOBS)(job)
    assert has_condition(kept, "Failed")
    assert "spec" not in kept
    many = {f"example.org/{number}": "" for number in range(10 * MAX_LABELS)}
    labels = {**many, DOWNLOAD_LABEL: "news", JOB_NAME_LABEL: "x"}
    found = keeper(PODS)({"metadata": {"name": "a", "labels": labels}})["metadata"]["labels"]
    assert (found[DOWNLOAD_LABEL], found[JOB_NAME_LABEL]) == ("news", "x")
    assert len(found) == MAX_LABELS + 2


# What its pod says.

POD: Object = {"metadata": {"name": "a", "uid": "a"}, "status": {"phase": "Running", "podIP": "10.0.0.1"}}


class Asked:
    """The pods, the clock, and when the service is looked at again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.answer: bytes | None = b'{"phase": "Downloading", "downloadedBytes": 1, "bytesPerSecond": 5}'
        self.asked: list[float] = []
        self.again: list[float] = []
        self.subject = Downloads(self.ask, lambda _, seconds: self.again.append(seconds))
        monkeypatch.setattr(downloads, "time", SimpleNamespace(monotonic=lambda: self.now))

    async def ask(self, address: str, namespace: str) -> bytes | None:
        assert (address, namespace) == ("10.0.0.1", "default")
        self.asked.append(self.now)
        return self.answer

    async def look(self, seconds: float = 0.0, *members: Object) -> Figures | None:
        """What is known after so many seconds, as soon as the pod has answered."""
        self.now += seconds
        self.subject.of(KEY, members or [POD])
        await asyncio.gather(*self.subject._asking.values())
        await asyncio.sleep(0)
        return self.subject.of(KEY, members or [POD])


async def test_a_pod_is_asked_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch)
    for _ in range(4):
        assert await asked.look() == Figures("Downloading", 1, rate=5)
    assert asked.asked == [1000.0]
    assert 0.0 in asked.again, "nobody looks at the new figures"
    assert asked.again[-1] == ASK_SECONDS
    asked.answer = b'{"phase": "Verifying", "downloadedBytes": 9}'
    assert await asked.look(ASK_SECONDS) == Figures("Verifying", 9)


async def test_a_silent_pod_is_asked_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch)
    await asked.look()
    asked.answer = None
    assert await asked.look(ASK_SECONDS) == Figures("Downloading", 1)
    pauses = []
    for _ in range(4):
        pauses.append(asked.again[-1])
        await asked.look(pauses[-1])
    assert pauses == [20.0, 40.0, 60.0, 60.0]
    assert asked.asked[2:] == [1030.0, 1070.0, 1130.0, 1190.0]


async def test_another_pod_is_asked_at_once_and_one_that_has_ended_not(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch)
    await asked.look()
    await asked.look(1.0, {**POD, "metadata": {"name": "b", "uid": "b"}})
    assert asked.asked == [1000.0, 1001.0]
    assert await asked.look(60.0, {**POD, "status": {"phase": "Succeeded", "podIP": "10.0.0.1"}}) is None
    assert asked.asked == [1000.0, 1001.0]


async def test_no_reconciliation_waits_for_a_pod_and_none_is_asked_for_a_service_that_is_gone() -> None:
    begun, over = asyncio.Event(), asyncio.Event()

    async def ask(*_: str) -> bytes | None:
        begun.set()
        await over.wait()
        return None

    subject = Downloads(ask, lambda *_: None)
    assert subject.of(KEY, [POD]) is None
    await begun.wait()
    task = subject._asking[KEY]
    subject.forget(KEY)
    await asyncio.wait((task,), timeout=5)
    assert task.cancelled()
    assert not subject._asking


async def test_the_progress_is_asked_over_http() -> None:
    async def answer(_ip: str, path: str) -> web.Response:
        return web.Response(body=b"{}") if path == "progress" else web.Response(status=404)

    async with pods(answer) as poller:
        assert await poller.progress("10.0.0.1", "default") == b"{}"

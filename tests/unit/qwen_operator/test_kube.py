"""The Kubernetes client with a small HTTP server: requests, and the errors for responses."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.request import getproxies_environment

import pytest
from aiohttp import web

from qwen_operator.api import API_VERSION, KIND
from qwen_operator.api.names import SERVICE_LABEL
from qwen_operator.api.objects import Object
from qwen_operator.controller import Controller
from qwen_operator.kube.cache import ClusterCache
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.errors import (
    ConflictError,
    ForbiddenError,
    GoneError,
    InvalidError,
    KubeError,
    NamespaceEndingError,
    NotFoundError,
    TooManyRequestsError,
)
from qwen_operator.kube.events import Recorder
from qwen_operator.kube.informer import Informer
from qwen_operator.kube.resources import (
    AUTOSCALERS,
    BUDGETS,
    DEPLOYMENTS,
    NODES,
    PODS,
    QWEN_SERVICES,
    SERVICE_MONITORS,
    resource_of,
)
from qwen_operator.process.health import Health
from qwen_operator.process.settings import read_settings
from qwen_operator.reconcile import Reconciler
from tests.unit.qwen_operator.kube_server import Server, written


def test_paths() -> None:
    assert PODS.path() == "/api/v1/pods"
    assert PODS.path("n", "p", "status") == "/api/v1/namespaces/n/pods/p/status"
    assert DEPLOYMENTS.path("n") == "/apis/apps/v1/namespaces/n/deployments"
    assert NODES.path("n", "node1") == "/api/v1/nodes/node1"
    assert resource_of("qwen-vllm.io/v1alpha1", "QwenService") is QWEN_SERVICES


async def test_apply_is_server_side_and_forced_under_our_name(server: Server, kube: KubeClient) -> None:
    obj = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "n"}}
    await kube.apply(obj)
    method, path, query, body, content_type = server.asked[0]
    assert (method, path) == ("PATCH", "/apis/apps/v1/namespaces/n/deployments/d")
    assert query == {"fieldManager": "qwen-operator", "force": "true"}
    assert body == obj
    assert content_type == "application/apply-patch+yaml"


async def test_a_new_object_is_applied_with_a_version_that_no_object_has(server: Server, kube: KubeClient) -> None:
    metadata = {"name": "d", "namespace": "n"}
    obj = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}
    await kube.apply(obj, new=True)
    assert server.asked[0][3] == {**obj, "metadata": {**metadata, "resourceVersion": "1"}}
    assert "resourceVersion" not in metadata


async def test_the_token_is_sent(server: Server, kube: KubeClient) -> None:
    headers: list[str | None] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        headers.append(request.headers.get("Authorization"))
        return web.json_response({})

    server.answer = answer
    await kube.get(PODS, "p", "n")
    assert headers == ["Bearer secret"]


async def test_eviction_names_the_uid(server: Server, kube: KubeClient) -> None:
    await kube.evict("p", "n", uid="u1", grace_seconds=5)
    method, path, _, body, _ = server.asked[0]
    assert (method, path) == ("POST", "/api/v1/namespaces/n/pods/p/eviction")
    assert body["deleteOptions"]["preconditions"] == {"uid": "u1"}
    assert body["deleteOptions"]["gracePeriodSeconds"] == 5


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, InvalidError),
        (401, ForbiddenError),
        (403, ForbiddenError),
        (404, NotFoundError),
        (409, ConflictError),
        (410, GoneError),
        (422, InvalidError),
        (429, TooManyRequestsError),
        (500, KubeError),
    ],
)
async def test_answers_become_typed_errors(
    server: Server, kube: KubeClient, status: int, error: type[KubeError]
) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response({"kind": "Status", "message": "because"}, status=status)

    server.answer = answer
    with pytest.raises(error) as caught:
        await kube.get(PODS, "p", "n")
    assert (caught.value.status, caught.value.message) == (status, "because")


async def test_a_namespace_that_is_being_deleted_has_its_own_error(server: Server, kube: KubeClient) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        details = {"causes": [{"reason": "NamespaceTerminating"}]}
        return web.json_response({"message": "no", "details": details}, status=403)

    server.answer = answer
    with pytest.raises(NamespaceEndingError):
        await kube.get(PODS, "p", "n")


async def test_no_answer_is_an_error_without_a_status(server: Server, kube: KubeClient) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    server.answer = answer
    with pytest.raises(KubeError) as caught:
        await kube.get(PODS, "p", "n")
    assert caught.value.status == 0


async def test_deleting_a_missing_object_is_not_an_error(server: Server, kube: KubeClient) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response({"message": "gone"}, status=404)

    server.answer = answer
    await kube.delete(PODS, "p", "n")
    assert server.asked[0][3]["propagationPolicy"] == "Background"


async def test_an_api_that_is_not_there_is_not_served(server: Server, kube: KubeClient) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if "monitoring" in request.path:
            return web.json_response({"message": "no"}, status=404)
        return web.json_response({"resources": [{"name": "qwenservices"}]})

    server.answer = answer
    assert await kube.served(SERVICE_MONITORS.api_version) == frozenset()
    assert await kube.served(QWEN_SERVICES.api_version) == {"qwenservices"}


def pod(name: str, version: int) -> dict[str, Any]:
    labels = {"qwen-vllm.io/service": "news"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "n", "uid": name, "resourceVersion": str(version), "labels": labels},
    }


def stream(*events: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


async def test_a_watch_continues_after_its_end_and_lists_again_if_too_old(server: Server, kube: KubeClient) -> None:
    seen: list[tuple[str, str]] = []
    watches: list[str] = []
    lists = 0
    done, over = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal lists
        if "watch" not in request.query:
            lists += 1
            items = [pod("a", 1)] if lists == 1 else [pod("b", 9)]
            return web.json_response({"metadata": {"resourceVersion": str(lists * 10)}, "items": items})
        watches.append(request.query["resourceVersion"])
        if len(watches) == 1:
            events = stream(
                {"type": "ADDED", "object": pod("b", 11)},
                {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "15"}}},
            )
            return web.Response(body=events)
        if len(watches) == 2:
            gone = {"kind": "Status", "code": 410, "message": "too old"}
            return web.Response(body=stream({"type": "ERROR", "object": gone}))
        done.set()
        response = web.StreamResponse()
        await response.prepare(request)
        await over.wait()
        return response

    server.answer = answer
    informer = Informer(
        kube, PODS, (), lambda obj: seen.append((obj["metadata"]["name"], obj["metadata"]["resourceVersion"]))
    )
    task = asyncio.create_task(informer.run())
    await asyncio.wait_for(done.wait(), 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    over.set()
    assert watches == ["10", "15", "20"]
    assert informer.get("n", "a") is None
    assert [item["metadata"]["name"] for item in informer.in_group("n", "news")] == ["b"]
    assert ("a", "1") in seen


@pytest.mark.parametrize("proxies", [{}, {"HTTPS_PROXY": "http://127.0.0.1:9"}])
async def test_proxies_and_netrc_are_looked_for_only_where_proxies_are_set(
    server: Server, monkeypatch: pytest.MonkeyPatch, proxies: dict[str, str]
) -> None:
    """At each request, aiohttp would do so in a thread."""
    for name in getproxies_environment():
        for variable in (f"{name}_proxy", f"{name}_PROXY".upper()):
            monkeypatch.delenv(variable, raising=False)
    for variable, value in proxies.items():
        monkeypatch.setenv(variable, value)
    client = await KubeClient.connect()
    asked = []
    monkeypatch.setattr("aiohttp.client.netrc_from_env", lambda: asked.append("netrc"))
    await client.get(PODS, "p", "n")
    await client.close()
    assert len(server.asked) == 1
    assert bool(asked) == bool(proxies)


async def test_the_budgets_of_others_are_those_that_no_service_owns(kube: KubeClient) -> None:
    nothing: Any = lambda *_: None  # noqa: E731
    cluster = ClusterCache(kube, (), on_child=nothing, on_pod=nothing, on_api=nothing)
    owner = {"apiVersion": API_VERSION, "kind": KIND, "name": "news", "uid": "u"}

    def budget(name: str, namespace: str = "n", **metadata: Any) -> Object:
        metadata |= {"name": name, "namespace": namespace, "uid": f"{namespace}-{name}", "resourceVersion": "1"}
        return {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata}

    labels = {SERVICE_LABEL: "news"}
    for obj in (
        budget("b-users"),
        budget("a-users"),
        budget("elsewhere", "m"),
        budget("news", ownerReferences=[owner], labels=labels),
        budget("left", labels=labels),  # of a service that was deleted without its children
    ):
        cluster.store_child(BUDGETS, obj)
    assert [obj["metadata"]["name"] for obj in cluster.budgets("n")] == ["a-users", "b-users", "left"]
    cluster.store_child(BUDGETS, budget("left", labels=labels, ownerReferences=[owner]))
    assert [obj["metadata"]["name"] for obj in cluster.budgets("n")] == ["a-users", "b-users"]


async def test_an_informer_without_permission_does_not_delay_the_start(server: Server, kube: KubeClient) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response({"message": "forbidden"}, status=403)

    server.answer = answer
    informer = Informer(kube, PODS, ("a", "b"), lambda _: None)
    task = asyncio.create_task(informer.run())
    await asyncio.wait_for(informer.synced.wait(), 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_missed_deletion_is_noticed_before_a_child_is_created(kube: KubeClient, server: Server) -> None:
    async def absent(_: web.Request) -> web.StreamResponse:
        return web.json_response({"message": "not found"}, status=404)

    server.answer = absent
    settings = read_settings(["--server-image-cpu=a", "--server-image-cuda=b"], {})
    controller = Controller(kube, settings, Health())
    metadata = {"namespace": "n", "name": "news", "uid": "u", "resourceVersion": "1"}
    spec = {"engine": {"device": "cpu"}, "model": {"source": {"builtin": "x"}}}
    service = {"apiVersion": "qwen-vllm.io/v1alpha1", "kind": "QwenService", "metadata": metadata, "spec": spec}
    controller.cluster.store_service(service)
    recorder = Recorder(kube, "test")
    reconciler = Reconciler(
        kube,
        controller.cluster,
        recorder,
        settings,
        suspended=lambda _: None,
        gone=controller.service_gone,
        again=lambda *_: None,
    )
    await reconciler.reconcile(("n", "news"))
    assert controller.cluster.service(("n", "news")) is None
    assert {method for method, *_ in server.asked} == {"GET"}


async def test_an_optional_api_that_fails_delays_the_start_by_seconds_only(kube: KubeClient, server: Server) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/apis/monitoring.coreos.com/v1":
            return web.json_response({"resources": [{"name": "servicemonitors"}]})
        if request.path.endswith("/servicemonitors"):
            return web.json_response({"message": "conversion webhook failed"}, status=500)
        if request.path.count("/") == 3 and request.path.startswith("/apis"):
            return web.json_response({"message": "not found"}, status=404)
        if request.query.get("watch"):
            await over.wait()
        return web.json_response({"items": [], "metadata": {"resourceVersion": "1"}})

    over = asyncio.Event()
    server.answer = answer
    cluster = ClusterCache(kube, (), on_child=lambda _: None, on_pod=lambda _: None, on_api=lambda: None)
    started = asyncio.Event()

    async def run() -> None:
        async with asyncio.TaskGroup() as tasks:
            await cluster.start(tasks)
            started.set()

    task = asyncio.create_task(run())
    try:
        await asyncio.wait_for(started.wait(), 5)
    finally:
        over.set()
        task.cancel()
        await cluster.stop()
        await asyncio.gather(task, return_exceptions=True)
    assert cluster.serves(SERVICE_MONITORS)


async def test_a_child_that_cannot_be_removed_does_not_keep_the_status_back(kube: KubeClient, server: Server) -> None:
    metadata = {"namespace": "n", "name": "news", "uid": "u", "resourceVersion": "1"}
    spec = {"engine": {"device": "cpu"}, "model": {"source": {"builtin": "x"}}}
    service = {"apiVersion": "qwen-vllm.io/v1alpha1", "kind": "QwenService", "metadata": metadata, "spec": spec}

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.method == "DELETE":
            return web.json_response({"message": "a webhook says no"}, status=500)
        if "/qwenservices/" in request.path:
            return web.json_response(service)
        if request.method == "GET":
            return web.json_response({"message": "not found"}, status=404)
        return await written(request)

    server.answer = answer
    settings = read_settings(["--server-image-cpu=a", "--server-image-cuda=b"], {})
    cluster = ClusterCache(kube, (), on_child=lambda _: None, on_pod=lambda _: None, on_api=lambda: None)
    cluster.store_service(service)
    owner = {**metadata, "ownerReferences": [{"uid": "u"}]}
    cluster._informers[AUTOSCALERS]._put(("n", "news"), {"metadata": owner})
    recorder = Recorder(kube, "test")
    reconciler = Reconciler(
        kube, cluster, recorder, settings, suspended=lambda _: None, gone=lambda _: None, again=lambda *_: None
    )
    failure = await reconciler.reconcile(("n", "news"))
    assert failure is not None
    assert "webhook" in failure.message
    [status] = [
        body["status"]
        for method, path, _, body, _ in server.asked
        if (method, path) == ("PATCH", "/apis/qwen-vllm.io/v1alpha1/namespaces/n/qwenservices/news/status")
    ]
    degraded = next(item for item in status["conditions"] if item["type"] == "Degraded")
    assert degraded["message"] == "HorizontalPodAutoscaler news cannot be removed: a webhook says no"

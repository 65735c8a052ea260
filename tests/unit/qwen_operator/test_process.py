"""The process: what ends it, and that nothing goes on acting after that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from aiohttp import web
from kopf._cogs.aiokits import aiotasks

from qwen_operator import __main__ as process
from qwen_operator.acting import EXIT_LOST, Acting
from qwen_operator.api.objects import Object
from qwen_operator.controller import Controller
from qwen_operator.kube import informer as informers
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.lease import Leader
from qwen_operator.kube.resources import QWEN_SERVICES
from qwen_operator.process.health import Health
from qwen_operator.process.operator_metrics import CONDITION, REGISTRY, SCALED_TO_ZERO
from qwen_operator.process.settings import Settings, read_settings
from tests.unit.qwen_operator.kube_server import Objects, Server, refusal, until, written

SERVICE = {
    "apiVersion": "qwen-vllm.io/v1alpha1",
    "kind": "QwenService",
    "metadata": {"namespace": "n", "name": "news", "uid": "u", "resourceVersion": "1", "generation": 1},
    "spec": {"engine": {"device": "cpu"}, "model": {"source": {"builtin": "x"}}},
}


def settings(*flags: str) -> Settings:
    return read_settings(["--server-image-cpu=a", "--server-image-cuda=b", "--metrics-port=0", *flags], {})


def service(name: str = "news", **metadata: Any) -> Object:
    return {**SERVICE, "metadata": {**SERVICE["metadata"], "name": name, **metadata}}  # type: ignore[dict-item]


class Work:
    """In place of the controller."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.running = asyncio.Event()
        self.stopped_at = 0.0

    async def run(self) -> None:
        self.running.set()
        try:
            if self.failure is not None:
                raise self.failure
            await asyncio.Event().wait()
        finally:
            self.stopped_at = time.monotonic()


def acting(work: Work, ending: asyncio.Event, ends: list[float]) -> Acting:
    async def stopped() -> None:
        ends.append(time.monotonic())

    return Acting(cast("Controller", work), ending, stopped)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """kopf gives the other tasks of the event loop less time to end than five seconds.

    Here, they include those of the API server, which do not end.
    """
    wait = aiotasks.wait

    async def briefly(tasks: Any, *, timeout: float | None = None, **options: Any) -> Any:
        return await wait(tasks, timeout=None if timeout is None else min(timeout, 0.1), **options)

    monkeypatch.setattr(aiotasks, "wait", briefly)


@pytest.mark.usefixtures("brief")
async def test_the_controller_runs_within_kopf_and_the_lease_is_released_after_it(server: Server) -> None:
    server.answer = Objects()
    work, ending, ends = Work(), asyncio.Event(), list[float]()
    running = asyncio.create_task(acting(work, ending, ends).run())
    await asyncio.wait_for(work.running.wait(), 10)
    ending.set()
    assert await asyncio.wait_for(running, 10) == 0
    assert 0 < work.stopped_at <= ends[0]


@pytest.mark.usefixtures("brief")
async def test_the_user_of_the_process_needs_no_name(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 1000680000")  # as on OpenShift

    monkeypatch.setattr("getpass.getuser", unknown)
    monkeypatch.delenv("POD_ID", raising=False)
    server.answer = Objects()
    work, ending = Work(), asyncio.Event()
    running = asyncio.create_task(acting(work, ending, []).run())
    await asyncio.wait_for(work.running.wait(), 10)
    ending.set()
    assert await asyncio.wait_for(running, 10) == 0


@pytest.mark.usefixtures("brief")
async def test_a_failed_controller_ends_the_process_with_an_error(server: Server) -> None:
    server.answer = Objects()
    ends = list[float]()
    running = acting(Work(RuntimeError("broken")), asyncio.Event(), ends).run()
    assert await asyncio.wait_for(running, 10) == EXIT_LOST
    assert len(ends) == 1


async def test_the_end_of_kopf_ends_the_controller_and_the_process(server: Server) -> None:
    objects, work, ends = Objects(), Work(), list[float]()
    failing = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        await failing.wait()  # kopf asks which kinds there are
        return refusal(404)

    server.answer = answer
    running = asyncio.create_task(acting(work, asyncio.Event(), ends).run())
    await asyncio.wait_for(work.running.wait(), 10)
    failing.set()
    assert await asyncio.wait_for(running, 10) == EXIT_LOST
    assert work.stopped_at > 0
    assert len(ends) == 1
    assert objects.lists == []


@pytest.mark.parametrize("broken", ["returns", "raises"])
async def test_a_process_without_its_lease_does_not_act(
    server: Server, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    works: list[Work] = []

    def controller(*_: object) -> Work:
        works.append(Work())
        return works[0]

    async def hold(_: Leader) -> None:
        await until(lambda: works and works[0].running.is_set())  # in another thread
        if broken == "raises":
            raise AttributeError("nobody thought of this")

    server.answer = Objects()
    monkeypatch.setattr(process, "Controller", controller)
    monkeypatch.setattr(Leader, "acquire", lambda _: asyncio.sleep(0))
    monkeypatch.setattr(Leader, "hold", hold)
    assert await asyncio.wait_for(process.run(settings()), 10) == EXIT_LOST
    assert works[0].stopped_at > 0


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has failed is tried again soon."""
    monkeypatch.setattr(informers, "pause", lambda *_: 0.1)
    monkeypatch.setattr("qwen_operator.controller._BLIND_SECONDS", 0.2)


async def run_controller(kube: KubeClient, health: Health, *flags: str) -> tuple[Controller, asyncio.Task[None]]:
    controller = Controller(kube, settings("--resync-seconds=1", *flags), health)
    return controller, asyncio.create_task(controller.run())


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait((task,))


@pytest.mark.usefixtures("soon")
async def test_readiness_says_whether_services_are_heard_of(
    server: Server, kube: KubeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwen_operator.controller._SILENCE", 0.0)
    server.answer = objects = Objects()
    health = Health()
    objects.refuse = lambda _: refusal(404)
    controller, task = await run_controller(kube, health)
    await until(lambda: len(objects.lists) >= 2)
    assert not health.ready
    objects.refuse = lambda _: None
    await until(lambda: health.ready)
    objects.put(service())
    await until(lambda: ("n", "news") in controller.cluster.services)
    objects.delete("news", quietly=True)
    objects.refuse = lambda _: refusal(404)
    await until(lambda: not health.ready)
    await until(lambda: not controller.cluster.services)
    assert not task.done()
    await stop(task)


@pytest.mark.usefixtures("soon")
async def test_services_whose_objects_cannot_be_listed_are_left_alone(server: Server, kube: KubeClient) -> None:
    objects = Objects()
    denied = True

    async def answer(request: web.Request) -> web.StreamResponse:
        if denied and request.path.endswith("/namespaces/n/pods"):
            return refusal(403)
        if request.path.endswith("/qwenservices/news"):
            return web.json_response(service())
        if request.method == "PATCH":
            return await written(request)
        if request.path.rpartition("/")[2].startswith("news"):
            return refusal(404)
        return await objects(request)

    server.answer = answer
    objects.put(service())
    controller, task = await run_controller(kube, Health(), "--watch-namespaces=n")
    await until(lambda: ("n", "news") in controller.cluster.services)
    await asyncio.sleep(1.0)
    assert {method for method, *_ in server.asked} == {"GET"}
    assert controller._remediator._loops == {}
    denied = False
    await until(lambda: any("/deployments/" in path for method, path, *_ in server.asked if method == "PATCH"))
    await stop(task)


async def test_the_answer_to_a_late_write_does_not_bring_a_deleted_service_back(kube: KubeClient) -> None:
    cluster = Controller(kube, settings(), Health()).cluster
    cluster.store_service(service())
    cluster.forget_service(("n", "news"))
    cluster.store_service(service(resourceVersion="2"))
    assert cluster.service(("n", "news")) is None
    cluster.store_service(service(uid="another"))
    assert cluster.service(("n", "news")) is not None


async def test_calls_have_connections_however_many_watches_there_are(
    server: Server, kube: KubeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answer = Objects()
    namespaces = ",".join(f"team-{number}" for number in range(50))
    health = Health()
    _, task = await run_controller(kube, health, f"--watch-namespaces={namespaces}")

    def watches() -> int:
        return sum("watch" in query for _, _, query, _, _ in server.asked)

    await until(lambda: health.ready and watches() >= 50 * 10, 60)
    started = time.monotonic()
    await kube.get(QWEN_SERVICES, "news", "team-1")
    assert time.monotonic() - started < 5
    assert not task.done()
    await stop(task)


class Cluster:
    """An API server that creates what it is asked for, with the faults that a test asks for."""

    def __init__(self, *services: Object) -> None:
        self.objects = Objects()
        self.made: list[str] = []
        self.fault: Callable[[web.Request], Awaitable[web.StreamResponse | None]] = no_fault
        for obj in services:
            self.objects.put(obj)

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        found = await self.fault(request)
        if found is not None:
            return found
        if request.method == "PATCH":
            return web.json_response(await self._patched(request))
        namespace, _, name = request.path.split("/")[-3:]
        if request.path.endswith("/qwenservices/news") and (namespace, name) in self.objects.items:
            return web.json_response(self.objects.items[(namespace, name)])
        if name.startswith("news"):
            return refusal(404)
        return await self.objects(request)

    async def _patched(self, request: web.Request) -> Object:
        self.made.append(request.path)
        namespace, plural, name = request.path.split("/namespaces/")[1].split("/")[:3]
        body = await request.json()
        if plural == "qwenservices":
            return {**self.objects.items[(namespace, name)], "status": body.get("status", {})}
        metadata = {"namespace": namespace, "name": name, "uid": request.path, **body.get("metadata", {})}
        return {"status": {}, **body, "metadata": {**metadata, "resourceVersion": "100"}}

    def has_deployment(self, namespace: str) -> bool:
        return any(f"/namespaces/{namespace}/deployments/" in path for path in self.made)


async def no_fault(_: web.Request) -> web.StreamResponse | None:
    return None


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("kind", ["configmaps", "pods"])
@pytest.mark.parametrize("fault", ["500", "silence"])
async def test_a_namespace_that_cannot_be_listed_keeps_no_other_waiting(
    server: Server, kube: KubeClient, monkeypatch: pytest.MonkeyPatch, kind: str, fault: str
) -> None:
    monkeypatch.setattr(informers, "START_SECONDS", 1.0)
    over = asyncio.Event()

    async def in_b(request: web.Request) -> web.StreamResponse | None:
        if not request.path.endswith(f"/namespaces/b/{kind}"):
            return None
        if fault == "silence":
            await over.wait()
        return refusal(500)

    cluster = Cluster(service(namespace="a", uid="a"), service(namespace="b", uid="b"))
    cluster.fault = in_b
    server.answer = cluster
    health = Health()
    _, task = await run_controller(kube, health, "--watch-namespaces=a,b")
    await until(lambda: cluster.has_deployment("a"))
    await until(lambda: health.ready)
    assert not cluster.has_deployment("b")
    over.set()
    cluster.fault = no_fault
    await until(lambda: cluster.has_deployment("b"))
    await stop(task)


@pytest.mark.usefixtures("soon")
async def test_an_operator_that_sees_no_namespace_is_not_ready(server: Server, kube: KubeClient) -> None:
    async def everywhere(request: web.Request) -> web.StreamResponse | None:
        return refusal(500) if request.path.endswith("/configmaps") else None

    server.answer = cluster = Cluster(service())
    cluster.fault = everywhere
    health = Health(ready=True)  # as it was on standby
    controller, task = await run_controller(kube, health)
    await until(lambda: ("n", "news") in controller.cluster.services)
    await asyncio.sleep(0.6)
    assert not health.ready
    cluster.fault = no_fault
    await until(lambda: health.ready)
    await stop(task)


def reconciles(result: str) -> float:
    return REGISTRY.get_sample_value("qwen_operator_reconciles_total", {"result": result}) or 0.0


async def test_what_a_quota_refuses_is_counted_apart(server: Server, kube: KubeClient) -> None:
    async def quota(request: web.Request) -> web.StreamResponse | None:
        if request.method != "PATCH" or not request.path.endswith("/services/news"):
            return None
        return refusal(403, 'services "news" is forbidden: exceeded quota: small')

    before = {result: reconciles(result) for result in ("refused", "error")}
    server.answer = cluster = Cluster(service())
    cluster.fault = quota
    _, task = await run_controller(kube, Health())
    await until(lambda: reconciles("refused") > before["refused"])
    assert reconciles("error") == before["error"]
    await stop(task)


async def test_the_conditions_of_a_service_are_metrics(server: Server, kube: KubeClient) -> None:
    CONDITION.clear()

    def condition(kind: str) -> float | None:
        labels = {"namespace": "n", "service": "news", "qwenservice": "news", "type": kind}
        return REGISTRY.get_sample_value("qwen_operator_condition", labels)

    server.answer = Cluster(service())
    _, task = await run_controller(kube, Health())
    await until(lambda: condition("Ready") == 0.0, 20)
    assert condition("Degraded") is not None
    await stop(task)


@pytest.mark.parametrize(("replicas", "expected"), [(1, 0.0), (0, 1.0)])
async def test_a_service_that_is_scaled_to_zero_says_so(
    server: Server, kube: KubeClient, replicas: int, expected: float
) -> None:
    def scaled() -> float | None:
        labels = {"namespace": "n", "service": "news", "qwenservice": "news"}
        return REGISTRY.get_sample_value("qwen_operator_scaled_to_zero", labels)

    SCALED_TO_ZERO.clear()
    server.answer = Cluster({**service(), "spec": {**service()["spec"], "replicas": replicas}})
    controller, task = await run_controller(kube, Health())
    await until(lambda: scaled() == expected, 20)
    controller.service_gone(("n", "news"))
    assert scaled() is None
    await stop(task)

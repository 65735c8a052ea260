"""What the operator costs the API server and itself: requests, polls, parsed specs, its queue."""

from __future__ import annotations

import asyncio
import copy
import resource
from typing import Any

import pytest
from aiohttp import web

from qwen_operator.controller import Controller
from qwen_operator.kube.cache import ClusterCache
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.resources import BUDGETS, CONFIG_MAPS
from qwen_operator.kube.workqueue import WorkQueue
from qwen_operator.process.files import raise_file_limit
from qwen_operator.process.health import Health
from qwen_operator.process.operator_metrics import REGISTRY
from qwen_operator.process.settings import read_settings
from qwen_operator.remediation import poll, remediator
from tests.unit.qwen_operator.kube_server import Objects, Server, refusal, until, written
from tests.unit.qwen_operator.objects import Object, service_object
from tests.unit.qwen_operator.pod_server import WELL, pods
from tests.unit.qwen_operator.test_remediator import KEY, OneService, remediator_of

SETTINGS = read_settings(["--server-image-cpu=a", "--server-image-cuda=b", "--metrics-port=0"], {})
CHILDREN = ["configmaps/news-alerts", "services/news", "deployments/news", "poddisruptionbudgets/news"]


class Api(Objects):
    """The API server. It takes the children and the status of QwenServices."""

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        path = request.path.rpartition("/namespaces/")[2].split("/")
        if request.method == "PATCH" and path[-1] == "status":
            obj = copy.deepcopy(self.items[(path[0], path[2])])
            patch = (await request.json())["status"]
            obj["status"] = {**obj["status"], **{name: value for name, value in patch.items() if value is not None}}
            self.put(obj)
            return web.json_response(obj)
        if request.method != "GET":
            return await written(request)
        if len(path) == 3:
            found = self.items.get((path[0], path[2]))
            return refusal(404) if found is None else web.json_response(found)
        return await super().__call__(request)


async def test_a_new_service_costs_a_request_for_each_child_and_one_for_its_status(
    server: Server, kube: KubeClient
) -> None:
    server.answer = api = Api()
    controller = Controller(kube, SETTINGS, Health())
    task = asyncio.create_task(controller.run())
    await until(lambda: api.watches)
    before = len(server.asked)
    api.put(service_object(networkPolicy={"enabled": True}, replicas=2))
    await until(lambda: api.items[("default", "news")]["status"].get("conditions"))
    await asyncio.sleep(1.5)  # nothing follows, neither after the debounce nor after a poll
    task.cancel()
    await asyncio.wait((task,))
    asked = [
        path.rpartition("/namespaces/default/")[2]
        for method, path, query, _, _ in server.asked[before:]
        if "watch" not in query and not path.endswith("/events")
    ]
    assert sorted(asked) == sorted([*CHILDREN, "networkpolicies/news", "qwenservices/news/status"])


# What the cache makes of the answers to writes.


def config_map(version: int = 20, **metadata: Any) -> Object:
    meta = {"namespace": "n", "name": "news-alerts", "uid": "c", "resourceVersion": str(version), **metadata}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta}


async def running_cache(kube: KubeClient, changed: list[str]) -> tuple[ClusterCache, asyncio.Task[None]]:
    """A cache that watches ConfigMaps, and its task. The service `news` is known."""
    cluster = ClusterCache(
        kube, (), on_child=lambda key: changed.append(key[1]), on_pod=lambda _: None, on_api=lambda: None
    )
    service = service_object()
    service["metadata"].update(namespace="n", resourceVersion="1")
    cluster.store_service(service)
    informer = cluster._informers[CONFIG_MAPS]
    task = asyncio.create_task(informer.run())
    await until(lambda: cluster.knows(CONFIG_MAPS, "n"))
    return cluster, task


async def test_what_a_write_has_created_is_known_at_once_and_its_echo_is_no_news(
    server: Server, kube: KubeClient
) -> None:
    server.answer = objects = Objects("configmaps")
    changed: list[str] = []
    cluster, task = await running_cache(kube, changed)
    await until(lambda: objects.watches)
    made = config_map(11, labels={"qwen-vllm.io/service": "news"})
    cluster.store_child(CONFIG_MAPS, made)
    stored = cluster.child(CONFIG_MAPS, "n", "news-alerts")
    assert stored is not None
    assert stored["metadata"]["resourceVersion"] == "11"
    objects.put(copy.deepcopy(made))  # as version 11
    await until(lambda: cluster.child(CONFIG_MAPS, "n", "news-alerts") is not stored)
    assert changed == []
    objects.put(copy.deepcopy(made))  # as version 12, by somebody else
    await until(lambda: changed == ["news"])
    task.cancel()
    await asyncio.wait((task,))


async def with_a_deleted_child(server: Server, kube: KubeClient) -> tuple[Objects, ClusterCache, asyncio.Task[None]]:
    """A cache that has seen a child, and then that a watch reported it as deleted."""
    server.answer = objects = Objects("configmaps")
    cluster, task = await running_cache(kube, [])
    await until(lambda: objects.watches)
    objects.put(config_map())
    await until(lambda: cluster.child(CONFIG_MAPS, "n", "news-alerts"))
    objects.delete("news-alerts")
    await until(lambda: cluster.child(CONFIG_MAPS, "n", "news-alerts") is None)
    return objects, cluster, task


async def test_a_late_answer_does_not_bring_a_deleted_child_back(server: Server, kube: KubeClient) -> None:
    objects, cluster, task = await with_a_deleted_child(server, kube)
    cluster.store_child(CONFIG_MAPS, config_map(objects.version - 1))
    assert cluster.child(CONFIG_MAPS, "n", "news-alerts") is None
    cluster.store_child(CONFIG_MAPS, config_map(uid="another"))
    assert cluster.child(CONFIG_MAPS, "n", "news-alerts") is not None
    task.cancel()
    await asyncio.wait((task,))


async def test_a_child_without_its_label_is_known_again_when_it_was_written(server: Server, kube: KubeClient) -> None:
    """A watch with a selector reports it as deleted. The status must not miss the child then."""
    objects, cluster, task = await with_a_deleted_child(server, kube)
    cluster.store_child(CONFIG_MAPS, config_map(objects.version + 1))
    assert cluster.child(CONFIG_MAPS, "n", "news-alerts") is not None
    task.cancel()
    await asyncio.wait((task,))


async def test_the_status_of_a_budget_concerns_no_service(server: Server, kube: KubeClient) -> None:
    """The status of a budget changes with each pod, and each change made a reconciliation."""
    server.answer = objects = Objects("poddisruptionbudgets")
    changed: list[str] = []
    cluster = ClusterCache(
        kube, (), on_child=lambda key: changed.append(key[1]), on_pod=lambda _: None, on_api=lambda: None
    )
    service = service_object()
    service["metadata"].update(namespace="n", resourceVersion="1")
    cluster.store_service(service)
    metadata = {"namespace": "n", "name": "theirs", "uid": "b", "generation": 1}
    budget: Object = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata}
    budget["spec"] = {"maxUnavailable": 1}
    objects.put(copy.deepcopy(budget))
    informer = cluster._informers[BUDGETS]
    task = asyncio.create_task(informer.run())
    await until(lambda: changed == ["news"])
    objects.put({**copy.deepcopy(budget), "status": {"currentHealthy": 1}})
    await until(lambda: informer.objects[("n", "theirs")].get("status"))
    assert changed == ["news"]
    objects.put({**copy.deepcopy(budget), "spec": {"maxUnavailable": 2}})
    await until(lambda: changed == ["news", "news"])
    task.cancel()
    await asyncio.wait((task,))


async def test_a_report_proves_once_that_a_service_exists(server: Server, kube: KubeClient) -> None:
    server.answer = objects = Objects()
    cluster = ClusterCache(kube, (), on_child=lambda _: None, on_pod=lambda _: None, on_api=lambda: None)
    task = asyncio.create_task(cluster.service_informer.run())
    objects.put(service_object())
    key = ("default", "news")
    await until(lambda: cluster.service(key))
    assert [cluster.take_report(key), cluster.take_report(key)] == [True, False]
    objects.put(service_object())
    await until(lambda: cluster.take_report(key))
    task.cancel()
    await asyncio.wait((task,))


# Remediation.


async def test_a_spec_is_parsed_once_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[Object] = []
    parse = remediator._read_policy

    def counted(service: Object) -> Any:
        parsed.append(service)
        return parse(service)

    monkeypatch.setattr(remediator, "_read_policy", counted)
    cluster = OneService("5s")
    subject = remediator_of(cluster)
    assert [await subject.tick(KEY) for _ in range(3)] == [5.0, 5.0, 5.0]
    assert len(parsed) == 1
    cluster.change(pollInterval="7s")
    assert [await subject.tick(KEY) for _ in range(3)] == [7.0, 7.0, 7.0]
    assert len(parsed) == 2
    cluster.obj["status"] = {"replicas": 3}  # the spec leaves the replicas out
    await subject.tick(KEY)
    assert len(parsed) == 3


async def test_the_first_polls_of_many_services_are_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remediator, "_FIRST_SECONDS", 1.0)

    class Many(OneService):
        def service(self, key: tuple[str, str]) -> Object | None:
            return {**self.obj, "metadata": {**self.obj["metadata"], "name": key[1]}}

    subject = remediator_of(Many("30s"))
    begun: list[float] = []

    async def tick(key: tuple[str, str]) -> float:
        assert key[0] == "n"
        begun.append(asyncio.get_running_loop().time())
        return 30.0

    begin, delays = subject._loop, list[float]()

    async def noted(key: tuple[str, str], delay: float) -> None:
        delays.append(delay)
        await begin(key, delay)

    subject.tick, subject._loop = tick, noted  # type: ignore[method-assign]
    started = asyncio.get_running_loop().time()
    for number in range(100):
        subject.sync(("n", f"s{number}"))
    await until(lambda: len(begun) == 100)
    await subject.stop()
    counts = [sum(int(delay * 5) == fifth for delay in delays) for fifth in range(5)]
    assert min(counts) >= 12
    assert max(counts) <= 28
    assert all(at - started >= delay - 0.001 for at, delay in zip(begun, sorted(delays), strict=True))


def answered() -> float:
    return REGISTRY.get_sample_value("qwen_operator_polls_total", {"result": "ok"}) or 0.0


async def test_no_poll_waits_for_the_connection_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a pool of 256, as there was, 300 slow test generations made other pods look silent."""
    monkeypatch.setattr(poll, "POLL_SECONDS", 3.0)
    over = asyncio.Event()

    async def answer(_ip: str, path: str) -> web.Response:
        if path == "health/generate":
            await over.wait()
            return web.Response()
        return web.json_response(WELL)

    async with pods(answer) as poller:
        waiting = [asyncio.create_task(poller.generate(f"slow{number}", "slow")) for number in range(300)]
        await asyncio.sleep(0.5)
        before = answered()
        await asyncio.gather(*(poller.metrics(f"well{number}", "well") for number in range(20)))
        assert answered() - before == 20
        over.set()
        assert all(await asyncio.gather(*waiting))


def test_the_limit_of_open_files_is_the_highest_that_is_allowed() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
        assert raise_file_limit() == before[1]
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# The queue.


async def handled(*first: str) -> list[str]:
    """The order in which one worker for all and one by time handle keys; some are first."""
    order: list[str] = []

    async def work(key: str) -> None:
        order.append(key)
        await asyncio.sleep(0.01)

    queue: WorkQueue[str] = WorkQueue(work, lambda *_: None)
    for number in range(20):
        queue.add(f"old{number:02}", 0.0)
        await asyncio.sleep(0)
    for key in first:
        queue.add(key, 0.0, first=True)
    task = asyncio.create_task(queue.run(workers=2))
    await until(lambda: len(order) == 20 + len(first))
    task.cancel()
    assert await asyncio.wait((task,), timeout=5) == ({task}, set())
    return order


async def test_a_change_does_not_wait_behind_the_services_that_were_there_at_the_start() -> None:
    assert (await handled("new")).index("new") <= 2


async def test_many_changes_do_not_keep_the_others_waiting() -> None:
    order = await handled(*(f"new{number:02}" for number in range(20)))
    assert sum(key.startswith("old") for key in order[:20]) >= 8


async def test_a_queue_ends_as_soon_as_it_is_cancelled() -> None:
    """`handled` cancels it while one worker has just finished and the other one waits for that."""
    for _ in range(10):
        assert len(await handled("new")) == 21


async def test_what_was_changed_while_no_operator_acted_does_not_wait_behind_the_others(
    server: Server, kube: KubeClient
) -> None:
    server.answer = api = Api()
    for number in range(30):
        obj = service_object(f"old{number:02}", {"observedGeneration": 3}, replicas=1)
        obj["metadata"]["uid"] = f"u{number}"
        api.put(obj)
    api.put(service_object("new", replicas=1))

    def served() -> list[str]:
        return [path.rpartition("/")[2] for _, path, *_ in server.asked if "/deployments/" in path]

    controller = Controller(kube, SETTINGS, Health())
    task = asyncio.create_task(controller.run())
    await until(lambda: "new" in served())
    task.cancel()
    await asyncio.wait((task,))
    assert served().index("new") <= 8

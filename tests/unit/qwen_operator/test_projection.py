"""What the cache keeps of objects, which anybody with rights in a namespace may fill up."""

from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc
from typing import Any

from aiohttp import web

from qwen_operator.api.names import APPLIED_HASH_ANNOTATION, child_labels
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.informer import Informer
from qwen_operator.kube.projection import MAX_CONTAINERS, MAX_LABELS, keeper
from qwen_operator.kube.resources import CONFIG_MAPS, DEPLOYMENTS, PODS, QWEN_SERVICES, SERVICES
from qwen_operator.planning.builders.ownership import is_applied, is_ours, stamped
from qwen_operator.status.diagnosis import diagnose, is_held_up
from tests.unit.qwen_operator.kube_server import Server
from tests.unit.qwen_operator.objects import Object, child, crashed, pod, service
from tests.unit.qwen_operator.test_ownership import FULL, applied

MIB = 1024 * 1024


def size(obj: Object) -> int:
    return len(json.dumps(obj))


def test_a_child_is_still_recognized_as_what_was_applied() -> None:
    desired = stamped(child(FULL, "Deployment"))
    live = applied(desired)
    of_status = {"manager": "controller", "subresource": "status", "fieldsV1": {"f:x": {}}}
    live["metadata"]["managedFields"].append(of_status)
    kept = keeper(DEPLOYMENTS)(live)
    assert is_applied(desired, kept)
    assert [record["manager"] for record in kept["metadata"]["managedFields"]] == ["kubectl", "qwen-operator"]
    del kept["metadata"]["managedFields"][1]["fieldsV1"]["f:spec"]["f:replicas"]
    assert not is_applied(desired, kept)


def test_an_object_that_somebody_has_filled_up_is_small() -> None:
    names = [f"example.org/{number}" for number in range(40_000)]
    filled = {
        "metadata": {
            "name": "x",
            "namespace": "n",
            "annotations": {APPLIED_HASH_ANNOTATION: "1", **dict.fromkeys(names, "")},
            "labels": {**dict.fromkeys(names, ""), **child_labels("news")},
            "managedFields": [
                {"manager": "a", "fieldsV1": {f"f:{name}": {} for name in names}},
                {"manager": "qwen-operator", "operation": "Apply", "fieldsV1": {f"f:{name}": {} for name in names}},
                *({"manager": f"m{number}"} for number in range(1_000)),
            ],
        },
        "data": {"a": "x" * 100_000},
    }
    kept = keeper(CONFIG_MAPS)(filled)
    assert size(kept) < 10_000
    assert kept["metadata"]["annotations"] == {APPLIED_HASH_ANNOTATION: "1"}
    assert is_ours(kept, service())
    assert len(kept["metadata"]["labels"]) <= MAX_LABELS + len(child_labels("news"))


def test_nobody_reads_who_set_the_fields_of_a_pod_or_a_service() -> None:
    records = [{"manager": "qwen-operator", "fieldsV1": {"f:x": {}}}]
    for resource in (PODS, QWEN_SERVICES):
        kept = keeper(resource)({"metadata": {"name": "x", "managedFields": records}, "spec": {"a": 1}})
        assert "managedFields" not in kept["metadata"]
    assert keeper(QWEN_SERVICES)({"metadata": {"name": "x"}, "spec": {"a": 1}})["spec"] == {"a": 1}


def test_a_pod_keeps_what_the_status_and_remediation_read() -> None:
    found = pod(scheduled=True, gate=False, server=crashed(70, "the engine died"), podIP="10.0.0.1")
    sidecar = {"name": "proxy", "restartPolicy": "Always", "env": [{"name": "A"}] * 9_999}
    found["spec"] = {
        "nodeName": "node",
        "readinessGates": [{"conditionType": "x"}],
        "containers": [{"name": "server", "ports": [{"name": "http", "containerPort": 8000}], "args": ["x" * 9_999]}],
        "initContainers": [sidecar],
        "volumes": [{"name": "v"}] * 9_999,
    }
    kept = keeper(PODS)(found)
    assert (diagnose(kept), is_held_up(kept)) == (diagnose(found), is_held_up(found))
    assert kept["status"] == found["status"]
    assert kept["spec"] == {
        "nodeName": "node",
        "readinessGates": [{"conditionType": "x"}],
        "containers": [{"name": "server", "ports": [{"name": "http", "containerPort": 8000}]}],
        "initContainers": [{"name": "proxy", "restartPolicy": "Always"}],
    }


def test_a_pod_of_thousands_of_containers_has_a_hundred() -> None:
    found = pod(scheduled=True)
    many: list[Any] = [{"name": f"c{number}"} for number in range(5_000)]
    found["spec"] = {"initContainers": many}
    found["status"]["initContainerStatuses"] = many
    kept = keeper(PODS)(found)
    assert len(kept["spec"]["initContainers"]) == len(kept["status"]["initContainerStatuses"]) == MAX_CONTAINERS


async def test_the_cache_of_filled_objects_is_small(kube: KubeClient, server: Server) -> None:
    names = [f"example.org/{number}" for number in range(10_000)]
    metadata = {"namespace": "n", "resourceVersion": "1", "labels": child_labels("news")}
    text = json.dumps(
        {
            "annotations": dict.fromkeys(names, ""),
            "managedFields": [{"manager": "a", "fieldsV1": {f"f:{name}": {} for name in names}}],
        }
    )
    items = ",".join(
        f'{{"metadata":{{{json.dumps({**metadata, "name": str(number), "uid": str(number)})[1:-1]},{text[1:-1]}}}}}'
        for number in range(20)
    )
    body = f'{{"metadata":{{"resourceVersion":"9"}},"items":[{items}]}}'.encode()
    over = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.query.get("watch"):
            await over.wait()
        return web.Response(body=body)

    server.answer = answer
    informer = Informer(kube, SERVICES, (), lambda _: None)
    gc.collect()
    tracemalloc.start()
    task = asyncio.create_task(informer.run())
    try:
        await asyncio.wait_for(informer.synced.wait(), 20)
        gc.collect()
        assert len(informer.objects) == 20
        assert tracemalloc.get_traced_memory()[0] < 4 * MIB
    finally:
        tracemalloc.stop()
        over.set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

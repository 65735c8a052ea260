"""Which revision is the newest, whatever ReplicaSets a namespace has."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from qwen_operator.kube.client import KubeClient
from qwen_operator.remediation.revisions import MAX_REPLICA_SETS, Revisions, newest_hash
from tests.unit.qwen_operator.kube_server import Server, refusal

Object = dict[str, Any]
KEY = ("n", "news")
DEPLOYMENT: Object = {"metadata": {"name": "news", "uid": "ours"}}


def replica_set(owner: str, revision: int) -> Object:
    return {
        "metadata": {
            "ownerReferences": [{"kind": "Deployment", "name": "news", "uid": owner}],
            "annotations": {"deployment.kubernetes.io/revision": str(revision)},
            "labels": {"pod-template-hash": f"hash-{owner}-{revision}"},
        }
    }


class ReplicaSets:
    """An API server with ReplicaSets, which it lists in pages."""

    def __init__(self, *items: Object) -> None:
        self.items = items

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        assert request.path == "/apis/apps/v1/namespaces/n/replicasets"
        assert "qwen-vllm.io/service=news" in request.query["labelSelector"]
        limit, start = int(request.query["limit"]), int(request.query.get("continue", 0))
        following = {"continue": str(start + limit)} if start + limit < len(self.items) else {}
        metadata = {"resourceVersion": "7", **following}
        return web.json_response({"metadata": metadata, "items": self.items[start : start + limit]})


async def test_the_newest_revision_is_that_of_our_own_deployment(server: Server, kube: KubeClient) -> None:
    server.answer = ReplicaSets(replica_set("former", 9), replica_set("ours", 2), replica_set("ours", 10))
    assert await newest_hash(kube, KEY, DEPLOYMENT) == "hash-ours-10"
    assert await newest_hash(kube, KEY, None) is None


async def test_a_bounded_number_of_replica_sets_is_read(server: Server, kube: KubeClient) -> None:
    few = [replica_set("ours", number) for number in range(MAX_REPLICA_SETS)]
    server.answer = ReplicaSets(*few)
    assert await newest_hash(kube, KEY, DEPLOYMENT) == f"hash-ours-{MAX_REPLICA_SETS - 1}"
    server.answer = ReplicaSets(*few, *(replica_set("other", number) for number in range(5_000)))
    assert await newest_hash(kube, KEY, DEPLOYMENT) is None
    assert len(server.asked) == 2


async def test_the_newest_revision_is_not_known_if_it_cannot_be_read(server: Server, kube: KubeClient) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return refusal(500)

    server.answer = answer
    assert await newest_hash(kube, KEY, DEPLOYMENT) is None


async def test_the_newest_revision_is_read_once_for_each_state_of_a_deployment(
    server: Server, kube: KubeClient
) -> None:
    server.answer = ReplicaSets(replica_set("ours", 1), replica_set("ours", 2))
    pods = [{"metadata": {"labels": {"pod-template-hash": name}}} for name in ("hash-ours-1", "hash-ours-2")]
    seen = Revisions(kube)
    assert await seen.newest(KEY, pods[:1], DEPLOYMENT) is None
    assert server.asked == []
    for observed, reads in ((1, 1), (1, 2), (2, 3), (2, 3)):  # its controller has not seen generation 2 at first
        live = {"metadata": {**DEPLOYMENT["metadata"], "generation": 2}, "status": {"observedGeneration": observed}}
        assert await seen.newest(KEY, pods, live) == "hash-ours-2"
        assert len(server.asked) == reads

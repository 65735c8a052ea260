"""What the operator looks up about objects of others, and when it reports a change."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from qwen_operator.kube.cache import ClusterCache
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.surroundings import Surroundings
from tests.unit.qwen_operator.kube_server import Server, refusal

Object = dict[str, Any]

PROMETHEUS: Object = {
    "metadata": {"name": "main", "namespace": "monitoring", "labels": {"a": "b"}},
    "spec": {"serviceMonitorSelector": {}, "replicas": 2},
}
NGINX: Object = {"metadata": {"name": "nginx"}}
TRAEFIK: Object = {
    "metadata": {"name": "traefik", "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}}
}


class Cluster:
    """The objects that are listed, by kind. A number is the status of a refusal."""

    def __init__(self) -> None:
        self.lists: dict[str, list[Object] | int] = {"prometheuses": [PROMETHEUS], "ingressclasses": [NGINX, TRAEFIK]}

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        found = self.lists.get(request.path.rpartition("/")[2], 404)
        if isinstance(found, int):
            return refusal(found)
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": found})


@pytest.fixture
def cluster(server: Server) -> Cluster:
    server.answer = answer = Cluster()
    return answer


async def test_what_matters_is_kept_and_a_change_is_reported_once(cluster: Cluster, kube: KubeClient) -> None:
    seen = Surroundings(kube)
    assert await seen.look()
    assert seen.prometheuses == [
        {"metadata": {"name": "main", "namespace": "monitoring"}, "spec": {"serviceMonitorSelector": {}}}
    ]
    assert seen.ingress_classes == {"nginx": False, "traefik": True}
    cluster.lists["prometheuses"] = [{**PROMETHEUS, "status": {"replicas": 2}}]
    assert not await seen.look()
    cluster.lists["ingressclasses"] = [NGINX]
    assert await seen.look()
    assert seen.ingress_classes == {"nginx": False}


@pytest.mark.parametrize("status", [401, 403, 404, 500])
async def test_what_cannot_be_listed_is_unknown(cluster: Cluster, kube: KubeClient, status: int) -> None:
    cluster.lists = {"prometheuses": status, "ingressclasses": status}
    seen = Surroundings(kube)
    assert not await seen.look()
    assert (seen.prometheuses, seen.ingress_classes) == (None, None)


@pytest.mark.parametrize("status", [401, 403, 429, 500])
async def test_a_failure_of_a_moment_changes_nothing(cluster: Cluster, kube: KubeClient, status: int) -> None:
    seen = Surroundings(kube)
    await seen.look()
    cluster.lists = {"prometheuses": status, "ingressclasses": status}
    assert not await seen.look()
    assert seen.prometheuses
    assert seen.ingress_classes


async def test_an_api_that_was_removed_leaves_nothing(cluster: Cluster, kube: KubeClient) -> None:
    seen = Surroundings(kube)
    await seen.look()
    cluster.lists = {"prometheuses": 404, "ingressclasses": 404}
    assert await seen.look()
    assert (seen.prometheuses, seen.ingress_classes) == (None, None)


async def test_without_a_prometheus_object_others_may_read_service_monitors(cluster: Cluster, kube: KubeClient) -> None:
    seen = Surroundings(kube)
    cluster.lists = {"prometheuses": [], "ingressclasses": []}
    await seen.look()
    assert (seen.prometheuses, seen.ingress_classes) == (None, {})


async def test_a_change_makes_every_service_due(cluster: Cluster, kube: KubeClient) -> None:
    reported: list[str] = []
    cache = ClusterCache(
        kube, (), on_child=lambda _: None, on_pod=lambda _: None, on_api=lambda: reported.append("changed")
    )
    await cache.discover()
    await cache.discover()
    assert reported == ["changed"]
    cluster.lists["prometheuses"] = 404
    await cache.discover()
    assert reported == ["changed", "changed"]


async def test_the_labels_of_namespaces_are_read_if_a_prometheus_asks_for_them(
    cluster: Cluster, kube: KubeClient
) -> None:
    cluster.lists["namespaces"] = [{"metadata": {"name": "a", "labels": {"team": "x"}}}, {"metadata": {"name": "b"}}]
    seen = Surroundings(kube)
    await seen.look()
    assert seen.namespaces == {}
    spec = {"ruleSelector": {}, "ruleNamespaceSelector": {"matchLabels": {"team": "x"}}}
    cluster.lists["prometheuses"] = [{**PROMETHEUS, "spec": spec}]
    assert await seen.look()
    assert seen.namespaces == {"a": {"team": "x"}, "b": {}}
    assert seen.prometheuses is not None
    assert seen.prometheuses[0]["spec"] == spec


async def test_without_the_right_to_list_namespaces_their_labels_are_unknown(
    cluster: Cluster, kube: KubeClient
) -> None:
    spec = {"serviceMonitorSelector": {}, "serviceMonitorNamespaceSelector": {"matchLabels": {"team": "x"}}}
    cluster.lists = {"prometheuses": [{**PROMETHEUS, "spec": spec}], "ingressclasses": [], "namespaces": 403}
    seen = Surroundings(kube)
    await seen.look()
    assert seen.prometheuses
    assert seen.namespaces == {}

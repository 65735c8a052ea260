"""Applying children: what is refused or belongs to somebody else holds back nothing but itself."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from qwen_operator.api import QwenService
from qwen_operator.api.objects import Key
from qwen_operator.children import TAKEN_SECONDS, Children
from qwen_operator.kube.errors import ConflictError, ForbiddenError, InvalidError, KubeError, NotFoundError
from qwen_operator.kube.resources import Resource
from tests.unit.qwen_operator.objects import Object, planned, service

KEY: Key = ("default", "news")
FULL = service(
    networkPolicy={"enabled": True}, cache={"size": "1Gi"}, route={"parentRefs": [{"name": "gateway"}]}, replicas=2
)


class Cluster:
    """The API server and the cache of what it has.

    `listed` says whether the cache has listed the objects.
    """

    def __init__(self, *, listed: bool = True) -> None:
        self.listed = listed
        self.objects: dict[tuple[str, str], Object] = {}
        self.refused: dict[str, KubeError] = {}
        self.calls: list[tuple[str, str]] = []

    async def get(self, resource: Resource, name: str, namespace: str) -> Object:
        assert namespace == KEY[0]
        self.calls.append(("get", resource.kind))
        if (resource.kind, name) not in self.objects:
            raise NotFoundError(404, "not found")
        return self.objects[(resource.kind, name)]

    async def apply(self, obj: Object, *, new: bool = False) -> Object:
        self.calls.append(("create" if new else "apply", obj["kind"]))
        if new and (obj["kind"], obj["metadata"]["name"]) in self.objects:
            raise ConflictError(409, "another version")
        refusal = self.refused.get(obj["kind"])
        if refusal is not None and "bad" in str(obj):
            raise refusal
        applied = copy.deepcopy(obj)
        self.objects[(obj["kind"], obj["metadata"]["name"])] = applied
        return applied

    def child(self, resource: Resource, _: str, name: str) -> Object | None:
        found = self.objects.get((resource.kind, name))
        labelled = found is not None and "app.kubernetes.io/managed-by" in found["metadata"].get("labels", {})
        return found if labelled else None

    def knows(self, *_: Any) -> bool:
        return self.listed

    def store_child(self, *_: Any) -> None:
        """What was applied is known already."""

    def pods(self, _: Key) -> list[Object]:
        return []

    def kinds(self, *names: str) -> list[str]:
        """The kinds of these calls, of all writes without a name."""
        return [kind for name, kind in self.calls if name in (names or ("apply", "create"))]


async def apply(cluster: Cluster, subject: QwenService, again: list[float] | None = None) -> list[tuple[str, str]]:
    """Applies the plan. Returns reason and kind of the errors."""
    fake: Any = cluster
    children = Children(fake, fake, lambda _, seconds: None if again is None else again.append(seconds))
    todo = planned(subject, has_http_route=True)
    errors, _ = await children.apply(KEY, subject, todo.children)
    return [(error.reason, error.kind) for error in errors]


def taken(kind: str, name: str = "news") -> tuple[tuple[str, str], Object]:
    return (kind, name), {"kind": kind, "metadata": {"name": name, "uid": "x"}, "spec": {"template": {"metadata": {}}}}


async def test_each_new_child_costs_one_request() -> None:
    cluster = Cluster()
    assert await apply(cluster, FULL) == []
    assert cluster.calls == [("create", child["kind"]) for child in planned(FULL, has_http_route=True).children]
    assert all("resourceVersion" not in child["metadata"] for child in cluster.objects.values())


async def test_what_the_cache_has_not_listed_is_read_first() -> None:
    cluster = Cluster(listed=False)
    assert await apply(cluster, FULL) == []
    kinds = [child["kind"] for child in planned(FULL, has_http_route=True).children]
    assert cluster.calls == [(call, kind) for kind in kinds for call in ("get", "create")]


async def test_our_child_that_lost_its_labels_is_found_and_gets_them_back() -> None:
    cluster = Cluster()
    await apply(cluster, FULL)
    labels = cluster.objects[("Service", "news")]["metadata"].pop("labels")
    cluster.calls.clear()
    assert await apply(cluster, FULL) == []
    assert [call for call in cluster.calls if call[1] == "Service"] == [
        ("create", "Service"),
        ("get", "Service"),
        ("apply", "Service"),
    ]
    assert cluster.objects[("Service", "news")]["metadata"]["labels"] == labels


async def test_a_child_that_is_deleted_while_it_is_looked_at_is_made() -> None:
    class Deleting(Cluster):
        async def get(self, resource: Resource, name: str, namespace: str) -> Object:
            self.objects.pop((resource.kind, name), None)
            return await super().get(resource, name, namespace)

    cluster = Deleting()
    cluster.objects.update([taken("Service")])
    assert await apply(cluster, FULL) == []
    assert cluster.objects[("Service", "news")]["metadata"]["labels"]


async def test_an_object_of_somebody_else_is_left_and_looked_at_again() -> None:
    cluster, again = Cluster(), list[float]()
    key, theirs = taken("Deployment")
    cluster.objects[key] = copy.deepcopy(theirs)
    assert await apply(cluster, FULL, again) == [("NameTaken", "Deployment")]
    assert TAKEN_SECONDS in again
    assert cluster.objects[key] == theirs
    assert "Deployment" not in cluster.kinds("apply")
    assert {"Service", "ConfigMap", "NetworkPolicy", "HTTPRoute"} <= set(cluster.kinds())


async def test_a_name_that_was_taken_is_read_before_the_next_try() -> None:
    cluster = Cluster()
    key, theirs = taken("Service")
    cluster.objects[key] = theirs
    fake: Any = cluster
    seconds = 0.0
    children = Children(fake, fake, lambda *_: None, clock=lambda: seconds)
    todo = [child for child in planned(FULL).children if child["kind"] == "Service"]
    for _ in range(2):
        errors, _failure = await children.apply(KEY, FULL, todo)
        assert [error.reason for error in errors] == ["NameTaken"]
        seconds += TAKEN_SECONDS
    assert [call for call, _ in cluster.calls] == ["create", "get", "get"]
    del cluster.objects[key]
    assert await children.apply(KEY, FULL, todo) == ([], None)
    assert [call for call, _ in cluster.calls[3:]] == ["get", "create"]


async def test_no_route_leads_to_a_service_of_somebody_else() -> None:
    cluster = Cluster()
    cluster.objects.update([taken("Service")])
    assert await apply(cluster, FULL) == [("NameTaken", "Service")]
    assert "HTTPRoute" not in cluster.kinds()
    assert "Deployment" in cluster.kinds()


@pytest.mark.parametrize(("kind", "name"), [("ConfigMap", "news-alerts"), ("PersistentVolumeClaim", "news-cache")])
async def test_no_pods_are_made_that_would_mount_what_somebody_else_has(kind: str, name: str) -> None:
    cluster = Cluster()
    cluster.objects.update([taken(kind, name)])
    assert await apply(cluster, FULL) == [("NameTaken", kind)]
    assert "Deployment" not in cluster.kinds()


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [(InvalidError(422, "spec.template.spec: bad"), "InvalidPodTemplate"), (ForbiddenError(403, "no"), "ApplyFailed")],
)
async def test_a_refused_template_does_not_hold_back_replicas(refusal: KubeError, reason: str) -> None:
    cluster = Cluster()
    await apply(cluster, FULL)
    cluster.refused["Deployment"] = refusal
    bad = service(replicas=5, podTemplate={"spec": {"schedulerName": "bad"}}, networkPolicy={"enabled": True})
    assert await apply(cluster, bad) == [(reason, "Deployment")]
    kept = cluster.objects[("Deployment", "news")]
    assert kept["spec"]["replicas"] == 5
    assert "bad" not in str(kept)
    assert cluster.kinds()[-2:] == ["PodDisruptionBudget", "NetworkPolicy"]


class WithoutImages(Cluster):
    """An API server with the feature gate ImageVolume off: it drops these volumes silently."""

    def __init__(self, *, supports: bool = False) -> None:
        super().__init__()
        self.supports = supports

    async def apply(self, obj: Object, *, new: bool = False, dry_run: bool = False) -> Object:
        if not dry_run:
            return await super().apply(obj, new=new)
        self.calls.append(("try", obj["kind"]))
        answer = copy.deepcopy(obj)
        spec = answer["spec"]["template"]["spec"]
        spec["volumes"] = [volume for volume in spec["volumes"] if self.supports or "image" not in volume]
        return answer


IMAGE = {"source": {"builtin": None, "image": {"reference": "registry/news:1"}}}


async def test_a_cluster_that_drops_image_volumes_is_named_and_no_pods_are_made_without_their_model() -> None:
    cluster = WithoutImages()
    assert await apply(cluster, service(model=IMAGE)) == [("ImageVolumeUnsupported", "Deployment")]
    assert ("Deployment", "news") not in cluster.objects
    assert "Deployment" not in cluster.kinds()


async def test_pods_keep_their_model_if_a_spec_asks_for_an_image_volume_that_would_be_dropped() -> None:
    cluster = WithoutImages()
    await apply(cluster, service())
    before = cluster.objects[("Deployment", "news")]["spec"]["template"]
    assert await apply(cluster, service(model=IMAGE, replicas=3)) == [("ImageVolumeUnsupported", "Deployment")]
    after = cluster.objects[("Deployment", "news")]["spec"]
    assert (after["template"], after["replicas"]) == (before, 3)


async def test_image_volumes_are_tried_before_they_are_written_and_others_are_not() -> None:
    cluster = WithoutImages(supports=True)
    assert await apply(cluster, service(model=IMAGE)) == []
    assert [name for name, kind in cluster.calls if kind == "Deployment"] == ["try", "create"]
    plain = WithoutImages(supports=True)
    await apply(plain, service())
    assert [name for name, kind in plain.calls if kind == "Deployment"] == ["create"]


async def test_a_cluster_that_does_not_know_image_volumes_is_named() -> None:
    class Older(WithoutImages):
        async def apply(self, obj: Object, *, new: bool = False, dry_run: bool = False) -> Object:
            if dry_run:
                raise InvalidError(500, '.spec.template.spec.volumes[name="model"].image: field not declared in schema')
            return await super().apply(obj, new=new)

    assert await apply(Older(), service(model=IMAGE)) == [("ImageVolumeUnsupported", "Deployment")]


async def test_an_orphan_is_adopted() -> None:
    cluster = Cluster()
    await apply(cluster, FULL)
    deployment = cluster.objects[("Deployment", "news")]
    owners = deployment["metadata"].pop("ownerReferences")
    assert await apply(cluster, FULL) == []
    assert cluster.objects[("Deployment", "news")]["metadata"]["ownerReferences"] == owners

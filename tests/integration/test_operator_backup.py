"""What docs/backup.md says: services that are restored, with or without their children."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.admin_api import QS, AdminApi, path, qwen_service
from tests.integration.control_plane import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("operator")]

CHILDREN = (
    ("v1", "configmaps", "news-alerts"),
    ("v1", "services", "news"),
    ("apps/v1", "deployments", "news"),
    ("policy/v1", "poddisruptionbudgets", "news"),
)
# What the API server sets, and what is meaningless or taken in another cluster.
NOT_RESTORED = ("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "ownerReferences")


def backup(found: dict[str, Any] | None) -> dict[str, Any]:
    """An object as backup tools restore it."""
    assert found is not None
    metadata = {key: value for key, value in found["metadata"].items() if key not in NOT_RESTORED}
    kept = {key: value for key, value in found.items() if key != "status"}
    if found["kind"] == "Service":
        kept["spec"] = {key: value for key, value in found["spec"].items() if key not in ("clusterIP", "clusterIPs")}
    return {**kept, "metadata": metadata}


def restore(api: AdminApi, api_version: str, plural: str, obj: dict[str, Any]) -> None:
    api.plane.request("POST", path(api_version, plural, api.namespace), obj)


def lost(api: AdminApi) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A service with its children, which then are gone; a backup of them is returned."""
    api.create(qwen_service(replicas=2))
    wait_until("all children", lambda: all(api.get(*child) for child in CHILDREN))
    wait_until("the status has settled", lambda: api.status().get("replicas") == 2)
    service, children = backup(api.service()), [backup(api.get(*child)) for child in CHILDREN]
    api.delete(QS, "qwenservices", "news")
    # The garbage collector of a new control plane finds definitions only every 30 seconds.
    wait_until("all are gone", lambda: not any(api.get(*child) for child in CHILDREN) and not api.pods(), 60)
    return service, children


def owners(api: AdminApi, child: tuple[str, str, str]) -> list[str]:
    found = api.get(*child)
    return [] if found is None else [owner["uid"] for owner in found["metadata"].get("ownerReferences", ())]


def test_a_service_alone_is_enough_of_a_backup(api: AdminApi) -> None:
    service, _ = lost(api)
    restore(api, QS, "qwenservices", service)
    uid = api.service()["metadata"]["uid"]
    wait_until("all children", lambda: all(owners(api, child) == [uid] for child in CHILDREN))


def test_children_that_were_restored_before_their_service_are_adopted(api: AdminApi) -> None:
    service, children = lost(api)
    for (api_version, plural, _), obj in zip(CHILDREN, children, strict=True):
        restore(api, api_version, plural, obj)
    wait_until("the pods are back", lambda: len(api.pods()) == 2)
    deployment = api.deployment()
    assert deployment is not None
    assert not any(owners(api, child) for child in CHILDREN)
    restore(api, QS, "qwenservices", service)
    uid = api.service()["metadata"]["uid"]
    wait_until("the children are owned", lambda: all(owners(api, child) == [uid] for child in CHILDREN))
    after = api.deployment()
    assert after is not None
    assert after["metadata"]["uid"] == deployment["metadata"]["uid"]
    assert after["spec"]["template"] == deployment["spec"]["template"]
    assert len(api.pods()) == 2


def test_a_new_service_does_not_take_the_number_of_a_deleted_one(api: AdminApi) -> None:
    """The Deployment of the deleted one may be there for a while, here because of a finalizer."""
    api.create(qwen_service(replicas=0))
    wait_until("no replicas", lambda: (api.deployment() or {}).get("spec", {}).get("replicas") == 0)
    where = ("apps/v1", "deployments", "news")
    api.patch(*where, {"metadata": {"finalizers": ["example.com/backup"]}})
    api.delete(QS, "qwenservices", "news")
    wait_until("it is gone", lambda: api.get(QS, "qwenservices", "news") is None)
    api.create(qwen_service())
    wait_until("the reason", lambda: api.condition("Ready").get("reason") == "NameTaken")
    assert "belongs to a deleted QwenService of this name" in api.condition("Ready")["message"]
    assert api.service()["spec"].get("replicas") == 1
    api.patch(*where, {"metadata": {"finalizers": None}})
    wait_until("its own", lambda: (api.deployment() or {}).get("spec", {}).get("replicas") == 1, seconds=120)
    assert api.service()["spec"]["replicas"] == 1

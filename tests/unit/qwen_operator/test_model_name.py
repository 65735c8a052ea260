"""status.model is the name that clients can use now."""

from __future__ import annotations

import copy

from qwen_operator.kube.projection import keeper
from qwen_operator.kube.resources import PODS
from tests.unit.qwen_operator.objects import READY_POD, Object, crashed, pod, pod_spec, service
from tests.unit.qwen_operator.statuses import status_of

BROKEN = pod("news-2", server=crashed(78, "unrecognized arguments: --nonsense"))


def named(name: str, given: Object, created: str) -> Object:
    """A pod that serves a model by this name, as the cache keeps it."""
    found = copy.deepcopy(given)
    found["metadata"] |= {"uid": f"uid-{name}", "creationTimestamp": created}
    return keeper(PODS)({**found, "spec": pod_spec(service(model={"servedName": name}))})


def model_of(*pods: Object) -> str:
    return status_of(*pods, subject=service(model={"servedName": "new"})).model


def test_the_old_name_stays_until_the_new_one_is_served_alone() -> None:
    old, new = named("old", READY_POD, "2026-01-02T03:00:00Z"), named("new", READY_POD, "2026-01-02T03:01:00Z")
    assert model_of() == model_of(new) == model_of(READY_POD) == "new"
    assert model_of(named("new", BROKEN, "2026-01-02T03:01:00Z"), old) == "old"
    assert model_of(new, old) == "old"


def test_a_pod_that_never_served_keeps_no_name() -> None:
    old, new = named("old", BROKEN, "2026-01-02T03:00:00Z"), named("new", READY_POD, "2026-01-02T03:01:00Z")
    assert model_of(old, new) == "new"


def test_an_old_pod_that_is_not_ready_for_a_moment_keeps_its_name() -> None:
    old = named("old", pod(ready=False, server={"ready": False}), "2026-01-02T03:00:00Z")
    assert model_of(named("new", BROKEN, "2026-01-02T03:01:00Z"), old) == "old"

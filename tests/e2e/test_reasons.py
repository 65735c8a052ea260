"""Why a service is not ready, as the real scheduler, kubelet and controllers report it.

Each scene waits until Kubernetes shows the fact and gives the operator five seconds from there.
Some scenes are played at a time, each in a namespace of its own, because they mostly wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from tests.cluster import images
from tests.cluster.clusters import for_tests
from tests.cluster.settings import Settings
from tests.e2e import scripted_pods
from tests.e2e.facts import (
    FACT_SECONDS,
    NAME,
    REASON_SECONDS,
    Fact,
    ended,
    expect,
    has_event,
    no_pods_created,
    statuses,
    unschedulable,
    waits_for,
)
from tests.e2e.kubectl import Kubectl, Object, wait_for
from tests.e2e.monitored import own_namespace
from tests.e2e.scripted_pods import scripted_service
from tests.e2e.services import qwen_service

pytestmark = pytest.mark.cluster

AT_A_TIME = 3

# Nothing listens there, and no name has to be resolved.
NO_REGISTRY = "127.0.0.1:1/nobody/serves:this"


@dataclass(frozen=True)
class Case:
    """A fault of a spec or a namespace, how Kubernetes shows it, and what the status must say."""

    id: str
    reason: str
    fact: Fact
    says: str
    spec: dict[str, Any] = field(default_factory=dict)
    objects: tuple[Object, ...] = ()


def pod(**spec: Any) -> dict[str, Any]:
    """A podTemplate that is merged into the operator's."""
    return {"podTemplate": {"spec": spec}}


NO_PODS = {
    "apiVersion": "v1",
    "kind": "ResourceQuota",
    "metadata": {"name": "no-pods"},
    "spec": {"hard": {"pods": "0"}},
}
UNBOUND = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "unbound"},
    "spec": {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "nobodys",
        "resources": {"requests": {"storage": "1Gi"}},
    },
}
SECRET_KEY = {"secretKeyRef": {"name": "lost-secret", "key": "token"}}
CONFIG_KEY = {"configMapKeyRef": {"name": "lost-map", "key": "level"}}
CONFIG_VOLUME = {"name": "extra", "configMap": {"name": "lost-map"}}
CONFIG_MOUNT = {"name": "extra", "mountPath": "/extra"}

CASES = (
    Case(
        "ImagePullError",
        "ImagePullError",
        waits_for("ErrImagePull", "ImagePullBackOff"),
        NO_REGISTRY,
        {"engine": {"device": "cpu", "image": NO_REGISTRY}},
    ),
    Case(
        "ContainerConfigError-secret-as-env",
        "ContainerConfigError",
        waits_for("CreateContainerConfigError"),
        '"lost-secret"',
        {"engine": {"device": "cpu", "env": [{"name": "TOKEN", "valueFrom": SECRET_KEY}]}},
    ),
    Case(
        "ContainerConfigError-configmap-as-env",
        "ContainerConfigError",
        waits_for("CreateContainerConfigError"),
        '"lost-map"',
        {"engine": {"device": "cpu", "env": [{"name": "LEVEL", "valueFrom": CONFIG_KEY}]}},
    ),
    Case(
        "ContainerConfigError-secret-as-volume",
        "ContainerConfigError",
        has_event("FailedMount"),
        '"lost-keys"',
        {"auth": {"apiKeySecretRef": {"name": "lost-keys"}}},
    ),
    Case(
        "ContainerConfigError-configmap-as-volume",
        "ContainerConfigError",
        has_event("FailedMount"),
        '"lost-map"',
        pod(volumes=[CONFIG_VOLUME], containers=[{"name": "server", "volumeMounts": [CONFIG_MOUNT]}]),
    ),
    Case(
        "VolumeNotBound",
        "VolumeNotBound",
        unschedulable,
        '"lost-claim"',
        {"model": {"source": {"pvc": {"claimName": "lost-claim"}}}},
    ),
    Case(
        "VolumeNotBound-unbound",
        "VolumeNotBound",
        unschedulable,
        "unbound",
        {"model": {"source": {"pvc": {"claimName": "unbound"}}}},
        objects=(UNBOUND,),
    ),
    Case(
        "OutOfMemory-container",
        "OutOfMemory",
        ended,
        "memory",
        # The server itself says beforehand that a limit is too low: ModelTooLarge.
        {
            **pod(containers=[{"name": "server", "command": ["python3", "-c", "b'x' * 10**9"]}]),
            "resources": {"requests": {"memory": "100Mi"}, "limits": {"memory": "150Mi"}},
        },
    ),
    Case(
        "ModelTooLarge",
        "ModelTooLarge",
        ended,
        "of which the programs take",
        {"resources": {"requests": {"memory": "100Mi"}, "limits": {"memory": "150Mi"}}},
    ),
    Case(
        "CrashLoopBackOff",
        "CrashLoopBackOff",
        waits_for("CrashLoopBackOff"),
        "exited with code 9",
        pod(containers=[{"name": "server", "command": ["sh", "-c", "exit 9"]}]),
    ),
    Case(
        "PodsRefused-quota",
        "PodsRefused",
        no_pods_created,
        "no-pods",
        objects=(NO_PODS,),
    ),
    # Each namespace of these tests enforces the restricted standard.
    Case(
        "PodsRefused-pod-security",
        "PodsRefused",
        no_pods_created,
        "hostNetwork",
        pod(hostNetwork=True),
    ),
)


CONTAINERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("InitContainerFailed", {"name": "prepare", "command": ["sh", "-c", "echo no disk; exit 3"]}),
    (
        "SidecarFailed",
        {"name": "proxy", "restartPolicy": "Always", "command": ["sh", "-c", "echo no upstream; exit 3"]},
    ),
)
ENGINE_WITHOUT_MEMORY, LOADING = "OutOfMemory-engine", "ModelLoading"
Scene = Callable[[Kubectl], None]


def fault(case: Case, kubectl: Kubectl) -> None:
    if case.objects:
        kubectl.apply(*case.objects)
    kubectl.apply(qwen_service(NAME, **case.spec))
    expect(kubectl, case.reason, case.fact, case.says)


def failing_container(reason: str, container: dict[str, Any], image: str, kubectl: Kubectl) -> None:
    own = {
        **container,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    kubectl.apply(qwen_service(NAME, **pod(initContainers=[own])))
    words = str(container["command"][-1]).split(";")[0].removeprefix("echo ")
    expect(kubectl, reason, waits_for("CrashLoopBackOff"), f"container {container['name']} exited with code 3", words)


def engine_without_memory(kubectl: Kubectl) -> None:
    scripted_pods.install(kubectl)
    kubectl.apply(scripted_service(NAME, start_failure="CUDA out of memory. Tried to allocate 20.00 GiB"))
    expect(kubectl, "OutOfMemory", ended, "Tried to allocate 20.00 GiB", "gpuMemoryUtilization")


def loading(kubectl: Kubectl) -> None:
    scripted_pods.install(kubectl)
    kubectl.apply(scripted_service(NAME, start_seconds=600))
    wait_for(lambda: runs(kubectl), FACT_SECONDS, "the server's container does not run")
    kubectl.wait_reason(NAME, "Ready", "ModelLoading", REASON_SECONDS)
    message = kubectl.condition(NAME, "Ready")["message"]
    assert "since" in message
    assert "It may take until" in message
    assert kubectl.condition(NAME, "Degraded")["status"] == "False"


def runs(kubectl: Kubectl) -> bool:
    return any("running" in item["state"] for pod in kubectl.pods(NAME) for item in statuses(pod))


def play(cluster: Settings, name: str, scene: Scene) -> None:
    with own_namespace(cluster, name.lower()) as kubectl:
        scene(kubectl)


@pytest.fixture(scope="module")
def played(cluster: Settings) -> Iterator[Mapping[str, Future[None]]]:
    """The scenes by their names. The result of one is there when it is over."""
    image = for_tests(cluster).reference(images.SERVER)
    scenes: dict[str, Scene] = {ENGINE_WITHOUT_MEMORY: engine_without_memory, LOADING: loading}
    scenes.update((case.id, partial(fault, case)) for case in CASES)
    scenes.update((reason, partial(failing_container, reason, own, image)) for reason, own in CONTAINERS)
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        yield {name: pool.submit(play, cluster, name, scene) for name, scene in scenes.items()}
        pool.shutdown(cancel_futures=True)  # of those that an interrupted run leaves


@pytest.mark.parametrize("name", [case.id for case in CASES])
def test_reason_of_ready_comes_within_seconds(played: Mapping[str, Future[None]], name: str) -> None:
    played[name].result()


@pytest.mark.parametrize("name", [reason for reason, _ in CONTAINERS])
def test_reason_of_ready_names_the_container_that_fails(played: Mapping[str, Future[None]], name: str) -> None:
    played[name].result()


def test_reason_of_ready_is_out_of_memory_of_the_engine(played: Mapping[str, Future[None]]) -> None:
    played[ENGINE_WITHOUT_MEMORY].result()


def test_reason_of_ready_while_the_model_loads(played: Mapping[str, Future[None]]) -> None:
    played[LOADING].result()

"""What the node does to pods: it is lost, it evicts, it restarts what never starts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster import images
from tests.cluster.clusters import Local
from tests.cluster.settings import Settings
from tests.e2e import scripted_pods
from tests.e2e.kubectl import Kubectl, wait_for
from tests.e2e.scripted_pods import scripted_service

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NAME = "news"
# Until the node controller stops waiting for a silent kubelet, with its defaults.
LOST_SECONDS = 90
# The kubelet looks at the size of volumes once in so many seconds.
EVICTION_SECONDS = 120


@pytest.fixture(autouse=True)
def scripts(kubectl: Kubectl) -> None:
    scripted_pods.install(kubectl)


@contextmanager
def stopped_kubelet() -> Iterator[None]:
    """Stops the node's kubelet during the block. Containers go on."""
    [kubelet] = [
        int(folder.name)
        for folder in Path("/proc").iterdir()
        if folder.name.isdigit() and program_of(folder) == "kubelet"
    ]
    os.kill(kubelet, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(kubelet, signal.SIGCONT)


def program_of(process: Path) -> str:
    try:
        return (process / "exe").readlink().name
    except OSError:
        return ""


def test_node_lost(kubectl: Kubectl) -> None:
    kubectl.apply(scripted_service(NAME))
    kubectl.wait_ready(NAME, timeout=120)
    [pod] = kubectl.pods(NAME)
    node = pod["spec"]["nodeName"]
    with stopped_kubelet():
        wait_for(lambda: ready_status(kubectl, node) == "Unknown", LOST_SECONDS, "the node is not lost")
        assert f"node {node}" in kubectl.wait_reason(NAME, "Ready", "NodeLost", 5)
        assert kubectl.condition(NAME, "Ready")["status"] == "False"
    kubectl.wait_ready(NAME, timeout=120)
    assert [found["metadata"]["uid"] for found in kubectl.pods(NAME)] == [pod["metadata"]["uid"]]


def ready_status(kubectl: Kubectl, node: str) -> str:
    conditions = kubectl.get("node", node)["status"]["conditions"]
    return next(str(item["status"]) for item in conditions if item["type"] == "Ready")


def test_evicted(kubectl: Kubectl, cluster: Settings) -> None:
    service = scripted_service(NAME)
    template = service["spec"]["podTemplate"]["spec"]
    template["volumes"].append({"name": "small", "emptyDir": {"sizeLimit": "1Mi"}})
    filler = {
        "name": "filler",
        "image": Local(cluster).reference(images.SERVER),
        "command": ["sh", "-c", "head -c 20000000 /dev/zero > /small/file; sleep 3600"],
        "volumeMounts": [{"name": "small", "mountPath": "/small"}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    template["containers"].append(filler)
    kubectl.apply(service)
    wait_for(lambda: was_evicted(kubectl), EVICTION_SECONDS, "the kubelet evicts no pod")
    assert "exceeds the limit" in kubectl.wait_reason(NAME, "Degraded", "Evicted", 5)


def was_evicted(kubectl: Kubectl) -> bool:
    return any(pod["status"].get("reason") == "Evicted" for pod in kubectl.pods(NAME))


def test_startup_timeout_and_rollout_stalled(kubectl: Kubectl) -> None:
    rollout = {"minReadySeconds": 0, "startupTimeout": "15s"}
    kubectl.apply(scripted_service(NAME, start_seconds=600, rollout=rollout))
    assert "startupTimeout" in kubectl.wait_reason(NAME, "Ready", "StartupTimeout", 120)
    message = kubectl.wait_reason(NAME, "Progressing", "RolloutStalled", 300)
    assert "startupTimeout" in message
    assert kubectl.condition(NAME, "Degraded")["status"] == "True"
    # A spec that starts ends it.
    kubectl.apply(scripted_service(NAME, rollout=rollout))
    kubectl.wait_ready(NAME, timeout=120)
    assert kubectl.condition(NAME, "Progressing")["reason"] != "RolloutStalled"

"""The reason of `Ready` on a real API server, for what a kubelet and the node controller report."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.integration.admin_api import STRATEGIC, AdminApi, qwen_service
from tests.integration.control_plane import wait_until
from tests.integration.fake_pods import FakePodServers

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("operator")]

NODE = "node-1"


def stamp(ago: float = 0.0) -> str:
    return (datetime.now(UTC) - timedelta(seconds=ago)).strftime("%Y-%m-%dT%H:%M:%SZ")


def schedule(api: AdminApi, name: str) -> None:
    """What the scheduler does."""
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"name": NODE}}
    api.plane.request("POST", f"/api/v1/namespaces/{api.namespace}/pods/{name}/binding", binding)


def report(api: AdminApi, name: str, **status: Any) -> None:
    api.patch("v1", "pods", name, {"status": status}, "status", kind=STRATEGIC)


def create_event(api: AdminApi, pod: str, reason: str, message: str) -> None:
    """An Event of the kubelet about a pod."""
    about = api.pod(pod)
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{pod}.{reason.lower()}"},
        "involvedObject": {"kind": "Pod", "name": pod, "namespace": api.namespace, "uid": about["metadata"]["uid"]},
        "type": "Warning",
        "reason": reason,
        "message": message,
        "firstTimestamp": stamp(),
        "lastTimestamp": stamp(),
        "count": 1,
    }
    api.plane.request("POST", f"/api/v1/namespaces/{api.namespace}/events", event)


def wait_for_reason(api: AdminApi, reason: str, seconds: float = 10.0) -> str:
    """Waits for the reason of Ready. Returns the message."""
    wait_until(reason, lambda: api.condition("Ready").get("reason") == reason, seconds=seconds)
    return str(api.condition("Ready")["message"])


def test_a_missing_secret_of_a_volume_is_reported_within_seconds(api: AdminApi) -> None:
    api.create(qwen_service())
    [pod] = api.started(1)
    schedule(api, pod)
    wait_for_reason(api, "Starting")
    create_event(api, pod, "FailedMount", 'MountVolume.SetUp failed for volume "api-keys" : secret "keys" not found')
    assert '"keys"' in wait_for_reason(api, "ContainerConfigError")
    [event] = wait_until("an event", lambda: api.events("ContainerConfigError"), seconds=10)
    assert event["type"] == "Warning"


def test_a_claim_that_a_pod_names_and_nobody_made_is_reported_within_seconds(api: AdminApi) -> None:
    gpu = {"resourceClaims": [{"name": "gpu", "resourceClaimName": "shared"}]}
    api.create(qwen_service(engine={"device": "cuda"}, gpu=gpu))
    api.started(1)
    assert 'resourceclaim "shared" not found' in wait_for_reason(api, "ResourceClaimMissing")


def test_a_pod_that_its_node_rejects_is_reported_although_the_next_one_waits(api: AdminApi) -> None:
    api.create(qwen_service())
    [pod] = api.started(1)
    schedule(api, pod)
    message = "Pod was rejected: Allocate failed due to no healthy devices present"
    report(api, pod, phase="Failed", reason="UnexpectedAdmissionError", message=message, startTime=stamp())
    wait_until("the next pod", lambda: len(api.pods()) == 2)
    assert "no healthy devices" in wait_for_reason(api, "PodRejected")
    assert api.condition("Degraded")["status"] == "True"


def test_a_pod_on_a_lost_node_is_reported(api: AdminApi, servers: FakePodServers) -> None:
    api.create(qwen_service())
    [pod] = api.started(1)
    schedule(api, pod)
    servers.add("10.0.0.1")
    api.run_pod(pod, "10.0.0.1")
    wait_until("the gate is open", lambda: api.gate(pod) == "True")
    api.run_pod(pod, "10.0.0.1")
    wait_for_reason(api, "Serving")
    time.sleep(1.1)  # times have whole seconds
    report(api, pod, conditions=[{"type": "Ready", "status": "False", "lastTransitionTime": stamp()}])
    assert NODE in wait_for_reason(api, "NodeLost")


def test_a_pod_before_its_first_probe_does_not_degrade_the_service(api: AdminApi) -> None:
    api.create(qwen_service())
    [pod] = api.started(1)
    schedule(api, pod)
    container = {
        "name": "server", "ready": False, "started": True, "restartCount": 0, "image": "i", "imageID": "",
        "state": {"running": {"startedAt": stamp()}},
    }  # fmt: skip
    unready = {"type": "ContainersReady", "status": "False", "lastTransitionTime": stamp(ago=5.0)}
    report(api, pod, phase="Running", containerStatuses=[container], conditions=[unready])
    wait_for_reason(api, "ProbePending")
    assert api.condition("Degraded")["status"] == "False"
    assert not api.events("EngineUnresponsive")

"""The reason of `Ready` on a real API server, for what a kubelet and the node controller report."""

from __future__ import annotations

import time
import urllib.error
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.integration.admin_api import MERGE, QS, STRATEGIC, AdminApi, qwen_service
from tests.integration.control_plane import wait_until
from tests.integration.fake_pods import FakePodServers
from tests.integration.operator_thread import OperatorThread

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
    [event] = wait_until("an event", lambda: api.events("ContainerConfigError"))
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


# Policies of a namespace.


def test_a_quota_on_requests_is_named_until_the_spec_requests_something(api: AdminApi) -> None:
    hard = {"requests.cpu": "4", "requests.memory": "8Gi", "limits.memory": "8Gi"}
    api.create({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "shares"}, "spec": {"hard": hard}})
    # What the controller of quotas does.
    counted = {"status": {"hard": hard, "used": dict.fromkeys(hard, "0")}}
    api.patch("v1", "resourcequotas", "shares", counted, "status")
    api.create(qwen_service())
    message = wait_for_reason(api, "PodsRefused", seconds=20)
    assert "shares" in message
    assert "must specify" in message
    resources = {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "2Gi"}}
    api.patch(QS, "qwenservices", "news", {"spec": {"resources": resources}})
    api.started(1)
    wait_for_reason(api, "Starting")


def test_defaults_of_a_limit_range_reach_the_pods_and_are_no_drift(api: AdminApi, operator: OperatorThread) -> None:
    limits = [{"type": "Container", "default": {"memory": "6Gi"}, "defaultRequest": {"cpu": "500m", "memory": "2Gi"}}]
    api.create({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "sizes"}, "spec": {"limits": limits}})
    api.create(qwen_service())
    [pod] = api.started(1)
    [container] = api.pod(pod)["spec"]["containers"]
    assert container["resources"] == {"limits": {"memory": "6Gi"}, "requests": {"cpu": "500m", "memory": "2Gi"}}
    wait_until("the status has settled", lambda: api.status().get("replicas") == 1)
    before = api.deployment()
    operator.reconcile()
    time.sleep(0.5)
    after = api.deployment()
    assert before is not None
    assert after is not None
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    assert not api.events("DriftRepaired")


def is_enforced(api: AdminApi) -> bool:
    """Whether the namespace refuses a pod that does not meet its standard."""
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "free"},
        "spec": {"hostNetwork": True, "containers": [{"name": "free", "image": "free"}]},
    }
    try:
        api.plane.request("POST", f"/api/v1/namespaces/{api.namespace}/pods?dryRun=All", body)
    except urllib.error.HTTPError as error:
        return error.code == 403
    return False


def test_the_restricted_standard_accepts_the_pods_of_every_source(api: AdminApi) -> None:
    label = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    api.plane.request("PATCH", f"/api/v1/namespaces/{api.namespace}", label, MERGE)
    wait_until("the standard is enforced", lambda: is_enforced(api))
    trusting = {"device": "cpu", "trustedCA": {"configMapRef": {"name": "company-ca"}}}
    services: dict[str, dict[str, Any]] = {
        "cached": {"cache": {"size": "1Gi", "retain": False}},
        "on-gpus": {
            "engine": {"device": "cuda"},
            "model": {"source": {"huggingFace": {"repo": "Qwen/Qwen3-8B"}}},
            "gpu": {"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}]},
        },
        "locked": {"engine": trusting, "auth": {"apiKeySecretRef": {"name": "keys"}}},
        "from-a-volume": {"model": {"source": {"pvc": {"claimName": "models"}}}},
    }
    for name, spec in services.items():
        api.create(qwen_service(name, **spec))
    api.started(len(services))
    assert {pod["metadata"]["labels"]["qwen-vllm.io/service"] for pod in api.pods()} == set(services)

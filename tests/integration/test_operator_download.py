"""A Job downloads the model, and the pods are made when it is there."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.integration.admin_api import QS, STRATEGIC, AdminApi, Object, qwen_service
from tests.integration.control_plane import wait_until
from tests.integration.fake_pods import FakePodServers

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("operator")]

ADDRESS = "10.1.0.7"


def from_hub(repository: str = "Qwen/Qwen3-8B") -> Object:
    source = {"source": {"huggingFace": {"repo": repository}}}
    return qwen_service(model=source, cache={"size": "1Gi"}, replicas=1)


def jobs(api: AdminApi) -> list[Object]:
    return api.objects("batch/v1", "jobs")


def end(api: AdminApi, pod: str, code: int, message: str) -> None:
    """Reports the end of a pod's container as its kubelet would."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    terminated = {"exitCode": code, "reason": "Error" if code else "Completed", "message": message, "finishedAt": now}
    container = {
        "name": "server",
        "ready": False,
        "restartCount": 0,
        "image": "server:cpu",
        "imageID": "",
        "state": {"terminated": {**terminated, "startedAt": now}},
    }
    status = {"phase": "Failed" if code else "Succeeded", "containerStatuses": [container]}
    api.patch("v1", "pods", pod, {"status": status}, "status", kind=STRATEGIC)


def download(api: AdminApi) -> dict[str, Any]:
    return dict(api.status().get("download") or {})


def test_pods_are_made_when_the_model_is_there(api: AdminApi, servers: FakePodServers) -> None:
    servers.add(ADDRESS, progress={"phase": "Downloading", "downloadedBytes": 4, "totalBytes": 16, "bytesPerSecond": 2})
    api.create(from_hub())
    [pod] = api.started(1)
    wait_until("the reason", lambda: api.condition("Ready").get("reason") == "ModelDownloading")
    assert api.deployment() is None
    assert api.status()["replicas"] == 0
    api.run_pod(pod, ADDRESS)
    wait_until("the progress", lambda: download(api).get("progress") == "25%")
    assert download(api)["bytesPerSecond"] == 2
    assert "qwen-vllm.io/slo-ready" not in str(api.pod(pod)["status"])
    end(api, pod, 0, json.dumps({"phase": "Complete", "downloadedBytes": 16, "totalBytes": 16}))
    wait_until("the Deployment", lambda: api.deployment() is not None)
    wait_until("the phase", lambda: download(api).get("phase") == "Complete")
    assert (download(api)["progress"], download(api)["totalBytes"]) == ("100%", 16)
    assert "bytesPerSecond" not in download(api)
    [job] = jobs(api)
    api.delete("batch/v1", "jobs", job["metadata"]["name"])  # as Kubernetes does after ten minutes
    api.patch(QS, "qwenservices", "news", {"spec": {"limits": {"maxTokens": 256}}})
    wait_until("the change", lambda: api.status()["observedGeneration"] == 2)
    assert all("deletionTimestamp" in found["metadata"] for found in jobs(api))
    assert api.deployment() is not None


def test_the_cause_of_a_failed_download_and_the_next_try(api: AdminApi) -> None:
    api.create(from_hub("Qwen/Nothing"))
    [pod] = api.started(1)
    [failed] = jobs(api)
    end(api, pod, 78, "the model cannot be downloaded: the hub does not have it (HTTP 404): 404 Client Error")
    wait_until("the phase", lambda: download(api).get("phase") == "Failed")
    ready = api.condition("Ready")
    assert ready["reason"] == "ModelDownloadFailed"
    assert "HTTP 404" in ready["message"]
    assert "check the repository and the revision" in ready["message"]
    assert "The next try begins at" in ready["message"]
    assert api.condition("Degraded")["reason"] == "ModelDownloadFailed"
    assert api.deployment() is None
    api.patch(QS, "qwenservices", "news", {"spec": {"model": {"source": {"huggingFace": {"repo": "Qwen/Qwen3-8B"}}}}})
    name = failed["metadata"]["name"]
    wait_until("another Job", lambda: [job for job in jobs(api) if job["metadata"]["name"] != name])
    wait_until("the reason", lambda: api.condition("Ready").get("reason") == "ModelDownloading")


def test_pods_of_a_job_that_are_refused_are_told(api: AdminApi) -> None:
    limits = [{"type": "Container", "max": {"memory": "1Gi"}}]
    limit_range = {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "small"}, "spec": {"limits": limits}}
    api.plane.request("POST", f"/api/v1/namespaces/{api.namespace}/limitranges", limit_range)
    api.create(from_hub())
    wait_until("the reason", lambda: api.condition("Ready").get("reason") == "PodsRefused")
    assert "maximum memory usage per Container is 1Gi" in api.condition("Ready")["message"]
    assert api.condition("Degraded")["reason"] == "PodsRefused"
    assert download(api)["phase"] == "Pending"
    [event] = wait_until("an event", lambda: api.events("PodsRefused"))
    assert event["type"] == "Warning"


def test_a_running_job_that_somebody_deletes_is_made_again(api: AdminApi) -> None:
    api.create(from_hub())
    api.started(1)
    [job] = jobs(api)
    options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
    where = f"/apis/batch/v1/namespaces/{api.namespace}/jobs/{job['metadata']['name']}"
    api.plane.request("DELETE", where, options)

    def is_new() -> bool:
        return [found["metadata"]["uid"] for found in jobs(api)] not in ([], [job["metadata"]["uid"]])

    wait_until("another Job", is_new)
    wait_until("the Event", lambda: api.events("DriftRepaired"))
    assert api.condition("Ready")["reason"] == "ModelDownloading"

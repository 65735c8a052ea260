"""A sidecar beside the server, as meshes inject it: an init container that goes on running."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.cluster import images
from tests.cluster.clusters import Local
from tests.cluster.settings import Settings
from tests.e2e import scripted_pods
from tests.e2e.clients import check_that_each_served, keep_alive_load, replaced, restarts, results, service_url
from tests.e2e.kubectl import Kubectl, Object, wait_for
from tests.e2e.scripted_pods import scripted_service, toggle_hang

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NAME = "news"
HANGS: dict[str, Any] = {
    "alerts": [{"name": "EngineUnresponsive", "threshold": 4}],
    "remediation": {
        "rules": [{"alert": "EngineUnresponsive", "action": "Restart", "for": "2s"}],
        "recoverAfter": "4s",
        "backoff": {"base": "1s", "max": "5s"},
        "restartMethod": "InPlace",
    },
}


def with_sidecar(service: Object, image: str) -> Object:
    """The service with a sidecar in its pods, which ends as soon as it may."""
    sidecar = {
        "name": "proxy",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "restartPolicy": "Always",
        "command": ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.2; done"],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    service["spec"]["podTemplate"]["spec"]["initContainers"] = [sidecar]
    return service


def sidecar_of(kubectl: Kubectl, pod: Object) -> Object:
    [status] = kubectl.get("pod", pod["metadata"]["name"])["status"]["initContainerStatuses"]
    found: Object = status
    return found


def test_a_sidecar_outlives_a_restart_in_place_and_a_drain_loses_no_request(
    kubectl: Kubectl, cluster: Settings
) -> None:
    scripted_pods.install(kubectl)
    kubectl.apply(with_sidecar(scripted_service(NAME, 2, **HANGS), Local(cluster).reference(images.SERVER)))
    kubectl.wait_ready(NAME, 2, timeout=120)
    wait_for(lambda: len(kubectl.endpoints(NAME)) == 2, 30, "not all pods are in the EndpointSlice")
    hung, _ = kubectl.pods(NAME)
    before = sidecar_of(kubectl, hung)
    toggle_hang(hung)
    wait_for(lambda: restarts(kubectl, hung["metadata"]["name"]) == 1, 60, "the hung server was not restarted")
    wait_for(lambda: len(kubectl.endpoints(NAME)) == 2, 60, "the restarted pod did not come back")
    after = sidecar_of(kubectl, hung)
    assert (after["containerID"], after["restartCount"]) == (before["containerID"], 0)
    assert "running" in after["state"]

    first = kubectl.pods(NAME)
    with keep_alive_load(cluster, service_url(kubectl, NAME)) as load:
        time.sleep(3)
        kubectl.run("rollout", "restart", f"deployment/{NAME}")
        wait_for(lambda: replaced(kubectl, NAME, first), 180, "the rollout does not end")
        second = kubectl.pods(NAME)
        time.sleep(3)
        requests = results(load)
    assert len(requests) > 30
    assert [request for request in requests if request["status"] != 200] == []
    check_that_each_served(requests, first, second)

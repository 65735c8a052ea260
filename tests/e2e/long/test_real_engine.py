"""Parts of a real vLLM that end or stop in one of two pods, with clients that count requests."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from tests.cluster.settings import Settings
from tests.e2e import pod_processes
from tests.e2e.clients import keep_alive_load, restarts, results, service_url
from tests.e2e.kubectl import Kubectl, Object, wait_for
from tests.e2e.services import qwen_service

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

NAME = "news"
# Three failures of a probe every 5 s, each of which may take 5 s, and kube-proxy.
PROBE_SECONDS = 25
# Six failures of a probe every 10 s, each of which may take 10 s, and the grace period.
LIVENESS_SECONDS = 120
# Requests a second that one pod answers while the other one starts on the same cores.
RATE = 2
# The worker is a process of its own, as with several GPUs.
OWN_WORKER = {"device": "cpu", "restarts": 0, "extraArgs": ["--distributed-executor-backend=mp"]}


def start(kubectl: Kubectl, **sections: Any) -> tuple[Object, Object]:
    kubectl.apply(qwen_service(NAME, replicas=2, **sections))
    kubectl.wait_ready(NAME, replicas=2, timeout=480)
    wait_for(lambda: len(kubectl.endpoints(NAME)) == 2, 30, "two pods are not in the EndpointSlice")
    sick, healthy = kubectl.pods(NAME)
    return sick, healthy


def check_clients(requests: list[dict[str, Any]], sick: Object, healthy: Object, out: float) -> None:
    """Asserts that only the sick pod failed requests, and none after it was out of the Service.

    A new connection that led to it while its container was away was refused, and has no pod.
    """
    failed = [request for request in requests if request["status"] != 200]
    others = [request for request in failed if request["pod"] not in ("", sick["status"]["podIP"])]
    assert others == []
    unconnected = [request for request in failed if not request["pod"]]
    assert [request for request in unconnected if "ConnectionRefused" not in request["error"]] == []
    # kube-proxy sees the EndpointSlice slightly later than this test
    assert [request for request in failed if request["start"] > out + 3] == []
    served = [request for request in requests if request["pod"] == healthy["status"]["podIP"]]
    assert len(served) > 20, "the healthy pod did not serve on"


def check_no_remediation(kubectl: Kubectl, sick: Object, healthy: Object) -> None:
    """Asserts that the kubelet restarted the sick pod, once, and the operator did nothing."""
    assert restarts(kubectl, sick["metadata"]["name"]) == 1
    assert restarts(kubectl, healthy["metadata"]["name"]) == 0
    assert {pod["metadata"]["uid"] for pod in kubectl.pods(NAME)} == {
        sick["metadata"]["uid"],
        healthy["metadata"]["uid"],
    }
    remediation = kubectl.get("qwenservice", NAME)["status"].get("remediation", {})
    assert remediation.get("restartsInWindow", 0) == 0


@pytest.mark.parametrize("part", ["VLLM::EngineCore", "VLLM::Worker"])
def test_a_killed_process_of_the_engine_costs_only_its_pod(kubectl: Kubectl, cluster: Settings, part: str) -> None:
    sick, healthy = start(kubectl, engine=OWN_WORKER)
    name, address = sick["metadata"]["name"], sick["status"]["podIP"]
    with keep_alive_load(cluster, service_url(kubectl, NAME), RATE) as load:
        time.sleep(5)  # let every connection settle on a pod
        pod_processes.send(signal.SIGKILL, pod_processes.pids(sick, part))
        wait_for(lambda: address not in kubectl.endpoints(NAME), PROBE_SECONDS, "the dead pod stays in the Service")
        out = time.time()
        wait_for(lambda: restarts(kubectl, name) == 1, 60, "the kubelet does not restart the container")
        wait_for(lambda: len(kubectl.endpoints(NAME)) == 2, 300, "the restarted pod did not come back")
        requests = results(load)
    check_clients(requests, sick, healthy, out)
    check_no_remediation(kubectl, sick, healthy)
    assert kubectl.get("pod", name)["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 70


def test_a_stopped_api_process_leaves_the_service_and_is_restarted_by_the_kubelet(
    kubectl: Kubectl, cluster: Settings
) -> None:
    sick, healthy = start(kubectl)
    name, address = sick["metadata"]["name"], sick["status"]["podIP"]
    with keep_alive_load(cluster, service_url(kubectl, NAME), RATE) as load:
        time.sleep(5)  # let every connection settle on a pod
        pod_processes.send(signal.SIGSTOP, pod_processes.pids(sick, "python\0-m\0qwen_server"))
        wait_for(lambda: address not in kubectl.endpoints(NAME), PROBE_SECONDS, "the stopped pod stays in the Service")
        out = time.time()
        wait_for(lambda: restarts(kubectl, name) == 1, LIVENESS_SECONDS, "the kubelet does not restart the container")
        wait_for(lambda: len(kubectl.endpoints(NAME)) == 2, 300, "the restarted pod did not come back")
        requests = results(load)
    check_clients(requests, sick, healthy, out)
    check_no_remediation(kubectl, sick, healthy)

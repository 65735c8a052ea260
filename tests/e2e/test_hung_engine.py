"""A hung engine with real vLLM, kubelet and kube-proxy, and clients with keep-alive connections."""

from __future__ import annotations

import functools
import signal
import time
from datetime import datetime

import pytest

from tests.cluster.settings import Settings
from tests.e2e import pod_processes
from tests.e2e.clients import keep_alive_load, restarts, results, service_url
from tests.e2e.kubectl import Kubectl, wait_for
from tests.e2e.services import qwen_service

pytestmark = [pytest.mark.cluster, pytest.mark.local_node]

THRESHOLD = 8
# Requests a second that one pod answers while the other one starts on the same cores.
RATE = 2
RULES = {
    "alerts": [{"name": "EngineUnresponsive", "threshold": THRESHOLD}],
    "remediation": {
        "rules": [{"alert": "EngineUnresponsive", "action": "Restart", "for": "5s"}],
        "recoverAfter": "4s",
        "restartMethod": "InPlace",
        "backoff": {"base": "1s", "max": "10s"},
    },
}


@pytest.mark.timeout(900)
def test_hung_pod_leaves_the_service_and_comes_back_restarted(kubectl: Kubectl, cluster: Settings) -> None:
    kubectl.apply(qwen_service("news", replicas=2, **RULES))
    kubectl.wait_ready("news", replicas=2, timeout=480)
    wait_for(lambda: len(kubectl.endpoints("news")) == 2, 30, "two pods are not in the EndpointSlice")
    sick, healthy = kubectl.pods("news")
    address = sick["status"]["podIP"]

    with keep_alive_load(cluster, service_url(kubectl, "news"), RATE) as load:
        engine = pod_processes.pids(sick, "VLLM::EngineCore")
        time.sleep(5)  # let every connection settle on a pod, so that traffic flows before the hang
        stopped = time.time()
        pod_processes.send(signal.SIGSTOP, engine)
        wait_for(lambda: address not in kubectl.endpoints("news"), THRESHOLD + 20, "the hung pod stays in the Service")
        out = time.time()
        conditions = kubectl.get("pod", sick["metadata"]["name"])["status"]["conditions"]
        [gate] = [item for item in conditions if item["type"] == "qwen-vllm.io/slo-ready"]
        closed = datetime.fromisoformat(gate["lastTransitionTime"]).timestamp()
        assert kubectl.endpoints("news") == {healthy["status"]["podIP"]}
        wait_for(lambda: counted(kubectl) == 1, 20, "the status counts another number of pods than the EndpointSlice")
        name = sick["metadata"]["name"]
        wait_for(lambda: restarts(kubectl, name) == 1, 60, "the hung pod was not restarted")
        wait_for(lambda: len(kubectl.endpoints("news")) == 2, 300, "the restarted pod did not come back")
        wait_for(lambda: counted(kubectl) == 2, 20, "the status does not count the pod that came back")
        requests = results(load)

    failed = [r for r in requests if r["status"] != 200]
    assert closed - stopped <= THRESHOLD + 4 + 2, "the gate was closed late; two seconds are for a busy node"
    elsewhere = [r for r in failed if r["pod"] != address]
    assert not elsewhere, f"requests failed that were not on the hung pod: {elsewhere}"
    # kube-proxy sees the EndpointSlice slightly later than this test
    settled = [r for r in failed if r["start"] > out + 3]
    assert not settled, f"requests failed after the pod was out of the Service: {settled}"
    served = [r for r in requests if r["pod"] == healthy["status"]["podIP"] and r["start"] > stopped]
    assert len(served) > 20, "the healthy pod did not serve on"
    assert kubectl.get("pod", name)["metadata"]["uid"] == sick["metadata"]["uid"], "the pod was replaced, not restarted"
    assert restarts(kubectl, healthy["metadata"]["name"]) == 0
    check_record(kubectl, name)


def counted(kubectl: Kubectl) -> int:
    """The pods that get requests, by the status."""
    return int(kubectl.get("qwenservice", "news")["status"].get("readyReplicas", 0))


def has_events(kubectl: Kubectl, name: str, reasons: set[str]) -> bool:
    return reasons <= set(kubectl.events(name))


def check_record(kubectl: Kubectl, pod: str) -> None:
    """Asserts an Event for each step on the service and the pod, and a history in status."""
    steps = {"TakenOutOfRotation", "RestartDecided", "RestartedInPlace", "RestartRecovered", "BackInRotation"}
    for name in ("news", pod):
        wait_for(functools.partial(has_events, kubectl, name, steps), 20, f"{name} lacks an event of {steps}")
    history = kubectl.get("qwenservice", "news")["status"]["remediation"]["history"]
    assert {entry["alert"] for entry in history} == {"EngineUnresponsive"}
    assert kubectl.get("qwenservice", "news")["status"]["remediation"]["restartsInWindow"] == 1

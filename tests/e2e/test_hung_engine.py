"""A hung engine with real vLLM, kubelet and kube-proxy, and clients with keep-alive connections."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cluster.settings import ROOT, Settings
from tests.e2e import pod_processes
from tests.e2e.kubectl import Kubectl, wait_for
from tests.e2e.services import qwen_service

pytestmark = pytest.mark.cluster

THRESHOLD = 8
RULES = {
    "alerts": [{"name": "EngineUnresponsive", "threshold": THRESHOLD}],
    "remediation": {
        "rules": [{"alert": "EngineUnresponsive", "action": "Restart", "for": "5s"}],
        "recoverAfter": "4s",
        "backoff": {"base": "1s", "max": "10s"},
    },
}


@contextmanager
def keep_alive_load(cluster: Settings, url: str) -> Iterator[subprocess.Popen[str]]:
    command = [*cluster.nsenter(), sys.executable, "-m", "tests.e2e.keep_alive_load", "--url", url, "--workers", "4"]
    load = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield load
    finally:
        load.terminate()
        load.wait(timeout=30)


def results(load: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """Stops the load and returns its requests."""
    load.send_signal(signal.SIGTERM)
    printed, _ = load.communicate(timeout=30)
    return [json.loads(line) for line in printed.splitlines()]


def restarts(kubectl: Kubectl, pod: str) -> int:
    count: int = kubectl.get("pod", pod)["status"]["containerStatuses"][0]["restartCount"]
    return count


@pytest.mark.timeout(900)
def test_hung_pod_leaves_the_service_and_comes_back_restarted(kubectl: Kubectl, cluster: Settings) -> None:
    kubectl.apply(qwen_service("news", replicas=2, **RULES))
    kubectl.wait_ready("news", replicas=2, timeout=480)
    wait_for(lambda: len(kubectl.endpoints("news")) == 2, 30, "two pods are not in the EndpointSlice")
    sick, healthy = kubectl.pods("news")
    address = sick["status"]["podIP"]
    service = kubectl.get("service", "news")["spec"]["clusterIP"]

    with keep_alive_load(cluster, f"http://{service}:8000") as load:
        engine = pod_processes.pids(sick, "VLLM::EngineCore")
        time.sleep(5)  # let every connection settle on a pod, so that traffic flows before the hang
        stopped = time.time()
        pod_processes.send(signal.SIGSTOP, engine)
        wait_for(lambda: address not in kubectl.endpoints("news"), THRESHOLD + 20, "the hung pod stays in the Service")
        out = time.time()
        assert kubectl.endpoints("news") == {healthy["status"]["podIP"]}
        name = sick["metadata"]["name"]
        wait_for(lambda: restarts(kubectl, name) == 1, 60, "the hung pod was not restarted")
        wait_for(lambda: len(kubectl.endpoints("news")) == 2, 300, "the restarted pod did not come back")
        requests = results(load)

    failed = [r for r in requests if r["status"] != 200]
    assert {r["pod"] for r in failed} <= {address}, f"requests failed that were not on the hung pod: {failed}"
    # kube-proxy sees the EndpointSlice slightly later than this test
    settled = [r for r in failed if r["start"] > out + 3]
    assert not settled, f"requests failed after the pod was out of the Service: {settled}"
    served = [r for r in requests if r["pod"] == healthy["status"]["podIP"] and r["start"] > stopped]
    assert len(served) > 20, "the healthy pod did not serve on"
    assert kubectl.get("pod", name)["metadata"]["uid"] == sick["metadata"]["uid"], "the pod was replaced, not restarted"
    assert restarts(kubectl, healthy["metadata"]["name"]) == 0
    check_record(kubectl, name)


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

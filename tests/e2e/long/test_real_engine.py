"""Parts of a real vLLM that end or stop in one of two pods, with clients that count requests."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster.settings import Settings
from tests.e2e import pod_processes
from tests.e2e.clients import Load, keep_alive_load, long_streams, restarts, results, service_url, uids
from tests.e2e.kubectl import Kubectl, Object, wait_for
from tests.e2e.pages import page, pod_url, status, total
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
# A new engine starts while the other pod serves on the same cores.
ENGINE_SECONDS = 240
STREAMS, TOKENS = 4, 2000
# The streams leave slots to the load. Half of its new connections lead to the pod without an
# engine, until that is out of the Service, and their requests wait.
ROOM = {"maxConcurrentRequests": 16, "maxQueueSize": 200, "maxTokens": TOKENS}


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


def test_a_killed_engine_core_is_a_pause_that_loses_no_request(kubectl: Kubectl, cluster: Settings) -> None:
    """With the default of engine.restarts. It prints how long the pauses were."""
    pods = start(kubectl, limits=ROOM)
    url = service_url(kubectl, NAME)
    wait_for(lambda: status(cluster, f"{url}/v1/models") == 200, 30, "kube-proxy leads to no pod")
    with keep_alive_load(cluster, url, RATE, timeout=ENGINE_SECONDS) as load:
        sick = busiest(load, pods)
        with long_streams(cluster, pod_url(sick), STREAMS, TOKENS) as streams:
            wait_for(lambda: len(streams.so_far()) >= STREAMS, 60, lambda: f"no stream begins: {streams.so_far()}", 0.1)
            pod_processes.send(signal.SIGKILL, pod_processes.pids(sick, "VLLM::EngineCore"))
            away, out = pause_of(kubectl, cluster, sick)
            ends = [line for line in streams.finished(ENGINE_SECONDS) if "done" in line]
        time.sleep(10)  # the time in which the pod could leave the Service again
        wait_for(lambda: len(kubectl.endpoints(NAME)) == 2, 60, "the pod with a new engine is not in the Service")
        requests = results(load)
    waits = [request["end"] - request["start"] for request in requests]
    pauses = [end["pause"] for end in ends]
    there = sum(request["pod"] == sick["status"]["podIP"] for request in requests)
    print(f"without an engine, the pod was not ready for {away:.1f} s, and out of the Service for {out:.1f} s")
    print(f"the longest of {len(requests)} requests took {max(waits):.1f} s; {there} led to this pod")
    print(f"the longest pause of {len(ends)} streams was {max(pauses, default=0.0):.1f} s")
    assert [request for request in requests if request["status"] != 200] == []
    assert [(end["done"], end["tokens"], end["error"]) for end in ends] == [(True, TOKENS, "")] * STREAMS
    check_restart_by_server(kubectl, cluster, sick, pods)


def busiest(load: Load, pods: tuple[Object, Object]) -> Object:
    """The pod that answers most of the load: clients like to use the same connection again."""
    wait_for(lambda: len(load.so_far()) > 5 * RATE, 60, "the load does not begin")
    answers = Counter(request["pod"] for request in load.so_far())
    return max(pods, key=lambda pod: answers[pod["status"]["podIP"]])


def pause_of(kubectl: Kubectl, cluster: Settings, sick: Object) -> tuple[float, float]:
    """Waits until a pod that has lost its engine serves again.

    Returns for how many seconds its server was not ready, and the Service was without it. The
    latter may be 0: the kubelet believes only in three failures of its probe.
    """
    address, url = sick["status"]["podIP"], f"{pod_url(sick)}/health/ready"
    wait_for(lambda: status(cluster, url) != 200, 30, "the server does not notice that its engine is dead", 0.1)
    begun = time.time()
    looks: list[tuple[float, bool, bool]] = []

    def is_back() -> bool:
        ready, serves = status(cluster, url) == 200, address in kubectl.endpoints(NAME)
        looks.append((time.time(), ready, serves))
        return ready and serves

    wait_for(is_back, ENGINE_SECONDS, "the pod does not come back", 0.2)
    away = _end(looks, lambda look: look[1]) - begun
    left = [at for at, _, serves in looks if not serves]
    return away, _end(looks, lambda look: look[2]) - left[0] if left else 0.0


def _end(looks: list[tuple[float, bool, bool]], good: Callable[[tuple[float, bool, bool]], bool]) -> float:
    """When something became good at last."""
    bad = max((number for number, look in enumerate(looks) if not good(look)), default=-1)
    return looks[bad + 1][0]


def check_restart_by_server(kubectl: Kubectl, cluster: Settings, sick: Object, pods: tuple[Object, Object]) -> None:
    """Asserts that the server restarted its engine once, and nobody restarted anything else."""
    counts = {pod["metadata"]["name"]: float(pod is sick) for pod in pods}

    def counted() -> dict[str, float]:
        pages = {pod["metadata"]["name"]: page(cluster, f"{pod_url(pod)}/metrics/prometheus") for pod in pods}
        return {name: total(text, "qwen_engine_restarts_total") for name, text in pages.items()}

    wait_for(lambda: counted() == counts, 20, lambda: f"the engines were restarted so often: {counted()}")
    assert uids(kubectl.pods(NAME)) == uids(pods)
    assert [restarts(kubectl, name) for name in counts] == [0, 0]
    told = "EngineRestartedByServer"
    wait_for(lambda: told in kubectl.events(sick["metadata"]["name"]), 30, f"no Event says {told}")
    remediation = kubectl.get("qwenservice", NAME)["status"].get("remediation", {})
    assert remediation.get("restartsInWindow", 0) == 0

"""What platform engineers do with a service while clients use it, with scripted engines."""

from __future__ import annotations

import time

import pytest

from tests.cluster.settings import Settings
from tests.e2e import scripted_pods
from tests.e2e.clients import check_that_each_served, keep_alive_load, replaced, restarts, results, service_url
from tests.e2e.kubectl import OPERATOR_PODS, Kubectl, KubectlError, wait_for
from tests.e2e.scripted_pods import scripted_service

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NAME = "news"


def start(kubectl: Kubectl) -> None:
    """Applies a service of two pods and waits until both get requests."""
    scripted_pods.install(kubectl)
    kubectl.apply(scripted_service(NAME, 2))
    kubectl.wait_ready(NAME, 2, timeout=120)
    wait_for(lambda: len(kubectl.endpoints(NAME)) == 2, 30, "not all pods are in the EndpointSlice")


def test_a_rollout_and_a_restart_lose_no_request(kubectl: Kubectl, cluster: Settings) -> None:
    start(kubectl)
    first = kubectl.pods(NAME)
    with keep_alive_load(cluster, service_url(kubectl, NAME)) as load:
        time.sleep(3)
        kubectl.apply(scripted_service(NAME, 2, engine={"device": "cpu", "env": [{"name": "TZ", "value": "UTC"}]}))
        wait_for(lambda: replaced(kubectl, NAME, first), 180, "the rollout does not end")
        second = kubectl.pods(NAME)
        kubectl.run("rollout", "restart", f"deployment/{NAME}")
        wait_for(lambda: replaced(kubectl, NAME, second), 180, "the restarted rollout does not end")
        third = kubectl.pods(NAME)
        time.sleep(3)
        requests = results(load)
    assert [request for request in requests if request["status"] != 200] == []
    check_that_each_served(requests, first, second, third)


def test_a_drained_node_loses_no_request_and_keeps_the_last_pod(kubectl: Kubectl, cluster: Settings) -> None:
    """There is one node: the evicted pod comes back when it takes pods again."""
    start(kubectl)
    before = {pod["metadata"]["uid"] for pod in kubectl.pods(NAME)}
    node = kubectl.pods(NAME)[0]["spec"]["nodeName"]
    selector = f"--pod-selector=qwen-vllm.io/service={NAME}"
    with keep_alive_load(cluster, service_url(kubectl, NAME)) as load:
        time.sleep(3)
        try:
            with pytest.raises(KubectlError, match="disruption budget"):
                kubectl.run("drain", node, selector, "--delete-emptydir-data", "--timeout=40s")
            assert len(kubectl.endpoints(NAME)) == 1, "the drain did not evict exactly one pod"
            assert kubectl.condition(NAME, "Ready")["status"] == "True"
        finally:
            kubectl.run("uncordon", node)
        wait_for(lambda: len(kubectl.endpoints(NAME)) == 2, 90, "the evicted pod was not replaced")
        requests = results(load)
    assert [request for request in requests if request["status"] != 200] == []
    assert len(before & {pod["metadata"]["uid"] for pod in kubectl.pods(NAME)}) == 1


def test_a_version_that_cannot_start_stops_the_rollout_and_the_old_pods_serve_on(
    kubectl: Kubectl, cluster: Settings
) -> None:
    start(kubectl)
    before = {pod["metadata"]["uid"] for pod in kubectl.pods(NAME)}
    cause = "there is no kernel for this device"
    with keep_alive_load(cluster, service_url(kubectl, NAME)) as load:
        kubectl.apply(scripted_service(NAME, 2, start_failure=cause))
        wait_for(lambda: cause in kubectl.condition(NAME, "Degraded")["message"], 90, "Degraded does not say the cause")
        time.sleep(10)  # the time in which an old pod would be replaced
        assert kubectl.condition(NAME, "Ready")["status"] == "True"
        assert before <= {pod["metadata"]["uid"] for pod in kubectl.pods(NAME)}
        kubectl.apply(scripted_service(NAME, 2))
        wait_for(lambda: {pod["metadata"]["uid"] for pod in kubectl.pods(NAME)} == before, 90, "the failed pod stays")
        requests = results(load)
    assert [request for request in requests if request["status"] != 200] == []
    wait_for(lambda: kubectl.condition(NAME, "Degraded")["status"] == "False", 30, "Degraded stays")


def test_an_upgrade_of_the_operator_touches_no_pod(kubectl: Kubectl, cluster: Settings, operator: Kubectl) -> None:
    start(kubectl)
    before = {pod["metadata"]["uid"] for pod in kubectl.pods(NAME)}
    with keep_alive_load(cluster, service_url(kubectl, NAME)) as load:
        operator.run("rollout", "restart", "deployment/qwen-operator")
        operator.run("rollout", "status", "deployment/qwen-operator", "--timeout=120s")
        time.sleep(10)  # the time in which a new leader would touch the pods
        requests = results(load)
    assert [request for request in requests if request["status"] != 200] == []
    pods = kubectl.pods(NAME)
    assert {pod["metadata"]["uid"] for pod in pods} == before
    assert [restarts(kubectl, pod["metadata"]["name"]) for pod in pods] == [0, 0]


def test_a_pod_that_began_without_an_operator_serves_seconds_after_its_return(
    kubectl: Kubectl, operator: Kubectl
) -> None:
    start(kubectl)
    operator.run("scale", "deployment", "qwen-operator", "--replicas=0")
    try:
        wait_for(lambda: not operator.find("pods", OPERATOR_PODS), 60, "the operator's pods stay")
        old, other = kubectl.pods(NAME)
        kubectl.run("delete", "pod", old["metadata"]["name"], "--wait=true")
        wait_for(
            lambda: new_container_is_ready(kubectl, {old["metadata"]["uid"], other["metadata"]["uid"]}), 60, "no pod"
        )
        assert kubectl.endpoints(NAME) == {other["status"]["podIP"]}, (
            "the gate of the new pod is open without an operator"
        )
    finally:
        operator.run("scale", "deployment", "qwen-operator", "--replicas=2")
        operator.run("rollout", "status", "deployment/qwen-operator", "--timeout=120s")
    wait_for(lambda: len(kubectl.endpoints(NAME)) == 2, 5, "the new pod gets no requests")


def new_container_is_ready(kubectl: Kubectl, old: set[str]) -> bool:
    """Whether the server of a pod that is not an old one is ready."""
    new = [pod for pod in kubectl.pods(NAME) if pod["metadata"]["uid"] not in old]
    return any(item["ready"] for pod in new for item in pod["status"].get("containerStatuses", []))

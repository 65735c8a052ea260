"""Clients notice nothing while the operator is gone and when it comes back."""

from __future__ import annotations

import time

import pytest

from tests.cluster.settings import Settings
from tests.e2e.clients import keep_alive_load, restarts, results, service_url
from tests.e2e.kubectl import Kubectl, wait_for
from tests.e2e.services import qwen_service

pytestmark = pytest.mark.cluster


@pytest.mark.timeout(600)
def test_operator_gone_and_back_changes_nothing_for_clients(kubectl: Kubectl, cluster: Settings) -> None:
    kubectl.apply(qwen_service("steady"))
    kubectl.wait_ready("steady")
    (pod,) = kubectl.pods("steady")
    before = kubectl.get("deployment", "steady")
    operator = Kubectl(kubectl.program, kubectl.kubeconfig, "qwen-system")

    with keep_alive_load(cluster, service_url(kubectl, "steady")) as load:
        operator.run("scale", "deployment", "qwen-operator", "--replicas=0")
        gone = "app.kubernetes.io/name=qwen-operator"
        wait_for(lambda: not operator.find("pods", gone), 60, "the operator's pods stay")
        time.sleep(10)  # the time in which clients without an operator could notice
        assert kubectl.endpoints("steady") == {pod["status"]["podIP"]}
        operator.run("scale", "deployment", "qwen-operator", "--replicas=2")
        operator.run("rollout", "status", "deployment/qwen-operator", "--timeout=120s")
        # Proves that the operator works again: it restores a deleted object.
        kubectl.run("delete", "poddisruptionbudget", "steady")
        budgets = "qwen-vllm.io/service=steady"
        wait_for(lambda: kubectl.find("poddisruptionbudgets", budgets), 60, "the deleted budget does not come back")
        requests = results(load)

    assert len(requests) > 50
    assert [r for r in requests if r["status"] != 200] == []
    after = kubectl.get("deployment", "steady")
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    assert restarts(kubectl, pod["metadata"]["name"]) == 0
    assert kubectl.endpoints("steady") == {pod["status"]["podIP"]}

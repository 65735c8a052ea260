"""An operator that is away, a model that cannot be loaded, an engine that dies; with real vLLM."""

from __future__ import annotations

import signal
import time

import pytest

from tests.cluster import images
from tests.cluster.clusters import for_tests
from tests.cluster.demo import REQUESTS
from tests.cluster.settings import Settings
from tests.e2e import pod_processes
from tests.e2e.clients import keep_alive_load, restarts, results, service_url
from tests.e2e.facts import NAME, ended, expect
from tests.e2e.hub import answers
from tests.e2e.kubectl import OPERATOR_PODS, Kubectl, wait_for
from tests.e2e.services import EXITS_WITH_ENGINE, ask_through_service, qwen_service

pytestmark = pytest.mark.cluster

MISSING = {"source": {"builtin": "no-such-model"}}


@pytest.fixture
def own_image(cluster: Settings) -> dict[str, str]:
    """An engine with an image of its own: only the models of the default images are known."""
    return {"device": "cpu", "image": for_tests(cluster).reference(images.SERVER)}


def server_container(kubectl: Kubectl, pod: str) -> dict[str, object]:
    found: dict[str, object] = kubectl.get("pod", pod)["status"]["containerStatuses"][0]
    return found


@pytest.mark.usefixtures("steady_service")  # which the next tests need, and which starts meanwhile
@pytest.mark.timeout(600)
def test_reason_of_ready_is_model_load_failed_with_the_log(kubectl: Kubectl, own_image: dict[str, str]) -> None:
    kubectl.apply(qwen_service(NAME, model=MISSING, engine=own_image))
    expect(kubectl, "ModelLoadFailed", ended, "no-such-model")
    assert kubectl.get("qwenservice", NAME)["status"]["readyReplicas"] == 0
    (pod,) = kubectl.pods(NAME)
    name = pod["metadata"]["name"]
    # Only the kubelet restarts it, with growing delays; the operator neither deletes nor evicts it.
    wait_for(lambda: "CrashLoopBackOff" in str(server_container(kubectl, name)["state"]), 120, "no back-off")
    assert kubectl.condition(NAME, "Ready")["reason"] == "ModelLoadFailed"
    assert [p["metadata"]["uid"] for p in kubectl.pods(NAME)] == [pod["metadata"]["uid"]]


@pytest.mark.local_node
@pytest.mark.timeout(600)
def test_operator_gone_and_back_changes_nothing_for_clients(
    steady: Kubectl, operator: Kubectl, cluster: Settings
) -> None:
    (pod,) = steady.pods("steady")
    before = steady.get("deployment", "steady")

    with keep_alive_load(cluster, service_url(steady, "steady"), rate=3) as load:
        operator.run("scale", "deployment", "qwen-operator", "--replicas=0")
        wait_for(lambda: not operator.find("pods", OPERATOR_PODS), 60, "the operator's pods stay")
        time.sleep(10)  # the time in which clients without an operator could notice
        assert steady.endpoints("steady") == {pod["status"]["podIP"]}
        operator.run("scale", "deployment", "qwen-operator", "--replicas=2")
        operator.run("rollout", "status", "deployment/qwen-operator", "--timeout=120s")
        # Proves that the operator works again: it restores a deleted object.
        steady.run("delete", "poddisruptionbudget", "steady")
        budgets = "qwen-vllm.io/service=steady"
        wait_for(lambda: steady.find("poddisruptionbudgets", budgets), 60, "the deleted budget does not come back")
        requests = results(load)

    assert [r for r in requests if r["status"] != 200] == []
    after = steady.get("deployment", "steady")
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    assert restarts(steady, pod["metadata"]["name"]) == 0
    assert steady.endpoints("steady") == {pod["status"]["podIP"]}


@pytest.mark.local_node
@pytest.mark.timeout(900)
def test_failed_upgrade_and_dead_engine_leave_clients_served(
    steady: Kubectl, cluster: Settings, own_image: dict[str, str]
) -> None:
    (old,) = steady.pods("steady")
    name = old["metadata"]["name"]

    missing = {**MISSING, "servedName": "qwen-news-classifier"}
    steady.apply(qwen_service("steady", model=missing, engine=own_image))
    steady.wait_reason("steady", "Degraded", "ModelLoadFailed", 120)
    assert steady.condition("steady", "Ready")["status"] == "True"
    assert steady.endpoints("steady") == {old["status"]["podIP"]}
    assert ask_through_service(steady, cluster, "steady", *REQUESTS[0])["object"] == "chat.completion"
    builtin = {"source": {"builtin": "news-classifier"}}
    steady.apply(qwen_service("steady", model=builtin, engine=EXITS_WITH_ENGINE))

    pod_processes.send(signal.SIGKILL, pod_processes.pids(old, "VLLM::EngineCore"))
    wait_for(lambda: server_container(steady, name)["restartCount"] == 1, 60, "the container was not restarted")
    last = server_container(steady, name)["lastState"]["terminated"]  # type: ignore[index]
    assert last["exitCode"] == 70
    assert last["message"].strip(), "the kubelet was told no cause"
    steady.wait_reason("steady", "Ready", "EngineFailed", 15)
    steady.wait_ready("steady")
    assert [p["metadata"]["uid"] for p in steady.pods("steady")] == [old["metadata"]["uid"]]
    wait_for(lambda: answers(cluster, service_url(steady, "steady")), 30, "kube-proxy leads to no pod")
    assert ask_through_service(steady, cluster, "steady", *REQUESTS[1])["object"] == "text_completion"

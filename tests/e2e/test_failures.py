"""A model that cannot be loaded and an engine that dies, with real vLLM."""

from __future__ import annotations

import signal

import pytest

from tests.cluster import images
from tests.cluster.clusters import Local
from tests.cluster.demo import REQUESTS
from tests.cluster.settings import Settings
from tests.e2e import pod_processes
from tests.e2e.kubectl import Kubectl, wait_for
from tests.e2e.services import ask_through_service, qwen_service

pytestmark = pytest.mark.cluster

MISSING = {"source": {"builtin": "no-such-model"}}


@pytest.fixture
def own_image(cluster: Settings) -> dict[str, str]:
    """An engine with an image of its own: only the models of the default images are known."""
    return {"device": "cpu", "image": Local(cluster).reference(images.SERVER)}


def server_container(kubectl: Kubectl, pod: str) -> dict[str, object]:
    found: dict[str, object] = kubectl.get("pod", pod)["status"]["containerStatuses"][0]
    return found


@pytest.mark.timeout(600)
def test_model_that_cannot_be_loaded_says_so_with_the_log(kubectl: Kubectl, own_image: dict[str, str]) -> None:
    kubectl.apply(qwen_service("broken", model=MISSING, engine=own_image))
    kubectl.wait_reason("broken", "Ready", "ModelLoadFailed", 90)
    ready = kubectl.condition("broken", "Ready")
    assert ready["status"] == "False"
    assert "no-such-model" in ready["message"], "the message does not show why"
    assert kubectl.get("qwenservice", "broken")["status"]["readyReplicas"] == 0
    (pod,) = kubectl.pods("broken")
    name = pod["metadata"]["name"]
    # Only the kubelet restarts it, with growing delays; the operator neither deletes nor evicts it.
    wait_for(lambda: "CrashLoopBackOff" in str(server_container(kubectl, name)["state"]), 120, "no back-off")
    assert kubectl.condition("broken", "Ready")["reason"] == "ModelLoadFailed"
    assert [p["metadata"]["uid"] for p in kubectl.pods("broken")] == [pod["metadata"]["uid"]]


@pytest.mark.timeout(900)
def test_failed_upgrade_and_dead_engine_leave_clients_served(
    kubectl: Kubectl, cluster: Settings, own_image: dict[str, str]
) -> None:
    kubectl.apply(qwen_service("steady"))
    kubectl.wait_ready("steady")
    (old,) = kubectl.pods("steady")
    name = old["metadata"]["name"]

    missing = {**MISSING, "servedName": "qwen-news-classifier"}
    kubectl.apply(qwen_service("steady", model=missing, engine=own_image))
    kubectl.wait_reason("steady", "Degraded", "ModelLoadFailed", 120)
    assert kubectl.condition("steady", "Ready")["status"] == "True"
    assert kubectl.endpoints("steady") == {old["status"]["podIP"]}
    assert ask_through_service(kubectl, cluster, "steady", *REQUESTS[0])["object"] == "chat.completion"
    kubectl.apply(qwen_service("steady", model={"source": {"builtin": "news-classifier"}}))

    pod_processes.send(signal.SIGKILL, pod_processes.pids(old, "VLLM::EngineCore"))
    wait_for(lambda: server_container(kubectl, name)["restartCount"] == 1, 60, "the container was not restarted")
    ended = server_container(kubectl, name)["lastState"]["terminated"]  # type: ignore[index]
    assert ended["exitCode"] == 70
    assert ended["message"].strip(), "the kubelet was told no cause"
    wait_for(lambda: kubectl.condition("steady", "Ready")["status"] == "False", 60, "Ready although nobody answers")
    kubectl.wait_ready("steady")
    assert [p["metadata"]["uid"] for p in kubectl.pods("steady")] == [old["metadata"]["uid"]]
    assert ask_through_service(kubectl, cluster, "steady", *REQUESTS[1])["object"] == "text_completion"

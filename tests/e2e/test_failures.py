"""A model that cannot be loaded and an engine that dies: what clients and the status see, with real vLLM."""

from __future__ import annotations

import signal

import pytest

from tests.cluster.demo import REQUESTS
from tests.cluster.settings import Settings
from tests.e2e import processes
from tests.e2e.kube import Kube, wait_for
from tests.e2e.services import ask_through_service, qwen_service

pytestmark = pytest.mark.cluster

MISSING = {"source": {"builtin": "no-such-model"}}


def server_container(kube: Kube, pod: str) -> dict[str, object]:
    found: dict[str, object] = kube.get("pod", pod)["status"]["containerStatuses"][0]
    return found


@pytest.mark.timeout(600)
def test_model_that_cannot_be_loaded_says_so_with_the_log(kube: Kube) -> None:
    kube.apply(qwen_service("broken", model=MISSING))
    wait_for(
        lambda: kube.condition("broken", "Ready")["reason"] == "ModelLoadFailed",
        90,
        lambda: f"Ready is {kube.condition('broken', 'Ready')}",
    )
    ready = kube.condition("broken", "Ready")
    assert ready["status"] == "False"
    assert "no-such-model" in ready["message"], "the message does not show why"
    assert kube.get("qwenservice", "broken")["status"]["readyReplicas"] == 0
    (pod,) = kube.pods("broken")
    name = pod["metadata"]["name"]
    # The kubelet alone restarts it, with growing pauses: the operator neither deletes nor evicts.
    wait_for(lambda: "CrashLoopBackOff" in str(server_container(kube, name)["state"]), 120, "no back-off")
    assert kube.condition("broken", "Ready")["reason"] == "ModelLoadFailed"
    assert [p["metadata"]["uid"] for p in kube.pods("broken")] == [pod["metadata"]["uid"]]


@pytest.mark.timeout(900)
def test_failed_upgrade_and_dead_engine_leave_clients_served(kube: Kube, cluster: Settings) -> None:
    kube.apply(qwen_service("steady"))
    kube.wait_ready("steady")
    (old,) = kube.pods("steady")
    name = old["metadata"]["name"]

    kube.apply(qwen_service("steady", model={**MISSING, "servedName": "qwen-news-classifier"}))
    wait_for(
        lambda: kube.condition("steady", "Degraded")["reason"] == "ModelLoadFailed",
        120,
        lambda: f"Degraded is {kube.condition('steady', 'Degraded')}",
    )
    assert kube.condition("steady", "Ready")["status"] == "True"
    assert kube.endpoints("steady") == {old["status"]["podIP"]}
    assert ask_through_service(kube, cluster, "steady", *REQUESTS[0])["object"] == "chat.completion"
    kube.apply(qwen_service("steady", model={"source": {"builtin": "news-classifier"}}))

    processes.send(signal.SIGKILL, processes.pids(old, "VLLM::EngineCore"))
    wait_for(lambda: server_container(kube, name)["restartCount"] == 1, 60, "the container was not restarted")
    ended = server_container(kube, name)["lastState"]["terminated"]  # type: ignore[index]
    assert ended["exitCode"] == 70
    assert ended["message"].strip(), "the kubelet was told no cause"
    wait_for(lambda: kube.condition("steady", "Ready")["status"] == "False", 60, "Ready although nobody answers")
    kube.wait_ready("steady")
    assert [p["metadata"]["uid"] for p in kube.pods("steady")] == [old["metadata"]["uid"]]
    assert ask_through_service(kube, cluster, "steady", *REQUESTS[1])["object"] == "text_completion"

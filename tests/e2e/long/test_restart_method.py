"""A hung engine is replaced by its server because the operator asks for it, with scripted engines.

The request goes by an annotation, which the kubelet shows the server through the downward API.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.cluster.settings import Settings
from tests.e2e import scripted_pods
from tests.e2e.clients import restarts, uids
from tests.e2e.kubectl import Kubectl, Object, wait_for
from tests.e2e.pages import json_page, pod_url
from tests.e2e.scripted_pods import chat, scripted_service, toggle_hang

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NAME = "news"
ALERT = "EngineUnresponsive"
ANNOTATION = "qwen-vllm.io/restart-engine"
# The default method, Auto, asks for a new engine first.
SECTIONS: dict[str, Any] = {
    "engine": {"device": "cpu", "restarts": 3, "env": [{"name": "SCRIPTED_RESTART_SECONDS", "value": "3"}]},
    "alerts": [{"name": ALERT, "threshold": 4}],
    "remediation": {
        "rules": [{"alert": ALERT, "action": "Restart", "for": "2s"}],
        "recoverAfter": "4s",
        "backoff": {"base": "1s", "max": "5s"},
    },
}
# Eight seconds without the pause. With it, a busy node may need a minute.
ANSWER = '@{"tokens": 16, "delay": 0.5}'
SECONDS = 200
STEPS = ("TakenOutOfRotation", "RestartDecided", "EngineRestarted", "BackInRotation", "RestartRecovered")


def test_a_hung_engine_gets_a_new_one_in_the_same_container(kubectl: Kubectl, cluster: Settings) -> None:
    scripted_pods.install(kubectl)
    kubectl.apply(scripted_service(NAME, 2, **SECTIONS))
    kubectl.wait_ready(NAME, 2, timeout=120)
    wait_for(lambda: len(kubectl.endpoints(NAME)) == 2, 30, "not all pods are in the EndpointSlice")
    sick, healthy = kubectl.pods(NAME)
    with ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(chat, cluster, sick, ANSWER, seconds=SECONDS)
        wait_for(lambda: running(cluster, sick) == 1, 30, "the request does not run")
        toggle_hang(sick)
        wait_for(
            lambda: kubectl.endpoints(NAME) == {healthy["status"]["podIP"]}, 60, "the hung pod stays in the Service"
        )
        wait_for(lambda: by_cause(cluster, sick), 90, lambda: f"no new engine: {steps(kubectl, sick)}")
        wait_for(lambda: len(kubectl.endpoints(NAME)) == 2, 90, lambda: f"it is not back: {steps(kubectl, sick)}")
        assert accepted.result() == [200]
    wait_for(lambda: set(STEPS) <= set(kubectl.events(NAME)), 30, lambda: f"Events: {kubectl.events(NAME)}")
    time.sleep(10)  # the time in which a second restart would come
    check_record(kubectl, sick)
    assert [by_cause(cluster, pod) for pod in (sick, healthy)] == [{"requested": 1}, {}]
    assert [restarts(kubectl, pod["metadata"]["name"]) for pod in (sick, healthy)] == [0, 0]
    assert uids(kubectl.pods(NAME)) == uids([sick, healthy])
    assert chat(cluster, sick, "你好") == [200]


def running(cluster: Settings, pod: Object) -> int:
    """The requests that the server in a pod is answering."""
    return int(json_page(cluster, f"{pod_url(pod)}/api/v1/metrics")["requests"]["running"])


def by_cause(cluster: Settings, pod: Object) -> dict[str, int]:
    """How often the server in a pod has restarted its engine, by cause."""
    found: dict[str, int] = json_page(cluster, f"{pod_url(pod)}/api/v1/metrics")["engine"]["restarts"]["by_cause"]
    return found


def steps(kubectl: Kubectl, pod: Object) -> list[str]:
    """What remediation has done about a pod, by the history in the status."""
    history = kubectl.get("qwenservice", NAME)["status"].get("remediation", {}).get("history", [])
    return [entry["action"] for entry in history if entry["podUID"] == pod["metadata"]["uid"]]


def check_record(kubectl: Kubectl, pod: Object) -> None:
    """Asserts that annotation, Events and history tell of one restart, by a new engine."""
    name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
    assert ANNOTATION in kubectl.get("pod", name)["metadata"]["annotations"]
    assert set(STEPS) <= set(kubectl.events(name))
    events = [event for event in kubectl.find("events") if event["involvedObject"]["uid"] == uid]
    [decided] = [event["message"] for event in events if event["reason"] == "RestartDecided"]
    assert "will be restarted by a new engine in its server: EngineUnresponsive persists" in decided
    assert sorted(steps(kubectl, pod)) == ["Engine", "Ready", "Restarted", "Unready"]
    remediation = kubectl.get("qwenservice", NAME)["status"]["remediation"]
    assert {entry["alert"] for entry in remediation["history"]} == {ALERT}
    assert remediation["restartsInWindow"] == 1
    assert not remediation.get("intents")

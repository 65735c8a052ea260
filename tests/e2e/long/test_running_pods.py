"""What reaches running pods without a restart, on the real kubelet, with scripted engines."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cluster.settings import Settings
from tests.cluster.shell import output
from tests.e2e import scripted_pods
from tests.e2e.clients import restarts
from tests.e2e.kubectl import Kubectl, Object, wait_for
from tests.e2e.scripted_pods import chat, metrics, scripted_service

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NAME = "news"
KEYS = "keys"
ALERT = "HighLatency"  # off until it has a threshold, and it restarts nothing
SLOW = '@{"tokens": 2, "first": 0.3}'
# The operator annotates the pods, so the kubelet updates the files of the ConfigMap at once.
THRESHOLD_SECONDS = 10
# A Secret is no business of the operator: the kubelet looks about once a minute.
KEY_SECONDS = 90


def start(kubectl: Kubectl, **sections: Any) -> Object:
    """Applies a service of one pod. Returns the pod when it is ready."""
    scripted_pods.install(kubectl)
    kubectl.apply(scripted_service(NAME, **sections))
    kubectl.wait_ready(NAME, timeout=120)
    [pod] = kubectl.pods(NAME)
    return pod


def set_threshold(kubectl: Kubectl, threshold: float) -> None:
    """Changes the threshold of the alert."""
    kubectl.apply(scripted_service(NAME, alerts=[{"name": ALERT, "threshold": threshold, "for": "1s"}]))


def alerts_of(cluster: Settings, pod: Object) -> set[str]:
    """The alerts that the server in a pod reports."""
    return {alert["name"] for alert in json.loads(metrics(cluster, pod))["alerts"]}


def status_with(cluster: Settings, pod: Object, key: str) -> str:
    """The status of a pod's answer to a request with an API key."""
    address = pod["status"]["podIP"]
    command = ["curl", "--silent", "--max-time", "10", "--output", "/dev/null", "--write-out", "%{http_code}"]
    url = f"http://{address}:8000/v1/models"
    return output([*cluster.nsenter(), *command, "--header", f"Authorization: Bearer {key}", url], timeout=20).strip()


def secret(key: str) -> Object:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": KEYS}, "stringData": {"all": f"{key}\n"}}


def assert_untouched(kubectl: Kubectl, before: Object) -> None:
    """The pod is the same, and so is its container."""
    [pod] = kubectl.pods(NAME)
    assert pod["metadata"]["uid"] == before["metadata"]["uid"]
    assert restarts(kubectl, pod["metadata"]["name"]) == 0


def test_a_changed_threshold_takes_effect_within_ten_seconds(kubectl: Kubectl, cluster: Settings) -> None:
    pod = start(kubectl)
    assert chat(cluster, pod, SLOW, 3) == [200, 200, 200]
    assert alerts_of(cluster, pod) == set()
    set_threshold(kubectl, 0.1)
    wait_for(lambda: ALERT in alerts_of(cluster, pod), THRESHOLD_SECONDS, "the first threshold has no effect")
    set_threshold(kubectl, 30)
    wait_for(lambda: not alerts_of(cluster, pod), THRESHOLD_SECONDS, "the second threshold has no effect")
    assert_untouched(kubectl, pod)


def test_a_changed_key_takes_effect_within_ninety_seconds(kubectl: Kubectl, cluster: Settings) -> None:
    kubectl.apply(secret("the-old-key"))
    pod = start(kubectl, auth={"apiKeySecretRef": {"name": KEYS}})
    assert status_with(cluster, pod, "the-old-key") == "200"
    assert status_with(cluster, pod, "the-new-key") == "401"
    kubectl.apply(secret("the-new-key"))
    wait_for(
        lambda: status_with(cluster, pod, "the-new-key") == "200", KEY_SECONDS, "the new key is refused", interval=2
    )
    assert status_with(cluster, pod, "the-old-key") == "401"
    assert_untouched(kubectl, pod)

"""How Kubernetes shows why a pod does not serve, and what the status must then say."""

from __future__ import annotations

from collections.abc import Callable

from tests.e2e.kubectl import Kubectl, Object, wait_for

NAME = "news"
FACT_SECONDS = 180  # until Kubernetes itself has noticed; images may have to be unpacked before
REASON_SECONDS = 15
Fact = Callable[[Kubectl], bool]


def waits_for(*reasons: str) -> Fact:
    """A container of the pod is waiting, for one of these reasons."""
    return lambda kubectl: any(
        container["state"].get("waiting", {}).get("reason") in reasons
        for pod in kubectl.pods(NAME)
        for container in statuses(pod)
    )


def statuses(pod: Object) -> list[Object]:
    status = pod["status"]
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def ended(kubectl: Kubectl) -> bool:
    """The server's container has terminated, maybe to start again."""
    found = [item for pod in kubectl.pods(NAME) for item in statuses(pod)]
    return any("terminated" in item["state"] or "terminated" in item.get("lastState", {}) for item in found)


def has_event(reason: str) -> Fact:
    """The pod has an Event with this reason."""
    return lambda kubectl: any(reason in kubectl.events(pod["metadata"]["name"]) for pod in kubectl.pods(NAME))


def unschedulable(kubectl: Kubectl) -> bool:
    conditions = [item for pod in kubectl.pods(NAME) for item in pod["status"].get("conditions", [])]
    return any(item["type"] == "PodScheduled" and item["status"] == "False" for item in conditions)


def not_ready(kubectl: Kubectl) -> bool:
    """A pod gets no requests although it had been ready or could be."""
    conditions = [item for pod in kubectl.pods(NAME) for item in pod["status"].get("conditions", [])]
    return any(item["type"] == "Ready" and item["status"] == "False" for item in conditions)


def no_pods_created(kubectl: Kubectl) -> bool:
    conditions = [item for found in kubectl.find("deployments") for item in found["status"].get("conditions", [])]
    return any(item["type"] == "ReplicaFailure" and item["status"] == "True" for item in conditions)


def expect(kubectl: Kubectl, reason: str, fact: Fact, *says: str, fact_seconds: float = FACT_SECONDS) -> None:
    """Waits for the fact and then for the reason, and checks that the message says these words."""
    wait_for(lambda: fact(kubectl), fact_seconds, f"Kubernetes does not show what leads to {reason}")
    kubectl.wait_reason(NAME, "Ready", reason, REASON_SECONDS)
    ready = kubectl.condition(NAME, "Ready")
    assert ready["status"] == "False"
    for words in says:
        assert words in ready["message"]
    wait_for(lambda: reason in kubectl.events(NAME), REASON_SECONDS, f"no Event says {reason}")

"""Remediation with a real API server. The tests simulate kubelet and servers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.admin_api import QS, AdminApi, qwen_service
from tests.integration.control_plane import wait_until
from tests.integration.fake_pods import FakePodServer, FakePodServers
from tests.integration.operator_thread import OperatorThread

pytestmark = pytest.mark.cluster

RESTART = "qwen-vllm.io/restart"
QUICK = {
    "pollInterval": "200ms",
    "recoverAfter": "1s",
    "backoff": {"base": "1s", "max": "1s"},
    "rules": [
        {"alert": "EngineUnresponsive", "action": "Unready"},
        {"alert": "EngineUnresponsive", "action": "Restart", "for": "1s"},
    ],
}


def remediation(**changes: Any) -> dict[str, Any]:
    return {**QUICK, **changes}


def ip_of(number: int) -> str:
    return f"192.0.2.{number + 1}"


def start(api: AdminApi, servers: FakePodServers, count: int, **changes: Any) -> list[str]:
    """A service whose replicas are all in rotation."""
    api.create(qwen_service(replicas=count, remediation=remediation(**changes), rollout={"minReadySeconds": 0}))
    pods = api.started(count)
    for number, pod in enumerate(pods):
        servers.add(ip_of(number))
        api.run_pod(pod, ip_of(number))
    for number, pod in enumerate(pods):
        wait_until(f"the gate of {pod} is open", gate_is(api, pod, "True"))
        api.run_pod(pod, ip_of(number))
    wait_until("all replicas are ready", lambda: api.status().get("readyReplicas") == count)
    # The rollout is complete only when the Deployment reports it.
    wait_until("the rollout is over", lambda: rolled_out(api))
    return pods


def rolled_out(api: AdminApi) -> bool:
    deployment = api.deployment()
    assert deployment is not None
    conditions = deployment.get("status", {}).get("conditions", ())
    return any(item["reason"] == "NewReplicaSetAvailable" for item in conditions)


def gate_is(api: AdminApi, pod: str, status: str) -> Callable[[], bool]:
    return lambda: api.gate(pod) == status


def phases(api: AdminApi) -> list[str]:
    """How far the restarts in progress are."""
    return [intent["phase"] for intent in api.status()["remediation"]["intents"]]


def asked_to_restart(api: AdminApi, pod: str) -> str:
    return str(api.pod(pod)["metadata"].get("annotations", {}).get(RESTART, ""))


def wait_for_polls(server: FakePodServer) -> None:
    """Waits until what the server says now is what a whole round saw."""
    polls = server.asked["/api/v1/metrics"]
    wait_until("it is polled twice", lambda: server.asked["/api/v1/metrics"] >= polls + 2)


@pytest.mark.usefixtures("operator")
def test_the_gate_of_a_healthy_new_pod_opens(api: AdminApi, servers: FakePodServers) -> None:
    api.create(qwen_service())
    [pod] = api.started(1)
    assert api.gate(pod) == ""
    server = servers.add("192.0.2.1")
    api.run_pod(pod, "192.0.2.1", ready=False)
    wait_until("the gate is open", gate_is(api, pod, "True"))
    wait_until("it was polled", lambda: server.asked["/api/v1/metrics"])


@pytest.mark.usefixtures("operator")
def test_the_gate_of_a_pod_that_does_not_answer_opens_too(api: AdminApi) -> None:
    api.create(qwen_service())
    [pod] = api.started(1)
    api.run_pod(pod, "192.0.2.9")
    wait_until("the gate is open", gate_is(api, pod, "True"))


@pytest.mark.usefixtures("operator")
def test_the_gate_opens_although_the_spec_is_invalid(api: AdminApi, servers: FakePodServers) -> None:
    bad = {"spec": {"terminationGracePeriodSeconds": -5}}
    api.create(qwen_service(replicas=1))
    [pod] = api.started(1)
    api.patch(QS, "qwenservices", "news", {"spec": {"podTemplate": bad}})
    wait_until("the reason", lambda: api.condition("Progressing").get("reason") == "InvalidPodTemplate")
    servers.add("192.0.2.1")
    api.run_pod(pod, "192.0.2.1")
    wait_until("the gate is open", gate_is(api, pod, "True"))


@pytest.mark.usefixtures("operator")
def test_full_queues_are_a_warning_while_they_last(api: AdminApi, servers: FakePodServers) -> None:
    pods = start(api, servers, 2)
    for number in range(2):
        servers.by_ip[ip_of(number)].alerts = ["QueueSaturated"]
    wait_until("the warning", lambda: api.condition("HasWarnings").get("reason") == "QueueSaturated")
    assert [api.gate(pod) for pod in pods] == ["True", "True"]
    assert api.condition("Ready")["status"] == "True"
    for number in range(2):
        servers.by_ip[ip_of(number)].alerts = []
    wait_until("it is over", lambda: api.condition("HasWarnings").get("status") == "False")


@pytest.mark.usefixtures("operator")
def test_a_hung_pod_leaves_rotation_is_restarted_and_comes_back(api: AdminApi, servers: FakePodServers) -> None:
    hung, well = start(api, servers, 2)
    server = servers.by_ip[ip_of(0)]
    server.alerts, server.generates = ["EngineUnresponsive"], False

    wait_until("the gate is closed", gate_is(api, hung, "False"))
    api.run_pod(hung, ip_of(0))
    wait_until("a restart is asked for", lambda: asked_to_restart(api, hung))
    assert api.gate(well) == "True"
    assert not asked_to_restart(api, well)
    for reason in ("TakenOutOfRotation", "RestartDecided", "RestartedInPlace"):
        wait_until(f"an Event {reason}", lambda reason=reason: api.events(reason) and api.events(reason, "Pod"))  # type: ignore[misc]
    memory = api.status()["remediation"]
    assert [intent["pod"] for intent in memory["intents"]] == [hung]
    wait_until("the phase", lambda: phases(api) == ["Restarting"])
    assert memory["restartsInWindow"] == 1
    assert [entry["action"] for entry in memory["history"]][:2] == ["Unready", "InPlace"]

    # The kubelet restarts the container.
    server.alerts, server.generates, server.uptime = [], True, 1.0
    wait_for_polls(server)
    api.run_pod(hung, ip_of(0), restarts=1)
    wait_until("the gate is open again", gate_is(api, hung, "True"))
    api.run_pod(hung, ip_of(0), restarts=1)
    wait_until("the restart is over", lambda: not api.status()["remediation"]["intents"])
    assert server.asked["/health/generate"] >= 1
    wait_until("an event tells of it", lambda: api.events("RestartRecovered"))
    history = [entry["action"] for entry in api.status()["remediation"]["history"]]
    assert history == ["Unready", "InPlace", "Ready", "Restarted"]


@pytest.mark.usefixtures("operator")
def test_a_pod_that_recovers_by_itself_is_not_restarted(api: AdminApi, servers: FakePodServers) -> None:
    slow = [{"alert": "EngineUnresponsive", "action": "Restart", "for": "1m"}]
    pod, _ = start(api, servers, 2, rules=slow)
    server = servers.by_ip[ip_of(0)]
    server.alerts = ["EngineUnresponsive"]
    wait_until("the gate is closed", gate_is(api, pod, "False"))
    server.alerts = []
    wait_until("the gate is open again", gate_is(api, pod, "True"))
    assert not asked_to_restart(api, pod)
    wait_until("an event tells of it", lambda: api.events("BackInRotation"))


@pytest.mark.usefixtures("operator")
def test_the_last_pods_stay_in_rotation(api: AdminApi, servers: FakePodServers) -> None:
    rules = [{"alert": "GPUUnhealthy", "action": "Unready"}]
    pods = start(api, servers, 2, rules=rules)
    for number in range(2):
        servers.by_ip[ip_of(number)].alerts = ["GPUUnhealthy"]
    wait_until("one is out of rotation", lambda: "False" in [api.gate(pod) for pod in pods])
    wait_until("the other one stays in rotation", lambda: api.events("KeptInRotation"))
    assert sorted(api.gate(pod) for pod in pods) == ["False", "True"]


@pytest.mark.usefixtures("operator")
def test_a_dry_run_only_reports(api: AdminApi, servers: FakePodServers) -> None:
    pod, _ = start(api, servers, 2, mode="DryRun")
    servers.by_ip[ip_of(0)].alerts = ["EngineUnresponsive"]
    wait_until("both steps are reported", lambda: len(api.events("DryRun")) >= 2)
    assert api.gate(pod) == "True"
    assert not asked_to_restart(api, pod)
    wait_until("both are in the history", lambda: len(api.status()["remediation"]["history"]) >= 2)
    memory = api.status()["remediation"]
    assert memory["restartsInWindow"] == 0
    assert [entry["action"] for entry in memory["history"]] == ["Unready", "InPlace"]
    assert all(entry["dryRun"] for entry in memory["history"])


@pytest.mark.usefixtures("operator")
def test_a_spent_budget_suspends_and_the_annotation_resets_it(api: AdminApi, servers: FakePodServers) -> None:
    pod, _ = start(api, servers, 2, restartBudget={"maxRestarts": 0, "window": "1h"})
    servers.by_ip[ip_of(0)].alerts, servers.by_ip[ip_of(0)].generates = ["EngineUnresponsive"], False
    wait_until("the pod is out of rotation", gate_is(api, pod, "False"))
    wait_until("it is suspended", lambda: api.condition("RemediationSuspended").get("status") == "True")
    assert api.condition("RemediationSuspended")["reason"] == "BudgetExhausted"
    assert api.condition("Degraded")["status"] == "True"
    assert not asked_to_restart(api, pod)
    annotation = {"metadata": {"annotations": {"qwen-vllm.io/reset-restart-budget": "1"}}}
    api.patch(QS, "qwenservices", "news", annotation)
    wait_until("the reset is handled", lambda: api.status()["remediation"].get("handledReset") == "1")
    api.patch(QS, "qwenservices", "news", {"spec": {"remediation": {"restartBudget": {"maxRestarts": 1}}}})
    wait_until("the pod is restarted", lambda: asked_to_restart(api, pod))
    wait_until("it is active", lambda: api.condition("RemediationSuspended").get("status") == "False")


@pytest.mark.usefixtures("operator")
def test_pods_that_cannot_be_read_stay_in_rotation_and_the_status_says_so(
    api: AdminApi, servers: FakePodServers
) -> None:
    pods = start(api, servers, 2)
    one, other = (servers.by_ip[ip_of(number)] for number in range(2))
    one.garbled = True
    [event] = wait_until("an event", lambda: api.events("MetricsUnreadable"))
    assert "its answer is not valid" in event["message"]
    assert api.condition("RemediationSuspended")["status"] == "False"

    other.silent = True
    reason = "PodsUnreachable"
    wait_until(reason, lambda: api.condition("RemediationSuspended").get("reason") == reason)
    api.patch(QS, "qwenservices", "news", {"spec": {"replicas": 3}})
    [new] = set(api.started(3)) - set(pods)
    api.run_pod(new, ip_of(2))
    wait_until("the gate of the new pod is open", gate_is(api, new, "True"))
    assert [api.gate(pod) for pod in pods] == ["True", "True"]
    assert api.condition("Ready")["status"] == "True"

    one.garbled = other.silent = False
    wait_until("it is active", lambda: api.condition("RemediationSuspended").get("status") == "False")


def test_a_restart_survives_a_restart_of_the_operator(
    api: AdminApi, servers: FakePodServers, operator: OperatorThread, operator_kubeconfig: Path
) -> None:
    pod, _ = start(api, servers, 2)
    server = servers.by_ip[ip_of(0)]
    server.alerts, server.generates = ["EngineUnresponsive"], False
    wait_until("a restart is asked for", lambda: asked_to_restart(api, pod))
    first = asked_to_restart(api, pod)
    operator.stop()

    server.alerts, server.generates, server.uptime = [], True, 1.0
    api.run_pod(pod, ip_of(0), restarts=1)
    with OperatorThread(operator_kubeconfig, api.namespace, servers.url_of):
        wait_until("the gate is open again", gate_is(api, pod, "True"))
        api.run_pod(pod, ip_of(0), restarts=1)
        wait_until("the restart is over", lambda: not api.status()["remediation"]["intents"])
    assert asked_to_restart(api, pod) == first
    assert api.status()["remediation"]["restartsInWindow"] == 1


@pytest.mark.usefixtures("operator")
def test_an_eviction_replaces_the_pod(api: AdminApi, servers: FakePodServers) -> None:
    pod, _ = start(api, servers, 2, restartMethod="Evict")
    servers.by_ip[ip_of(0)].alerts, servers.by_ip[ip_of(0)].generates = ["EngineUnresponsive"], False
    wait_until("the gate is closed", gate_is(api, pod, "False"))
    api.run_pod(pod, ip_of(0))
    wait_until("it is evicted", lambda: api.events("Evicted"))
    wait_until("the phase", lambda: phases(api) == ["Waiting"])

    def is_replaced() -> bool:
        names = [item["metadata"]["name"] for item in api.pods() if "deletionTimestamp" not in item["metadata"]]
        return len(names) == 2 and pod not in names

    wait_until("it is replaced", is_replaced)


@pytest.mark.usefixtures("operator")
def test_the_cause_of_an_engines_death_is_kept(api: AdminApi, servers: FakePodServers) -> None:
    pod, _ = start(api, servers, 2)
    ended = {"exitCode": 70, "reason": "Error", "message": "CUDA out of memory"}
    api.run_pod(pod, ip_of(0), ready=False, restarts=1, ended=ended)
    wait_until("an Event", lambda: api.events("EngineDead") and api.events("EngineDead", "Pod"))
    assert "CUDA out of memory" in api.events("EngineDead")[0]["message"]
    wait_until("a history", lambda: api.status().get("remediation", {}).get("history"))
    [entry] = api.status()["remediation"]["history"]
    assert (entry["action"], entry["pod"]) == ("Died", pod)
    assert entry["terminationMessage"] == "CUDA out of memory"
    assert not asked_to_restart(api, pod)


LONG_AGO = "2020-01-01T00:00:00Z"
# What a backup holds of a service whose pods no longer exist.
RESTORED = {
    "observedGeneration": 7,
    "replicas": 2,
    "readyReplicas": 2,
    "conditions": [
        {"type": kind, "status": "True", "reason": reason, "message": "Long ago.", "lastTransitionTime": LONG_AGO}
        for kind, reason in (("Ready", "Serving"), ("RemediationSuspended", "BudgetExhausted"))
    ],
    "remediation": {
        "intents": [
            {
                "podUID": "00000000-0000-0000-0000-00000000dead",
                "pod": "news-gone",
                "alert": "EngineUnresponsive",
                "method": "InPlace",
                "phase": "Restarting",
                "time": LONG_AGO,
            }
        ],
        "restartTimes": [LONG_AGO, LONG_AGO, LONG_AGO],
        "restartsInWindow": 3,
        "lastRestartTime": LONG_AGO,
        "backoffUntil": LONG_AGO,
        "handledReset": "1",
    },
}


def test_a_restored_object_with_an_old_status_serves_and_restarts_nothing(
    api: AdminApi, servers: FakePodServers, operator: OperatorThread, operator_kubeconfig: Path
) -> None:
    operator.stop()
    api.create(qwen_service(replicas=1, remediation=remediation(), rollout={"minReadySeconds": 0}))
    api.patch(QS, "qwenservices", "news", {"status": RESTORED}, "status")
    with OperatorThread(operator_kubeconfig, api.namespace, servers.url_of):
        [pod] = api.started(1)
        wait_until("it is not taken for ready", lambda: api.condition("Ready")["status"] == "False")
        servers.add(ip_of(0))
        api.run_pod(pod, ip_of(0))
        wait_until("the gate is open", gate_is(api, pod, "True"))
        api.run_pod(pod, ip_of(0))
        wait_until("it serves", lambda: api.condition("Ready")["status"] == "True")
        wait_until("the old restart is over", lambda: not api.status()["remediation"].get("intents"))
        wait_until("the budget is whole", lambda: api.status()["remediation"]["restartsInWindow"] == 0)
        wait_until(
            "remediation is active", lambda: api.condition("RemediationSuspended")["status"] == "False", seconds=10
        )
        assert api.status()["observedGeneration"] == api.service()["metadata"]["generation"]
    assert not asked_to_restart(api, pod)

"""Remediation on the real kubelet: hung engines, errors and overload, with scripted engines."""

from __future__ import annotations

import functools
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pytest

from tests.cluster.settings import Settings
from tests.cluster.shell import output
from tests.e2e import pod_processes, scripted_pods
from tests.e2e.clients import keep_alive_load, restarts, results, service_url
from tests.e2e.kubectl import OPERATOR_PODS, Kubectl, Object, wait_for
from tests.e2e.scripted_pods import chat, scripted_service, toggle_hang

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NAME = "news"
THRESHOLD = 4
GATE = "qwen-vllm.io/slo-ready"
HANGS: dict[str, Any] = {"alerts": [{"name": "EngineUnresponsive", "threshold": THRESHOLD}]}
FAST = {"recoverAfter": "4s", "backoff": {"base": "1s", "max": "5s"}}
ERROR = '@{"fail": "CUDA error: device-side assert triggered"}'
# The alert counts the requests of a minute.
ERROR_SECONDS = 90


def start(kubectl: Kubectl, replicas: int = 1, **sections: Any) -> list[Object]:
    """Applies a service. Returns its pods when all of them get requests."""
    scripted_pods.install(kubectl)
    kubectl.apply(scripted_service(NAME, replicas, **sections))
    kubectl.wait_ready(NAME, replicas, timeout=120)
    wait_for(lambda: len(kubectl.endpoints(NAME)) == replicas, 30, "not all pods are in the EndpointSlice")
    return kubectl.pods(NAME)


def name_of(pod: Object) -> str:
    name: str = pod["metadata"]["name"]
    return name


def address_of(pod: Object) -> str:
    address: str = pod["status"]["podIP"]
    return address


def gate_of(kubectl: Kubectl, pod: Object) -> str:
    conditions = kubectl.get("pod", name_of(pod))["status"]["conditions"]
    return next((str(item["status"]) for item in conditions if item["type"] == GATE), "")


def counts(kubectl: Kubectl, pods: list[Object]) -> list[int]:
    return [restarts(kubectl, name_of(pod)) for pod in pods]


def moment(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def events_of(kubectl: Kubectl, pod: Object, reason: str) -> list[Object]:
    """The Events of a pod with this reason."""
    found = [event for event in kubectl.find("events") if event["involvedObject"]["name"] == name_of(pod)]
    return [event for event in found if event["reason"] == reason]


def dry_run_events(kubectl: Kubectl, pod: Object) -> list[str]:
    """The messages of the pod's Events about a dry run, repeated as often as they were counted."""
    return [event["message"] for event in events_of(kubectl, pod, "DryRun") for _ in range(event.get("count") or 1)]


def was_reported(kubectl: Kubectl, pod: Object) -> bool:
    return len(dry_run_events(kubectl, pod)) == 2


def test_a_lone_hung_pod_is_back_after_twice_the_threshold_and_a_start(kubectl: Kubectl) -> None:
    [pod] = start(kubectl, **HANGS)
    toggle_hang(pod)
    hung = time.time()
    wait_for(lambda: restarts(kubectl, name_of(pod)) == 1, 60, "the hung pod was not restarted")
    wait_for(lambda: kubectl.endpoints(NAME) == {address_of(pod)}, 60, "the restarted pod did not come back")
    out = time.time() - hung
    status = kubectl.get("pod", name_of(pod))["status"]
    [container] = status["containerStatuses"]
    ended = moment(container["lastState"]["terminated"]["finishedAt"])
    [conditions] = [item for item in status["conditions"] if item["type"] == "ContainersReady"]
    ready = moment(conditions["lastTransitionTime"])
    # Two more seconds for times with whole seconds and for kubectl.
    assert out <= 2 * THRESHOLD + (ready - ended) + 3 + 2


def test_a_dry_run_reports_each_hung_pod_once_and_changes_nothing(kubectl: Kubectl) -> None:
    pods = start(kubectl, replicas=2, **HANGS, remediation={"mode": "DryRun", **FAST})
    for pod in pods:
        toggle_hang(pod)
    for pod in pods:
        wait_for(functools.partial(was_reported, kubectl, pod), 60, f"{name_of(pod)} lacks Events")
    time.sleep(10)  # the time in which a step would be reported again
    for pod in pods:
        restarted, left = sorted(dry_run_events(kubectl, pod))
        assert "would be restarted (InPlace): EngineUnresponsive persists" in restarted
        assert "would be taken out of rotation: EngineUnresponsive is active" in left
    assert [gate_of(kubectl, pod) for pod in pods] == ["True", "True"]
    assert counts(kubectl, pods) == [0, 0]
    assert kubectl.get("qwenservice", NAME)["status"]["remediation"]["restartsInWindow"] == 0


def test_an_exhausted_budget_is_said_and_a_reset_restarts_the_pod(kubectl: Kubectl) -> None:
    budget = {"restartBudget": {"maxRestarts": 1}}
    [pod] = start(kubectl, **HANGS, remediation={**FAST, "restartMethod": "InPlace", **budget})
    toggle_hang(pod)
    wait_for(lambda: restarts(kubectl, name_of(pod)) == 1, 60, "the hung pod was not restarted")
    wait_for(lambda: kubectl.endpoints(NAME) == {address_of(pod)}, 60, "the restarted pod did not come back")
    toggle_hang(pod)
    kubectl.wait_reason(NAME, "RemediationSuspended", "BudgetExhausted", 60)
    time.sleep(3 * THRESHOLD)  # the time in which it would have been restarted
    assert counts(kubectl, [pod]) == [1]
    kubectl.run("annotate", "qwenservice", NAME, f"qwen-vllm.io/reset-restart-budget={time.time():.0f}")
    wait_for(lambda: restarts(kubectl, name_of(pod)) == 2, 60, "the reset did not restart the pod")
    wait_for(lambda: kubectl.endpoints(NAME) == {address_of(pod)}, 60, "the restarted pod did not come back")
    assert kubectl.condition(NAME, "RemediationSuspended")["status"] == "False"


def test_errors_of_one_pod_take_it_out_and_restart_it(kubectl: Kubectl, cluster: Settings) -> None:
    rules = [
        {"alert": "HighErrorRate", "action": "Unready"},
        {"alert": "HighErrorRate", "action": "Restart", "for": "5s"},
    ]
    sick, healthy = start(kubectl, replicas=2, remediation={**FAST, "rules": rules})
    assert set(chat(cluster, sick, ERROR, 25)) == {500}
    wait_for(lambda: kubectl.endpoints(NAME) == {address_of(healthy)}, 30, "the pod with errors stays in rotation")
    wait_for(lambda: restarts(kubectl, name_of(sick)) == 1, 60, "the pod with errors was not restarted")
    wait_for(lambda: len(kubectl.endpoints(NAME)) == 2, 60, "the restarted pod did not come back")
    assert counts(kubectl, [healthy]) == [0]


def test_errors_of_all_pods_restart_none_and_suspend_remediation(kubectl: Kubectl, cluster: Settings) -> None:
    pods = start(kubectl, replicas=2, remediation=FAST)
    for pod in pods:
        assert set(chat(cluster, pod, ERROR, 25)) == {500}
    kubectl.wait_reason(NAME, "RemediationSuspended", "SystemicErrors", 30)
    assert len(kubectl.endpoints(NAME)) >= 1, "remediation took out the last pod for errors that all pods have"
    wait_for(
        lambda: kubectl.condition(NAME, "RemediationSuspended")["status"] == "False",
        ERROR_SECONDS,
        "remediation stays suspended although the errors are over",
    )
    wait_for(lambda: len(kubectl.endpoints(NAME)) == 2, 30, "a pod is left out of rotation")
    assert counts(kubectl, pods) == [0, 0]


def test_overload_neither_restarts_a_pod_nor_takes_one_out(kubectl: Kubectl, cluster: Settings) -> None:
    limits = {"maxConcurrentRequests": 1, "maxQueueSize": 3}
    slow = '@{"tokens": 16, "delay": 0.1}'
    alerts = [{"name": "QueueSaturated", "for": "5s"}]
    pods = start(kubectl, replicas=2, limits=limits, alerts=alerts)
    # Two pods answer 1.25 requests a second.
    with keep_alive_load(cluster, service_url(kubectl, NAME), rate=4, text=slow) as load:
        wait_for(
            lambda: any("QueueSaturated" in kubectl.events(name) for name in (NAME, *map(name_of, pods))),
            60,
            "no Event says QueueSaturated",
        )
        begun = time.time()
        while time.time() - begun < 180:
            assert kubectl.endpoints(NAME) == set(map(address_of, pods)), "overload took a pod out"
            time.sleep(2)
        # The queue is not full at every moment.
        warned = functools.partial(kubectl.condition, NAME, "HasWarnings")
        wait_for(lambda: "QueueSaturated" in warned()["message"], 60, "the condition does not say QueueSaturated")
        requests = results(load)
    statuses = [request["status"] for request in requests]
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) > 100
    assert statuses.count(503) > 1.6 * statuses.count(200), "that was no overload"
    assert counts(kubectl, pods) == [0, 0]
    assert kubectl.condition(NAME, "RemediationSuspended")["status"] == "False"


@pytest.mark.parametrize("step", ["TakenOutOfRotation", "RestartDecided", "RestartedInPlace", "BackInRotation"])
def test_an_operator_that_is_killed_after_a_step_restarts_the_pod_once(
    kubectl: Kubectl, operator: Kubectl, step: str
) -> None:
    rules = [{"alert": "EngineUnresponsive", "action": "Restart", "for": "2s"}]
    sick, healthy = start(kubectl, replicas=2, **HANGS, remediation={**FAST, "rules": rules})
    toggle_hang(sick)
    wait_for(lambda: step in kubectl.events(name_of(sick)), 60, f"no Event says {step}", interval=0.1)
    leader = operator.get("lease", "qwen-operator")["spec"]["holderIdentity"]
    before = restarts(operator, leader)
    kill(operator.get("pod", leader))
    wait_for(lambda: restarts(kubectl, name_of(sick)) == 1, 90, "the hung pod was not restarted")
    wait_for(lambda: len(kubectl.endpoints(NAME)) == 2, 90, "the restarted pod did not come back")
    wait_for(lambda: restarts(operator, leader) > before, 120, "the kubelet does not start the operator again")
    time.sleep(10)  # the time in which a second restart would come
    assert counts(kubectl, [sick, healthy]) == [1, 0]
    remediation = kubectl.get("qwenservice", NAME)["status"]["remediation"]
    assert remediation["restartsInWindow"] == 1
    assert not remediation.get("intents")


@pytest.mark.parametrize("step", ["RestartDecided", "Evicted"])
def test_an_operator_that_is_killed_after_a_step_of_an_eviction_evicts_once(
    kubectl: Kubectl, operator: Kubectl, step: str
) -> None:
    rules = [{"alert": "EngineUnresponsive", "action": "Restart", "for": "2s"}]
    evict = {**FAST, "restartMethod": "Evict", "rules": rules}
    sick, healthy = start(kubectl, replicas=2, **HANGS, remediation=evict)
    toggle_hang(sick)
    wait_for(lambda: step in kubectl.events(name_of(sick)), 60, f"no Event says {step}", interval=0.1)
    leader = operator.get("lease", "qwen-operator")["spec"]["holderIdentity"]
    before = restarts(operator, leader)
    kill(operator.get("pod", leader))
    wait_for(lambda: is_replaced(kubectl, sick, healthy), 120, "the hung pod was not replaced")
    wait_for(lambda: restarts(operator, leader) > before, 120, "the kubelet does not start the operator again")
    time.sleep(10)  # the time in which a second eviction would come
    assert is_replaced(kubectl, sick, healthy)
    assert sum(counts(kubectl, kubectl.pods(NAME))) == 0
    remediation = kubectl.get("qwenservice", NAME)["status"]["remediation"]
    assert remediation["restartsInWindow"] == 1
    assert not remediation.get("intents")


def is_replaced(kubectl: Kubectl, old: Object, other: Object) -> bool:
    """Whether the other pod and one new pod serve, and the old one does not exist."""
    pods = {pod["metadata"]["uid"] for pod in kubectl.pods(NAME)}
    kept = other["metadata"]["uid"] in pods and old["metadata"]["uid"] not in pods
    return kept and len(pods) == 2 and len(kubectl.endpoints(NAME)) == 2


def kill(operator: Object) -> None:
    """Kills the program in a pod of the operator. The kubelet starts it again."""
    pod_processes.send(signal.SIGKILL, pod_processes.pids(operator, "python"))


def test_an_operator_that_reaches_no_pod_says_so_and_lets_new_pods_serve(kubectl: Kubectl, operator: Kubectl) -> None:
    pods = start(kubectl, replicas=2)
    with cut_off(operator):
        kubectl.wait_reason(NAME, "RemediationSuspended", "PodsUnreachable", 90)
        assert kubectl.endpoints(NAME) == set(map(address_of, pods))
        kubectl.run("scale", "qwenservice", NAME, "--replicas=3")
        wait_for(lambda: len(kubectl.endpoints(NAME)) == 3, 90, "the new pod gets no requests")
    wait_for(
        lambda: kubectl.condition(NAME, "RemediationSuspended")["status"] == "False",
        60,
        "remediation stays suspended although the pods answer again",
    )
    assert counts(kubectl, pods) == [0, 0]


def test_a_pod_whose_metrics_cannot_be_read_serves_on_and_an_event_says_why(
    kubectl: Kubectl, cluster: Settings
) -> None:
    pods = start(kubectl, replicas=2, replaceable_metrics=True, remediation=FAST)
    odd, _ = pods
    causes = {
        b"<html>rubbish</html>": "its answer is not valid",
        b"": "it does not answer with status 200",
        scripted_pods.metrics(cluster, odd): "its answer does not change",
    }
    for content, cause in causes.items():
        scripted_pods.replace_metrics(odd, content)
        wait_for(functools.partial(is_unreadable, kubectl, odd, cause), 60, f"no Event says: {cause}")
        assert kubectl.endpoints(NAME) == set(map(address_of, pods))
        assert chat(cluster, odd, "is it still there?") == [200]
        scripted_pods.replace_metrics(odd, None)
        time.sleep(5)  # the real metrics are read again, so that the next cause is another case
    assert counts(kubectl, pods) == [0, 0]
    assert kubectl.condition(NAME, "RemediationSuspended")["status"] == "False"


def is_unreadable(kubectl: Kubectl, pod: Object, why: str) -> bool:
    return any(why in event["message"] for event in events_of(kubectl, pod, "MetricsUnreadable"))


@contextmanager
def cut_off(operator: Kubectl) -> Iterator[None]:
    """Lets no pod of the operator reach a server during the block."""
    found = [pod_processes.pids(pod, "python")[0] for pod in operator.find("pods", OPERATOR_PODS)]
    rule = ["OUTPUT", "--protocol", "tcp", "--dport", "8000", "--jump", "REJECT"]
    for pid in found:
        output(["nsenter", f"--net=/proc/{pid}/ns/net", "iptables", "--insert", *rule])
    try:
        yield
    finally:
        for pid in found:
            output(["nsenter", f"--net=/proc/{pid}/ns/net", "iptables", "--delete", *rule])

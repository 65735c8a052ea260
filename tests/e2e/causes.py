"""What causes the alerts of the pods and of their services, on the local cluster.

A cause is a fault of the kind that the alert is about, and its end is the end of the fault: an
engine that hangs and goes on, a network that lets Prometheus through again. Nobody writes a series.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from tests.cluster.shell import output
from tests.e2e import pod_processes
from tests.e2e.clients import restarts
from tests.e2e.kubectl import Object, wait_for
from tests.e2e.scripted_pods import chat, scripted_service, servers, show_gpu, toggle_hang
from tests.e2e.stage import DYING, FAILING, FIGURES, HANGING, MAX_RESTARTS, ROLLING, SLO_SECONDS, Stage, service

GREETING = "你好"
FEW_TOKENS = '@{"tokens": 5, "delay": 0.6}'
# Two of them fill the KV cache, and a third one waits for a place.
STALL = '@{"first": 20, "cache": 0.5}'
ERROR = '@{"fail": "CUDA error: device-side assert triggered"}'
LATE = f'@{{"first": {SLO_SECONDS + 1.5}}}'
# More than 20 requests in a minute make an error rate.
ERRORS = 25
GOOD = 600
"""Answers after which the slow and the failed ones are less than a twentieth."""
BROKEN = {"allocated": 99, "total": 100, "temperature": 95.0, "faults": ["Xid 79"]}
WELL = {"allocated": 50, "total": 100, "temperature": 50.0}
NEVER = "the weights cannot be read"
DOWN = "down"
# The alerts count the requests of a minute, and deaths and restarts of longer.
MINUTE = 90
RESTART_WINDOW = 180

CAUSES = {
    "QwenLowThroughput": "the engine makes a token every 0.6 s while requests wait",
    "QwenQueueSaturated": "a request waits in the only place of the queue",
    "QwenGenerationStalled": "the engine makes no token for 20 s",
    "QwenKVCacheSaturated": "two requests fill the KV cache",
    "QwenHighTTFT": "the first tokens came after 20 s",
    "QwenHighLatency": "the answers came after 20 s",
    "QwenEngineDead": "the engine of a pod dies",
    "QwenGPUUnhealthy": "the driver of a scripted GPU reports Xid 79",
    "QwenGPUMemoryHigh": "99 % of a scripted GPU's memory are in use",
    "QwenGPUTemperatureHigh": "a scripted GPU has 95 °C",
    "QwenEngineUnresponsive": "an engine hangs",
    "QwenServicePodsOutOfRotation": "remediation may take the pod of a hung engine out, and not restart it",
    "QwenHighErrorRate": "all requests to a pod fail",
    "QwenErrorBudgetBurn availability critical": "four of five requests of a service fail",
    "QwenErrorBudgetBurn availability warning": "four of five requests of a service fail",
    "QwenErrorBudgetBurn ttft critical": "all first tokens of a service are late",
    "QwenErrorBudgetBurn ttft warning": "all first tokens of a service are late",
    "QwenServiceRestartingOften": "three engines hang and are restarted",
    "QwenServiceRemediationSuspended": "a fourth engine hangs, and three restarts are allowed",
    "QwenServiceEngineRestarts": "the engine of a pod dies three times, and its server restarts it",
    "QwenServiceNotScraped": "the network keeps Prometheus from a pod",
    "QwenServiceDegraded": "the new version of a service does not start",
    "QwenServiceDown": "the only version of a service does not start",
    "QwenOperatorReconcileErrors": "a webhook that nobody answers refuses Deployments",
    "QwenOperatorBlind": "the operator may not list pods",
    "QwenOperatorNoLeader": "somebody else holds the Lease",
    "QwenOperatorDown": "the operator is scaled to 0",
}
"""The cause of each alert of both PrometheusRules, by the alert's identity."""


def slow_answers(stage: Stage) -> None:
    """Overloads a pod, stalls its engine, and lets it die."""
    pod = stage.pods(FIGURES)[0]
    alarms, name = stage.alarms, _name(pod)
    with ThreadPoolExecutor(3) as pool:
        slow = [pool.submit(chat, stage.cluster, pod, FEW_TOKENS, 4) for _ in range(3)]
        alarms.fires("QwenLowThroughput", pod=name)
    assert [answers.result() for answers in slow] == [[200] * 4] * 3
    alarms.clears("QwenLowThroughput", pod=name)
    full = ("QwenQueueSaturated", "QwenGenerationStalled", "QwenKVCacheSaturated")
    late = ("QwenHighTTFT", "QwenHighLatency")
    with ThreadPoolExecutor(3) as pool:
        stalled = [pool.submit(chat, stage.cluster, pod, STALL) for _ in range(3)]
        for alert in full:
            alarms.fires(alert, pod=name)
    assert [answers.result() for answers in stalled] == [[200]] * 3
    for alert in full:
        alarms.clears(alert, pod=name)
    for alert in late:
        alarms.fires(alert, pod=name)
    assert set(chat(stage.cluster, pod, GREETING, GOOD)) == {200}
    for alert in late:
        alarms.clears(alert, pod=name)
    pod_processes.send(signal.SIGUSR2, servers(pod))
    alarms.fires("QwenEngineDead", qwenservice=FIGURES)
    alarms.clears("QwenEngineDead", MINUTE, qwenservice=FIGURES)


def broken_hardware(stage: Stage) -> None:
    """Breaks the GPU of a pod, whose engine then hangs, and repairs both."""
    pod = stage.pods(FIGURES)[1]
    alarms, name = stage.alarms, _name(pod)
    reported = ("QwenGPUUnhealthy", "QwenGPUMemoryHigh", "QwenGPUTemperatureHigh", "QwenEngineUnresponsive")
    show_gpu(pod, **BROKEN)
    toggle_hang(pod)
    for alert in reported:
        alarms.fires(alert, pod=name)
    alarms.fires("QwenServicePodsOutOfRotation", 120, qwenservice=FIGURES)
    show_gpu(pod, **WELL)
    toggle_hang(pod)
    for alert in reported:
        alarms.clears(alert, pod=name)
    alarms.clears("QwenServicePodsOutOfRotation", qwenservice=FIGURES)


def errors(stage: Stage) -> None:
    """Fails requests to one pod and delays those to another, and then answers many well."""
    failing, slow = stage.pods(FAILING)
    alarms = stage.alarms
    burns = [alert for alert in CAUSES if alert.startswith("QwenErrorBudgetBurn")]
    assert set(chat(stage.cluster, failing, ERROR, ERRORS)) == {500}
    with ThreadPoolExecutor(6) as pool:
        late = [pool.submit(chat, stage.cluster, slow, LATE) for _ in range(6)]
    assert [answers.result() for answers in late] == [[200]] * 6
    alarms.fires("QwenHighErrorRate", pod=_name(failing))
    for alert in burns:
        alarms.fires(alert, qwenservice=FAILING)
    for pod in (failing, slow):
        assert set(chat(stage.cluster, pod, GREETING, GOOD)) == {200}
    for alert in burns:
        alarms.clears(alert, qwenservice=FAILING)
    alarms.clears("QwenHighErrorRate", MINUTE, pod=_name(failing))


def hanging_engines(stage: Stage) -> None:
    """Hangs as many engines as may be restarted, and then one that goes on by itself."""
    *sick, last = stage.pods(HANGING)
    alarms, kubectl = stage.alarms, stage.kubectl
    assert len(sick) == MAX_RESTARTS
    for pod in sick:
        toggle_hang(pod)

    def restarted() -> list[int]:
        return [restarts(kubectl, _name(pod)) for pod in sick]

    wait_for(lambda: restarted() == [1] * len(sick), 240, lambda: f"the hung pods were restarted {restarted()} times")
    alarms.fires("QwenServiceRestartingOften", qwenservice=HANGING)
    wait_for(lambda: len(kubectl.endpoints(HANGING)) == len(sick) + 1, 240, "the restarted pods did not come back")
    toggle_hang(last)
    alarms.fires("QwenServiceRemediationSuspended", 90, qwenservice=HANGING)
    toggle_hang(last)
    alarms.clears("QwenServiceRemediationSuspended", qwenservice=HANGING)
    alarms.clears("QwenServiceRestartingOften", RESTART_WINDOW, qwenservice=HANGING)


def dying_engines(stage: Stage) -> None:
    """Kills the engine of a server three times, which restarts it."""
    [pod] = stage.pods(DYING)
    for _ in range(3):
        pod_processes.send(signal.SIGUSR2, servers(pod))
        wait_for(lambda: set(chat(stage.cluster, pod, GREETING)) == {200}, 60, "the engine did not come back")
    stage.alarms.fires("QwenServiceEngineRestarts", pod=_name(pod))
    assert restarts(stage.kubectl, _name(pod)) == 0
    stage.alarms.clears("QwenServiceEngineRestarts", RESTART_WINDOW, pod=_name(pod))


def failed_rollout(stage: Stage) -> None:
    """Rolls out what does not start while Prometheus cannot reach the old pod."""
    [old] = stage.pods(ROLLING)
    alarms = stage.alarms
    with unreachable(stage, old):
        stage.kubectl.apply(service(ROLLING, start_failure=NEVER))
        alarms.fires("QwenServiceNotScraped", 120, pod=_name(old))
        alarms.fires("QwenServiceDegraded", 180, qwenservice=ROLLING)
    stage.kubectl.apply(service(ROLLING))
    alarms.clears("QwenServiceNotScraped", pod=_name(old))
    alarms.clears("QwenServiceDegraded", 120, qwenservice=ROLLING)


def failed_start(stage: Stage) -> None:
    """Makes a service that does not start, and then one that does."""
    stage.kubectl.apply(scripted_service(DOWN, start_failure=NEVER))
    stage.alarms.fires("QwenServiceDown", 180, qwenservice=DOWN)
    stage.kubectl.apply(scripted_service(DOWN))
    stage.alarms.clears("QwenServiceDown", 180, qwenservice=DOWN)


@contextmanager
def unreachable(stage: Stage, pod: Object) -> Iterator[None]:
    """Keeps Prometheus from a pod during the block. Everybody else reaches it."""
    [scraper, *_] = pod_processes.pids(stage.alarms.prometheus.pod, "/bin/prometheus")
    inside = ["nsenter", f"--net=/proc/{scraper}/ns/net", "iptables"]
    rule = ["OUTPUT", "--destination", pod["status"]["podIP"], "--protocol", "tcp", "--jump", "REJECT"]
    output([*inside, "--insert", *rule])
    try:
        yield
    finally:
        output([*inside, "--delete", *rule])


def _name(pod: Object) -> str:
    name: str = pod["metadata"]["name"]
    return name

"""Where alerts are caused: services with scripted engines, a Prometheus, and shortened rules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.cluster.demo import Client
from tests.cluster.prometheus_stack import RELEASE
from tests.cluster.settings import Settings
from tests.e2e import prometheus, scripted_pods
from tests.e2e.alarms import Alarms
from tests.e2e.installed import kubectl_in
from tests.e2e.kubectl import Kubectl, Object, wait_for
from tests.e2e.monitored import MONITORING, label_operator, own_namespace
from tests.e2e.prometheus import Prometheus
from tests.e2e.scripted_pods import scripted_service
from tests.e2e.shortened_rules import alerts_of, identity, shortened

SYSTEM = "qwen-system"
FIGURES, FAILING, HANGING, ROLLING, DYING = "figures", "failing", "hanging", "rolling", "dying"
FAST = {"recoverAfter": "4s", "backoff": {"base": "1s", "max": "5s"}}
HANG_SECONDS = 3
SLO_SECONDS = 1
OBJECTIVE = 90
"""Percent. A page needs 60 % of errors with it, a ticket 10 %."""
MAX_RESTARTS = 3


def _at_once(name: str, threshold: float | None = None) -> Object:
    """An alert of a pod that is active after a second. Its default may be a minute."""
    return {"name": name, "for": "1s", **({} if threshold is None else {"threshold": threshold})}


def _only_events(*alerts: str) -> list[Object]:
    """Rules of remediation that leave the pods as they are."""
    return [{"alert": alert, "action": "Event"} for alert in alerts]


_HANGS = {"name": "EngineUnresponsive", "threshold": HANG_SECONDS}
SPECS: dict[str, tuple[int, dict[str, Any]]] = {
    FIGURES: (
        2,
        {
            "limits": {"maxConcurrentRequests": 2, "maxQueueSize": 1},
            "alerts": [
                _HANGS,
                {"name": "GenerationStalled", "threshold": 3},
                _at_once("QueueSaturated"),
                _at_once("HighTTFT", 1),
                _at_once("HighLatency", 1),
                _at_once("LowThroughput", 5),
                _at_once("KVCacheSaturated"),
                _at_once("GPUMemoryHigh"),
                _at_once("GPUTemperatureHigh"),
            ],
            "remediation": {
                **FAST,
                "rules": [
                    {"alert": "EngineUnresponsive", "action": "Unready"},
                    *_only_events("GenerationStalled", "EngineDead", "GPUUnhealthy"),
                ],
            },
        },
    ),
    FAILING: (
        2,
        {
            "slo": {
                "availability": str(OBJECTIVE),
                "ttft": {"threshold": f"{SLO_SECONDS}s", "objective": str(OBJECTIVE)},
            },
            "remediation": {"rules": _only_events("HighErrorRate")},
        },
    ),
    HANGING: (
        MAX_RESTARTS + 1,
        {
            "alerts": [_HANGS],
            "remediation": {
                **FAST,
                "restartMethod": "InPlace",
                "restartBudget": {"maxRestarts": MAX_RESTARTS},
                "rules": [{"alert": "EngineUnresponsive", "action": "Restart", "for": "2s"}],
            },
        },
    ),
    ROLLING: (1, {}),
    # These servers restart their engines themselves.
    DYING: (1, {"engine": {"device": "cpu", "restarts": 5}}),
}
"""The services by their names, each with its number of pods and sections of its spec."""


@dataclass(frozen=True)
class Stage:
    """The cluster with the services and the alerts that a test watches."""

    cluster: Settings
    kubectl: Kubectl
    operator: Kubectl
    alarms: Alarms

    def pods(self, service: str) -> list[Object]:
        """The pods of a service, by name."""
        return self.kubectl.pods(service)


def service(name: str, **more: Any) -> Object:
    """One of the services. `more` are arguments of `scripted_service`."""
    replicas, sections = SPECS[name]
    more = {**sections, "scripted_gpu": name == FIGURES, **more}
    return scripted_service(name, replicas, monitoring=MONITORING, **more)


@contextmanager
def stage(cluster: Settings, client: Client) -> Iterator[Stage]:
    """Runs the services and Prometheus during the block. No alert fires when it begins.

    Prometheus starts last: the kubelet would bring it a later rule only after a minute.
    """
    label_operator(client)
    operator = kubectl_in(cluster, SYSTEM)
    operator.run("rollout", "status", "deployment/qwen-operator", "--timeout=120s")
    with prometheus.prometheus_operator(cluster) as images, own_namespace(cluster, "alarms") as kubectl:
        scripted_pods.install(kubectl)
        kubectl.apply(*(service(name) for name in SPECS))
        wait_for(lambda: len(kubectl.find("prometheusrules")) == len(SPECS), 60, "the services have no PrometheusRules")
        rules = [*kubectl.find("prometheusrules"), operator.get("prometheusrule", "qwen-operator")]
        copies = [shortened(rule, RELEASE) for rule in rules]
        kubectl.apply(*copies)
        for name, (replicas, _) in SPECS.items():
            kubectl.wait_ready(name, replicas, timeout=240)
        running = prometheus.start(cluster, images, [])
        alarms = Alarms(running, {identity(alert) for copy in copies for alert in alerts_of(copy)})
        _wait_until_quiet(running, alarms, kubectl.namespace)
        yield Stage(cluster, kubectl, operator, alarms)


def _wait_until_quiet(running: Prometheus, alarms: Alarms, namespace: str) -> None:
    """Waits until all targets are up and no alert fires."""
    pods = sum(replicas for replicas, _ in SPECS.values())

    def seen() -> list[float]:
        return [running.value(f'max by (pod) (up{{namespace="{name}"}})') for name in (namespace, SYSTEM)]

    def firing() -> list[str]:
        return alarms.in_namespaces({namespace, SYSTEM})

    wait_for(lambda: seen()[0] == pods and seen()[1] > 0, 90, lambda: f"Prometheus sees {seen()} targets", 1.0)
    wait_for(lambda: not firing(), 120, lambda: f"without a cause there are the alerts {firing()}", 1.0)

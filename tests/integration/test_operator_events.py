"""What people read about an incident, as a real API server and kubectl show it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from qwen_operator.process.operator_metrics import REGISTRY
from tests.integration.admin_api import QS, AdminApi, qwen_service
from tests.integration.control_plane import wait_until
from tests.integration.fake_pods import FakePodServers
from tests.integration.test_operator_reconcile import CHILDREN, exist
from tests.integration.test_operator_remediation import asked_to_restart, gate_is, ip_of, start, wait_for_polls

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("operator")]

HUNG = "EngineUnresponsive"
RULES = [{"alert": HUNG, "action": "Unready"}, {"alert": HUNG, "action": "Restart", "for": "3s"}]


def describe(api: AdminApi) -> str:
    """What `kubectl describe` prints."""
    return api.plane.kubectl("--namespace", api.namespace, "describe", "qwenservice", "news")


def hang(servers: FakePodServers) -> None:
    """The engine of the first pod hangs."""
    server = servers.by_ip[ip_of(0)]
    since = datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="microseconds")
    server.details = {"value": 16.2, "threshold": 15, "unit": "seconds", "since": since}
    server.alerts, server.generates = [HUNG], False


def test_kubectl_describe_tells_an_incident_in_order(api: AdminApi, servers: FakePodServers) -> None:
    later = [RULES[0], {**RULES[1], "for": "1h"}]  # until its outlook was read
    pod, _ = start(api, servers, 2, rules=later)
    hang(servers)
    wait_until("the gate is closed", gate_is(api, pod, "False"))
    api.run_pod(pod, ip_of(0))
    # Before its kubelet says that it is not ready, the pod only answers nothing.
    wait_until("it is degraded", lambda: "taken out of rotation" in api.condition("Degraded").get("message", ""))
    message = api.condition("Degraded")["message"]
    assert api.condition("Degraded")["reason"] == HUNG
    assert f"Pod {pod}: taken out of rotation for {HUNG} (16.2 seconds, threshold 15, since 20" in message
    assert "It is restarted at 20" in message
    api.patch(QS, "qwenservices", "news", {"spec": {"remediation": {"rules": RULES}}})
    wait_until("a restart is asked for", lambda: asked_to_restart(api, pod))
    server = servers.by_ip[ip_of(0)]
    server.alerts, server.generates, server.uptime = [], True, 1.0
    wait_for_polls(server)  # as the new engine is polled before its pod says that it runs
    api.run_pod(pod, ip_of(0), restarts=1)
    wait_until("the gate is open again", gate_is(api, pod, "True"))
    api.run_pod(pod, ip_of(0), restarts=1)
    wait_until("the restart is over", lambda: api.events("RestartRecovered"))
    events = describe(api).partition("\nEvents:")[2]
    order = ("TakenOutOfRotation", "RestartDecided", "RestartedInPlace", "BackInRotation", "RestartRecovered")
    assert [events.index(f" {reason} ") for reason in order] == sorted(events.index(f" {reason} ") for reason in order)
    assert "(16.2 seconds, threshold 15, since 20" in events
    assert "it is restart 1 of 3 within 3600 s" in events


def test_a_restart_that_waits_says_for_what(api: AdminApi, servers: FakePodServers) -> None:
    pod, _ = start(api, servers, 2, rules=RULES, restartBudget={"maxRestarts": 0, "window": "1h"})
    hang(servers)
    wait_until("the gate is closed", gate_is(api, pod, "False"))
    api.run_pod(pod, ip_of(0))
    [event] = wait_until("it waits", lambda: api.events("RestartPostponed"))
    assert "maxRestarts is 0, which allows no restart." in event["message"]
    wait_until("the condition says so", lambda: "It is not restarted." in api.condition("Degraded")["message"])


def written() -> float:
    """The writes of Deployments in this process."""
    return REGISTRY.get_sample_value("qwen_operator_writes_total", {"kind": "Deployment"}) or 0.0


def repairs(api: AdminApi) -> int:
    """How often an Event said that drift was repaired."""
    return sum(int(event["count"]) for event in api.events("DriftRepaired"))


def test_somebody_who_keeps_changing_a_child_is_named_and_answered_less_often(api: AdminApi) -> None:
    api.create(qwen_service())
    wait_until("all children", lambda: exist(api, CHILDREN))
    api.started(1)
    time.sleep(1.0)  # the last of the first writes
    before = written()
    for _ in range(27):
        api.patch("apps/v1", "deployments", "news", {"spec": {"replicas": 2}})
        time.sleep(0.15)
    wait_until("it is contested", lambda: api.condition("Degraded").get("reason") == "Contested")
    message: Any = api.condition("Degraded")["message"]
    assert "spec.replicas (changed from 1 to 2 by Python-urllib)" in message
    assert written() - before <= 5
    wait_until("all Events", lambda: repairs(api) >= 3)
    assert api.events("DriftRepaired")[0]["message"] == (
        "Deployment news was changed and was set back: spec.replicas (changed from 1 to 2 by Python-urllib)."
    )

    def is_repaired() -> bool:
        return bool((api.deployment() or {})["spec"]["replicas"] == 1)

    wait_until("the drift is repaired", is_repaired)

"""Reasons of Ready that take longer to show than those in tests/e2e/test_reasons.py."""

from __future__ import annotations

import signal

import pytest

from tests.e2e import pod_processes, scripted_pods
from tests.e2e.facts import NAME, ended, expect, not_ready
from tests.e2e.kubectl import Kubectl
from tests.e2e.scripted_pods import scripted_service

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def test_reason_of_ready_is_engine_failed_until_it_is_up_again(kubectl: Kubectl) -> None:
    scripted_pods.install(kubectl)
    kubectl.apply(scripted_service(NAME, start_seconds=10))
    kubectl.wait_ready(NAME, timeout=120)
    [pod] = kubectl.pods(NAME)
    pod_processes.send(signal.SIGUSR2, scripted_pods.servers(pod))
    expect(kubectl, "EngineFailed", ended, "exited with code 70")
    kubectl.wait_ready(NAME, timeout=120)


def test_reason_of_ready_is_engine_unresponsive_while_it_hangs(kubectl: Kubectl) -> None:
    scripted_pods.install(kubectl)
    only_out = {"rules": [{"alert": "EngineUnresponsive", "action": "Unready"}], "recoverAfter": "4s"}
    alerts = [{"name": "EngineUnresponsive", "threshold": 4}]
    kubectl.apply(scripted_service(NAME, alerts=alerts, remediation=only_out))
    kubectl.wait_ready(NAME, timeout=120)
    [pod] = kubectl.pods(NAME)
    scripted_pods.toggle_hang(pod)
    expect(kubectl, "EngineUnresponsive", not_ready)
    scripted_pods.toggle_hang(pod)
    kubectl.wait_ready(NAME, timeout=120)

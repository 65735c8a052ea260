"""Metrics that need a token, which Prometheus and the operator have."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.demo import Client, install_operator
from tests.cluster.prometheus_stack import RELEASE
from tests.cluster.settings import ROOT, Settings
from tests.cluster.shell import output
from tests.e2e import scripted_pods
from tests.e2e.kubectl import Kubectl, Object, wait_for
from tests.e2e.prometheus import prometheus_operator, start
from tests.e2e.scripted_pods import scripted_service, toggle_hang

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NAME = "news"
OPERATORS_KEYS = "metrics-keys-of-the-test"
KEYS, TOKEN = "keys", "metrics-token"
AUTH = {
    "apiKeySecretRef": {"name": KEYS},
    "metricsTokenSecretRef": {"name": TOKEN, "key": "token"},
}
ALERT = "EngineUnresponsive"
ONLY_OUT = {"rules": [{"alert": ALERT, "action": "Unready"}], "recoverAfter": "4s"}


def secret(name: str, **content: str) -> Object:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": content}


@pytest.fixture
def key_of_operator(client: Client, operator: Kubectl) -> Iterator[None]:
    """Gives the operator a key, from which its tokens follow, and takes it away afterwards."""
    operator.apply(secret(OPERATORS_KEYS, keys="k" * 32))
    value = f"monitoring.metricsKey.secretName={OPERATORS_KEYS}"
    where = ("qwen-operator", str(ROOT / "charts" / "qwen-operator"), "--namespace", operator.namespace)
    try:
        client.helm("upgrade", *where, "--reuse-values", "--set", value, "--wait", "--timeout=4m")
        yield
    finally:
        install_operator(client)
        operator.run("delete", "secret", OPERATORS_KEYS)


def status(cluster: Settings, pod: Object, token: str) -> str:
    """The status of the answer to a scraper with this token."""
    url = f"http://{pod['status']['podIP']}:8000/metrics/prometheus"
    command = ["curl", "--silent", "--max-time", "10", "--output", "/dev/null", "--write-out", "%{http_code}"]
    return output([*cluster.nsenter(), *command, "--header", f"Authorization: Bearer {token}", url], timeout=20).strip()


@pytest.mark.usefixtures("key_of_operator")
def test_prometheus_and_the_operator_read_metrics_that_need_a_token(kubectl: Kubectl, cluster: Settings) -> None:
    scripted_pods.install(kubectl)
    kubectl.apply(secret(KEYS, all="a-key-of-clients"), secret(TOKEN, token="a-token-for-metrics"))
    alerts = [{"name": ALERT, "threshold": 4}]
    monitoring = {"interval": "2s", "labels": RELEASE}
    kubectl.apply(scripted_service(NAME, auth=AUTH, alerts=alerts, remediation=ONLY_OUT, monitoring=monitoring))
    kubectl.wait_ready(NAME, timeout=120)
    [pod] = kubectl.pods(NAME)
    assert [status(cluster, pod, token) for token in ("wrong", "a-token-for-metrics")] == ["401", "200"]
    assert kubectl.condition(NAME, "HasWarnings")["reason"] != "MetricsKeyMissing"

    with prometheus_operator(cluster) as images:
        prometheus = start(cluster, images, [])
        targets = f"serviceMonitor/{kubectl.namespace}/"
        up = f'up{{namespace="{kubectl.namespace}"}}'
        wait_for(lambda: prometheus.value(up) == 1, 90, lambda: f"the pod is not up: {prometheus.targets(targets)}")

    # The operator learns only from the metrics that the engine hangs.
    toggle_hang(pod)
    kubectl.wait_reason(NAME, "Ready", ALERT, 60)
    toggle_hang(pod)
    kubectl.wait_ready(NAME, timeout=60)

"""An operator of listed namespaces: it serves them, without any right in others or in the cluster.

The operator of all namespaces, which the other tests use, is off meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cluster.demo import Client
from tests.cluster.settings import Settings
from tests.e2e import releases, scripted_pods
from tests.e2e.clients import restarts
from tests.e2e.conftest import new_namespace
from tests.e2e.kubectl import OPERATOR_PODS, Kubectl, KubectlError, wait_for
from tests.e2e.releases import CHART, put, uninstall
from tests.e2e.scripted_pods import scripted_service, toggle_hang
from tests.e2e.services import ask_through_service

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NAME, RELEASE = "news", "team"
CLUSTER_WIDE = f"{releases.CLUSTER_WIDE},customresourcedefinitions"
CHAT = {"messages": [{"role": "user", "content": "央行宣布降息"}], "max_tokens": 16}
HANGS: dict[str, Any] = {
    "alerts": [{"name": "EngineUnresponsive", "threshold": 4}],
    "remediation": {
        "rules": [{"alert": "EngineUnresponsive", "action": "Restart", "for": "2s"}],
        "recoverAfter": "4s",
        "backoff": {"base": "1s", "max": "5s"},
    },
}


@pytest.fixture
def home(cluster: Settings) -> Iterator[Kubectl]:
    """The namespace of the operator of listed namespaces."""
    with new_namespace(cluster, "home") as found:
        yield found


@pytest.fixture
def foreign(cluster: Settings) -> Iterator[Kubectl]:
    """A namespace that is not listed."""
    with new_namespace(cluster, "foreign") as found:
        yield found


@contextmanager
def serves_only(listed: Kubectl, home: Kubectl, client: Client, operator: Kubectl) -> Iterator[None]:
    """During the block, one namespace has an operator. Afterwards there is one for all again."""
    try:
        operator.run("scale", "deployment", "qwen-operator", "--replicas=0")
        wait_for(lambda: not operator.find("pods", OPERATOR_PODS), 60, "the operator's pods stay")
        options = ("--set", "crds.enabled=false", "--set", f"watchNamespaces={{{listed.namespace}}}")
        put(client, "install", CHART, *options, name=RELEASE, namespace=home.namespace)
        try:
            yield
        finally:
            uninstall(client, RELEASE, home.namespace)
    finally:
        operator.run("scale", "deployment", "qwen-operator", "--replicas=2")
        operator.run("rollout", "status", "deployment/qwen-operator", "--timeout=110s")


def may(kubectl: Kubectl, account: str, verb: str, resource: str) -> bool:
    """Whether a ServiceAccount may do this in the namespace."""
    try:
        said = kubectl.run("auth", "can-i", verb, resource, f"--as=system:serviceaccount:{account}")
    except KubectlError:
        return False
    return said.strip() == "yes"


def test_an_operator_of_listed_namespaces_serves_them_and_touches_no_other(
    kubectl: Kubectl, foreign: Kubectl, home: Kubectl, client: Client, operator: Kubectl, *, cluster: Settings
) -> None:
    with serves_only(kubectl, home, client, operator):
        for where in (kubectl, foreign):
            scripted_pods.install(where)
            where.apply(scripted_service(NAME, 2, **HANGS))
        kubectl.wait_ready(NAME, 2, timeout=120)
        wait_for(lambda: len(kubectl.endpoints(NAME)) == 2, 30, "not all pods are in the EndpointSlice")
        answer = ask_through_service(kubectl, cluster, NAME, "/v1/chat/completions", CHAT)
        assert answer["object"] == "chat.completion"
        tested = releases.helm_test(client, RELEASE, home.namespace)
        assert f"{kubectl.namespace}/{NAME} answers: " in tested
        assert foreign.namespace not in tested

        # Remediation works: it needs the metrics, the status of pods and the right to restart them.
        hung, _ = kubectl.pods(NAME)
        toggle_hang(hung)
        wait_for(lambda: restarts(kubectl, hung["metadata"]["name"]) == 1, 60, "the hung pod was not restarted")
        wait_for(lambda: len(kubectl.endpoints(NAME)) == 2, 60, "the restarted pod did not come back")
        served = {pod["metadata"]["uid"] for pod in kubectl.pods(NAME)}

        assert "conditions" not in foreign.get("qwenservice", NAME).get("status", {})
        assert foreign.find("deployments") + foreign.find("services") + foreign.find("events") == []
    # Now an operator serves all namespaces, and takes over what is there as it is.
    foreign.wait_ready(NAME, 2, timeout=120)
    assert {pod["metadata"]["uid"] for pod in kubectl.pods(NAME)} == served
    assert sum(restarts(kubectl, pod["metadata"]["name"]) for pod in kubectl.pods(NAME)) == 1


def test_an_operator_of_listed_namespaces_has_no_rights_elsewhere(
    kubectl: Kubectl, foreign: Kubectl, home: Kubectl, client: Client, operator: Kubectl
) -> None:
    with serves_only(kubectl, home, client, operator):
        made = kubectl.run("get", CLUSTER_WIDE, "-l", f"app.kubernetes.io/instance={RELEASE}", "-o", "name")
        assert made.split() == []
        account = f"{home.namespace}:{RELEASE}-qwen-operator"
        for verb, resource in (("patch", "deployments.apps"), ("list", "pods"), ("watch", "qwenservices.qwen-vllm.io")):
            assert may(kubectl, account, verb, resource)
            assert not may(foreign, account, verb, resource)
        for verb, resource in (("get", "nodes"), ("list", "namespaces"), ("get", "secrets")):
            assert not may(kubectl, account, verb, resource)

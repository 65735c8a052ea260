"""NetworkPolicies in force: who reaches a service and the operator, and whom the operator reaches.

Each connection is a real one, from the network of a real pod.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.demo import Client, install_operator
from tests.cluster.settings import API_SERVICE_IP, DNS_SERVICE_IP, ROOT, Settings
from tests.e2e import client_pods, scripted_pods
from tests.e2e.clients import restarts
from tests.e2e.conftest import new_namespace
from tests.e2e.enforced_policies import connect, documented_values, enforced
from tests.e2e.kubectl import OPERATOR_PODS, Kubectl, Object, wait_for
from tests.e2e.scripted_pods import scripted_service

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NAME = "news"
CHART = ROOT / "charts" / "qwen-operator"
NAMESPACE_NAME = "kubernetes.io/metadata.name"
NEWSROOM: dict[str, Any] = {"podSelector": {"matchLabels": {"app": "newsroom"}}}
SERVED, METRICS = 8000, 8080
# Three failures of a readiness probe every 5 s.
PROBE_SECONDS = 20
FOLLOW_SECONDS = 20  # until a changed policy is applied by the operator and followed by the node


@dataclass(frozen=True)
class World:
    """A service and clients: two in its namespace, and two in another one."""

    kubectl: Kubectl
    elsewhere: Kubectl
    clients: Mapping[str, Object]

    def serve(self, **sections: Any) -> Object:
        """Applies the service with these sections. Returns its pod."""
        self.kubectl.apply(scripted_service(NAME, **sections))
        self.kubectl.wait_ready(NAME, timeout=120)
        [pod] = self.kubectl.pods(NAME)
        return pod

    def expect(self, outcome: str, who: str | Object, address: str, port: int) -> None:
        """Waits until a connection of a client, or of a pod of the operator, ends so."""
        pod = self.clients[who] if isinstance(who, str) else who
        name = pod["metadata"]["name"]
        found: list[str] = []

        def ends_so() -> bool:
            found.append(connect(pod, client_pods.PROCESS, address, port))
            return found[-1] == outcome

        wait_for(ends_so, FOLLOW_SECONDS, lambda: f"{name} to {address}:{port} is {found[-1]}, not {outcome}")


@pytest.fixture(scope="module")
def world(cluster: Settings) -> Iterator[World]:
    with new_namespace(cluster, "policies") as kubectl, new_namespace(cluster, "elsewhere") as elsewhere:
        scripted_pods.install(kubectl)
        clients = {
            "newsroom": client_pods.run(cluster, kubectl, "newsroom", app="newsroom"),
            "stranger": client_pods.run(cluster, kubectl, "stranger", app="stranger"),
            "prometheus": client_pods.run(cluster, elsewhere, "prometheus", app="prometheus"),
            "neighbor": client_pods.run(cluster, elsewhere, "neighbor", app="newsroom"),
        }
        yield World(kubectl, elsewhere, clients)


def test_only_who_is_admitted_reaches_the_port_of_a_service(world: World, cluster: Settings, operator: Kubectl) -> None:
    scraper = {
        "namespaceSelector": {"matchLabels": {NAMESPACE_NAME: world.elsewhere.namespace}},
        "podSelector": {"matchLabels": {"app": "prometheus"}},
    }
    policy = {"enabled": True, "from": [NEWSROOM]}
    pod = world.serve(networkPolicy=policy, monitoring={"networkPolicyFrom": [scraper]})
    address = pod["status"]["podIP"]
    through_service = world.kubectl.get("service", NAME)["spec"]["clusterIP"]
    for who in world.clients:  # nothing enforces the policy yet
        world.expect("open", who, address, SERVED)
    world.expect("refused", "newsroom", address, SERVED + 1)

    with enforced(cluster, world.kubectl):
        for who in ("stranger", "neighbor"):
            world.expect("dropped", who, address, SERVED)
            world.expect("dropped", who, through_service, SERVED)
        for who in ("newsroom", "prometheus"):
            world.expect("open", who, address, SERVED)
            world.expect("open", who, through_service, SERVED)
        for own in operator.find("pods", OPERATOR_PODS):
            world.expect("open", own, address, SERVED)
        world.expect("dropped", "newsroom", address, SERVED + 1)
        time.sleep(PROBE_SECONDS)  # the time in which the kubelet would find it sick
        assert world.kubectl.endpoints(NAME) == {address}
        assert restarts(world.kubectl, pod["metadata"]["name"]) == 0

    world.expect("open", "stranger", address, SERVED)


def test_without_a_list_the_pods_of_the_namespace_are_admitted(world: World, cluster: Settings) -> None:
    address = world.serve(networkPolicy={"enabled": True})["status"]["podIP"]
    with enforced(cluster, world.kubectl):
        for who in ("newsroom", "stranger"):
            world.expect("open", who, address, SERVED)
        for who in ("prometheus", "neighbor"):
            world.expect("dropped", who, address, SERVED)


def test_the_operator_works_under_the_documented_policy(
    world: World, cluster: Settings, client: Client, operator: Kubectl, tmp_path: Path
) -> None:
    address = world.serve(networkPolicy={"enabled": True})["status"]["podIP"]
    values = documented_values()
    [peer] = values["networkPolicy"]["from"]
    peer["namespaceSelector"]["matchLabels"][NAMESPACE_NAME] = world.elsewhere.namespace
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    upgrade = ("upgrade", "qwen-operator", str(CHART), "--namespace", "qwen-system", "--reuse-values")
    try:
        with enforced(cluster, world.kubectl):
            client.helm(*upgrade, "--values", str(file), "--wait", "--timeout=4m")
            # New pods must find the API server, and become ready, under the policy.
            operator.run("rollout", "restart", "deployment/qwen-operator")
            operator.run("rollout", "status", "deployment/qwen-operator", "--timeout=110s")
            wait_for(lambda: len(operator.find("pods", OPERATOR_PODS)) == 2, 60, "old pods of the operator stay")
            for pod in operator.find("pods", OPERATOR_PODS):
                check_ways(world, pod, address)
            # Nobody but the operator restores it.
            world.kubectl.run("delete", "networkpolicy", NAME)
            wait_for(lambda: world.kubectl.find("networkpolicies"), 60, "the deleted policy does not come back")
            tested = client.helm("test", "qwen-operator", "--namespace", "qwen-system", "--logs", timeout=180)
            assert "/metrics 200" in tested
    finally:
        install_operator(client)


def check_ways(world: World, pod: Object, model: str) -> None:
    """Asserts whom a pod of the operator reaches, and who reaches it."""
    own = pod["status"]["podIP"]
    for address, port in ((API_SERVICE_IP, 443), (DNS_SERVICE_IP, 53), (model, SERVED)):
        world.expect("open", pod, address, port)
    world.expect("dropped", pod, world.clients["stranger"]["status"]["podIP"], client_pods.PORT)
    world.expect("open", "prometheus", own, METRICS)
    world.expect("dropped", "stranger", own, METRICS)

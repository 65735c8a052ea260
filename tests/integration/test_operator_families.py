"""A service in a dual-stack cluster and in one with IPv6 only: its IP families, and its pods.

The other tests use a cluster of IPv4.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.settings import ROOT
from tests.integration.admin_api import QS, AdminApi, qwen_service
from tests.integration.control_plane import ControlPlane, control_plane, wait_until
from tests.integration.fake_pods import FakePodServers
from tests.integration.operator_thread import OperatorThread

pytestmark = pytest.mark.cluster

BOTH_FAMILIES = "--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112"
POD_ADDRESS = "fd00:10:244::7"


def live(api: AdminApi) -> dict[str, Any]:
    """The Service; empty before there is one."""
    return api.get("v1", "services", "news") or {}


def families(api: AdminApi) -> list[str]:
    return list(live(api).get("spec", {}).get("ipFamilies", ()))


def choose(api: AdminApi, policy: str | None, expected: list[str]) -> None:
    api.patch(QS, "qwenservices", "news", {"spec": {"service": {"ipFamilyPolicy": policy}}})
    wait_until(f"{policy} has an effect", lambda: families(api) == expected)


@contextmanager
def operated(plane: ControlPlane, servers: FakePodServers) -> Iterator[tuple[AdminApi, OperatorThread]]:
    """The operator works in a cluster that has just started."""
    plane.kubectl("apply", "--server-side", "-f", str(ROOT / "manifests" / "install.yaml"))
    plane.wait_for_definition("qwenservices.qwen-vllm.io")
    kubeconfig = plane.write_kubeconfig("operator", plane.service_account_token("qwen-system", "qwen-operator"))
    api = AdminApi(plane, "default")
    wait_until("the namespace has its ServiceAccount", lambda: api.objects("v1", "serviceaccounts"))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("KUBECONFIG", str(kubeconfig))
        with OperatorThread(kubeconfig, "default", servers.url_of) as operator:
            yield api, operator


def test_a_service_has_the_families_of_its_cluster_and_reaches_ipv6_pods(
    tmp_path: Path, servers: FakePodServers
) -> None:
    with control_plane(tmp_path, [BOTH_FAMILIES]) as plane, operated(plane, servers) as (api, operator):
        api.create(qwen_service())
        wait_until("both families", lambda: families(api) == ["IPv4", "IPv6"])
        serve_on_ipv6(api, servers)
        choose(api, "SingleStack", ["IPv4"])
        choose(api, "RequireDualStack", ["IPv4", "IPv6"])
        choose(api, None, ["IPv4", "IPv6"])
        stays_at_rest(api, operator)


def test_a_service_serves_where_there_is_no_ipv4(tmp_path: Path, servers: FakePodServers) -> None:
    with control_plane(tmp_path, ipv6=True) as plane, operated(plane, servers) as (api, operator):
        assert plane.url.startswith("https://[::1]:")
        api.create(qwen_service())
        wait_until("its family", lambda: families(api) == ["IPv6"])
        serve_on_ipv6(api, servers)
        api.patch(QS, "qwenservices", "news", {"spec": {"service": {"ipFamilyPolicy": "RequireDualStack"}}})
        refused = "the Service of two families is refused"
        wait_until(refused, lambda: "ipFamilyPolicy" in api.condition("Degraded").get("message", ""))
        choose(api, "SingleStack", ["IPv6"])
        stays_at_rest(api, operator, "SingleStack")


def serve_on_ipv6(api: AdminApi, servers: FakePodServers) -> None:
    """A pod with an IPv6 address is polled and gets requests."""
    server = servers.add(POD_ADDRESS)
    [pod] = api.started(1)
    api.run_pod(pod, POD_ADDRESS)
    wait_until("the gate is open", lambda: api.gate(pod) == "True")
    api.run_pod(pod, POD_ADDRESS)
    wait_until("it serves", lambda: api.condition("Ready").get("status") == "True")
    wait_until("it was polled", lambda: server.asked["/api/v1/metrics"])


def stays_at_rest(api: AdminApi, operator: OperatorThread, policy: str = "PreferDualStack") -> None:
    """What the API server has filled in is no drift."""
    wait_until(f"the policy is {policy}", lambda: live(api)["spec"]["ipFamilyPolicy"] == policy)
    before = live(api)["metadata"]["resourceVersion"]
    for _ in range(2):
        operator.reconcile()
        time.sleep(0.5)
    assert live(api)["metadata"]["resourceVersion"] == before
    assert not api.events("DriftRepaired")

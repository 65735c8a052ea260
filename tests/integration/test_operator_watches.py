"""The operator's watches bear what happens to namespaces and to the definition."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from tests.cluster.settings import ROOT
from tests.integration.admin_api import QS, AdminApi, qwen_service
from tests.integration.control_plane import ControlPlane, wait_until
from tests.integration.fake_pods import FakePodServers
from tests.integration.operator_thread import OperatorThread

pytestmark = pytest.mark.cluster

CLUSTER_ROLE = "qwen-operator-qwen-system"


def allow(api: AdminApi) -> None:
    """Gives the ServiceAccount qwen-system/narrow the operator's rights in one namespace."""
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "narrow"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": CLUSTER_ROLE},
        "subjects": [{"kind": "ServiceAccount", "namespace": "qwen-system", "name": "narrow"}],
    }
    where = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{api.namespace}/rolebindings"
    api.plane.request("POST", where, binding)


def forbid(api: AdminApi) -> None:
    """Takes them away."""
    where = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{api.namespace}/rolebindings/narrow"
    api.plane.request("DELETE", where)


@pytest.fixture
def narrow_kubeconfig(plane: ControlPlane) -> Path:
    """A kubeconfig of a ServiceAccount without any rights."""
    accounts = "/api/v1/namespaces/qwen-system/serviceaccounts"
    plane.request("POST", accounts, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "narrow"}})
    return plane.write_kubeconfig("narrow", plane.service_account_token("qwen-system", "narrow"))


def test_a_namespace_without_rights_affects_no_other_and_is_served_once_it_has_them(
    plane: ControlPlane,
    api: AdminApi,
    servers: FakePodServers,
    narrow_kubeconfig: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = AdminApi(plane, f"other-{uuid.uuid4().hex[:6]}")
    monkeypatch.setenv("KUBECONFIG", str(narrow_kubeconfig))
    allow(api)
    with OperatorThread(narrow_kubeconfig, f"{api.namespace},{other.namespace}", servers.url_of) as operator:
        api.create(qwen_service())
        wait_until("the first namespace is served", api.deployment)
        other.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other.namespace}})
        other.create(qwen_service())
        allow(other)
        wait_until("the second namespace is served, too", other.deployment, seconds=90)
        forbid(other)
        plane.request("DELETE", f"/api/v1/namespaces/{other.namespace}")
        api.create(qwen_service("another"))
        wait_until("the first namespace is still served", lambda: api.deployment("another"))
        assert operator.health.ready


@pytest.mark.usefixtures("operator")
def test_a_definition_that_was_deleted_and_came_back_is_served(
    plane: ControlPlane, api: AdminApi, operator: OperatorThread
) -> None:
    api.create(qwen_service("before"))
    wait_until("the service before", lambda: api.deployment("before"))
    try:
        plane.kubectl("delete", "crd", "qwenservices.qwen-vllm.io", "--timeout=60s")
        wait_until(
            "the operator knows of none", lambda: operator.controller and not operator.controller.cluster.services
        )
        wait_until("the operator is not ready", lambda: not operator.health.ready)
    finally:
        plane.kubectl("apply", "--server-side", "-f", str(ROOT / "manifests" / "crd.yaml"))
        plane.wait_for_definition("qwenservices.qwen-vllm.io")
    api.create(qwen_service("after"))
    wait_until("the service after", lambda: api.deployment("after"), seconds=40)
    wait_until("the operator is ready", lambda: operator.health.ready)
    assert api.get(QS, "qwenservices", "before") is None

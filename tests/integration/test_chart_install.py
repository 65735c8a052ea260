"""The chart, installed by Helm on a real API server: install, upgrade, uninstall."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from charts import generate

from tests.cluster import builds
from tests.cluster.settings import ROOT, Settings
from tests.integration.control_plane import ControlPlane, control_plane

pytestmark = pytest.mark.cluster

SAMPLES = sorted((ROOT / "manifests" / "samples").glob("*.yaml"))
OURS = "app.kubernetes.io/instance=qwen-operator"


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A separate control plane, because these tests add and remove the CRD."""
    with control_plane(tmp_path_factory.mktemp("chart")) as running:
        yield running


@pytest.fixture
def program(request: pytest.FixtureRequest) -> str:
    """The Helm program: 3, and with `both` also 4, which uses server-side apply."""
    return str(getattr(request, "param", "helm"))


both = pytest.mark.parametrize("program", ["helm", "helm4/helm"], indirect=True)


@pytest.fixture
def installed(empty: ControlPlane, program: str) -> Iterator[ControlPlane]:
    """The chart with its defaults; it is removed completely afterwards."""
    helm(empty, "install", "qwen-operator", str(generate.CHART), "--create-namespace", program=program)
    empty.wait_for_definition("qwenservices.qwen-vllm.io")
    yield empty
    helm(empty, "uninstall", "qwen-operator", "--ignore-not-found", program=program)
    empty.kubectl("delete", "crd", "qwenservices.qwen-vllm.io", "--ignore-not-found")


def helm(plane: ControlPlane, *arguments: str, program: str = "helm") -> str:
    """Runs helm as administrator in the operator's namespace; fails with its error output."""
    command = [generate.find_helm(program), *arguments, "--namespace", generate.NAMESPACE]
    environment = {**os.environ, "KUBECONFIG": str(plane.kubeconfig), "HELM_CACHE_HOME": str(plane.folder / "helm")}
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def may(plane: ControlPlane, verb: str, group: str, resource: str, namespace: str = "default") -> bool:
    """Whether the operator's ServiceAccount may do this; a subresource is written `pods/status`."""
    plural, _, subresource = resource.partition("/")
    wanted = {"verb": verb, "group": group, "resource": plural, "subresource": subresource, "namespace": namespace}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:{generate.NAMESPACE}:qwen-operator",
            "groups": ["system:serviceaccounts", "system:authenticated"],
            "resourceAttributes": wanted,
        },
    }
    answer = plane.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


def names(plane: ControlPlane, kinds: str, selector: str = OURS) -> set[str]:
    listed = plane.kubectl("get", kinds, "--all-namespaces", "-l", selector, "-o", "name", "--ignore-not-found")
    return set(listed.split())


def test_installed_chart_serves_the_definition_and_accepts_every_sample(installed: ControlPlane) -> None:
    assert len(SAMPLES) >= 2
    for sample in SAMPLES:
        assert "created (server dry run)" in installed.kubectl("apply", "--dry-run=server", "-f", str(sample))
    assert "deployment.apps/qwen-operator" in names(installed, "deployments")


def test_notes_of_the_installed_chart_can_be_applied_as_they_stand(installed: ControlPlane) -> None:
    notes = helm(installed, "get", "notes", "qwen-operator")
    sample = notes.split("kubectl apply -f - <<'END'\n")[1].split("\n  END\n")[0]
    assert "created (server dry run)" in installed.kubectl("apply", "--dry-run=server", "-f", "-", text=sample)


def test_operator_may_do_its_work_and_not_more(installed: ControlPlane) -> None:
    for verb, group, resource in (
        ("watch", "qwen-vllm.io", "qwenservices"),
        ("patch", "qwen-vllm.io", "qwenservices/status"),
        ("patch", "apps", "deployments"),
        ("patch", "", "pods/status"),
        ("create", "", "pods/eviction"),
        ("get", "", "nodes"),
        ("list", "monitoring.coreos.com", "prometheuses"),
        ("list", "", "namespaces"),
        ("list", "networking.k8s.io", "ingressclasses"),
        ("patch", "networking.k8s.io", "ingresses"),
        ("create", "batch", "jobs"),
        ("delete", "batch", "jobs"),
        ("patch", "keda.sh", "scaledobjects"),
    ):
        assert may(installed, verb, group, resource), f"{verb} {resource}"
    for verb, group, resource in (
        ("get", "", "secrets"),
        ("list", "", "secrets"),
        ("delete", "", "pods"),
        ("create", "", "pods/exec"),
        ("delete", "qwen-vllm.io", "qwenservices"),
        ("delete", "", "persistentvolumeclaims"),
        ("create", "rbac.authorization.k8s.io", "clusterrolebindings"),
    ):
        assert not may(installed, verb, group, resource), f"{verb} {resource}"
    assert may(installed, "create", "coordination.k8s.io", "leases", generate.NAMESPACE)
    assert not may(installed, "create", "coordination.k8s.io", "leases", "kube-system")


def test_operator_of_listed_namespaces_has_no_rights_elsewhere(installed: ControlPlane) -> None:
    helm(installed, "upgrade", "qwen-operator", str(generate.CHART), "--set", "watchNamespaces={default}")
    assert may(installed, "patch", "apps", "deployments", "default")
    assert not may(installed, "list", "apps", "deployments", "kube-public")
    assert not may(installed, "get", "", "nodes")
    assert not may(installed, "list", "monitoring.coreos.com", "prometheuses")
    assert names(installed, "clusterroles,clusterrolebindings,priorityclasses") == set()


@both
def test_upgrade_can_switch_the_election_off_and_on(installed: ControlPlane, program: str) -> None:
    alone = ("--set", "replicas=1,leaderElection.enabled=false")
    strategies = []
    for values in (alone, ("--reset-values",)):
        helm(installed, "upgrade", "qwen-operator", str(generate.CHART), *values, program=program)
        found = installed.kubectl("get", "deployment", "qwen-operator", "-n", generate.NAMESPACE, "-o", "yaml")
        strategies.append(yaml.safe_load(found)["spec"]["strategy"]["type"])
    assert strategies == ["Recreate", "RollingUpdate"]


@both
def test_uninstall_keeps_services_and_a_new_install_takes_them_over(installed: ControlPlane, program: str) -> None:
    installed.kubectl("apply", "-f", str(SAMPLES[0]))
    before = installed.kubectl("get", "qwenservices", "-A", "-o", "name")
    helm(installed, "uninstall", "qwen-operator", program=program)
    assert names(installed, "deployments,roles,clusterroles,services,serviceaccounts") == set()
    assert installed.kubectl("get", "qwenservices", "-A", "-o", "name") == before != ""
    helm(installed, "install", "qwen-operator", str(generate.CHART), program=program)
    assert installed.kubectl("get", "qwenservices", "-A", "-o", "name") == before


def test_install_manifest_can_follow_a_removed_release(installed: ControlPlane) -> None:
    helm(installed, "uninstall", "qwen-operator")
    manifest = str(Path(generate.INSTALL))
    installed.kubectl("apply", "--server-side", "-f", manifest)
    installed.kubectl("apply", "--server-side", "-f", manifest)
    assert may(installed, "patch", "apps", "deployments")
    installed.kubectl("delete", "-f", manifest, "--timeout=50s")


def test_monitoring_appears_where_its_api_does(installed: ControlPlane) -> None:
    settings = Settings.from_env()
    builds.ensure_crds(settings)
    installed.kubectl("apply", "--server-side", "-f", str(builds.crds(settings)))
    kinds = "servicemonitors,prometheusrules"
    for kind in kinds.split(","):
        installed.wait_for_definition(f"{kind}.monitoring.coreos.com")
    assert names(installed, kinds) == set()
    helm(installed, "upgrade", "qwen-operator", str(generate.CHART))
    found = names(installed, kinds)
    assert found == {
        "servicemonitor.monitoring.coreos.com/qwen-operator",
        "prometheusrule.monitoring.coreos.com/qwen-operator",
    }
    assert "configmap/qwen-operator-dashboards" in names(installed, "configmaps")
    helm(installed, "uninstall", "qwen-operator")
    assert names(installed, kinds) == set()
    installed.kubectl("delete", "--wait=false", "-f", str(builds.crds(settings)))

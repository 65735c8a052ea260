"""The chart, installed by Helm on a real API server: install, upgrade, uninstall."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from charts import generate, kubernetes_types
from charts.values_schema import FURTHER_TYPES

from tests.cluster import builds
from tests.cluster.settings import ROOT, Settings
from tests.integration.control_plane import ControlPlane, control_plane, find_program, wait_until

pytestmark = pytest.mark.cluster

SAMPLES = sorted((ROOT / "manifests" / "samples").glob("*.yaml"))
OURS = "app.kubernetes.io/instance=qwen-operator"
CRD = "qwenservices.qwen-vllm.io"
VERSION = "qwen-vllm.io/definition-version"


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


def helm(plane: ControlPlane, *arguments: str, program: str = "helm", namespace: str = generate.NAMESPACE) -> str:
    """Runs helm as administrator in the operator's namespace; fails with its error output."""
    result = run_helm(plane, *arguments, program=program, namespace=namespace)
    assert result.returncode == 0, result.stderr
    return result.stdout


def refusal(plane: ControlPlane, *arguments: str, program: str = "helm", namespace: str = generate.NAMESPACE) -> str:
    """What helm says as it refuses to run."""
    result = run_helm(plane, *arguments, program=program, namespace=namespace)
    assert result.returncode != 0, result.stdout
    return " ".join(result.stderr.split())


def run_helm(plane: ControlPlane, *arguments: str, program: str, namespace: str) -> subprocess.CompletedProcess[str]:
    command = [generate.find_helm(program), *arguments, "--namespace", namespace]
    environment = {**os.environ, "KUBECONFIG": str(plane.kubeconfig), "HELM_CACHE_HOME": str(plane.folder / "helm")}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)


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


def test_notes_of_the_installed_chart_can_be_pasted(installed: ControlPlane) -> None:
    notes = helm(installed, "get", "notes", "qwen-operator")
    command = re.search(r"^kubectl apply -f - <<'END'\n.*?^END$", notes, re.DOTALL | re.MULTILINE)
    assert command, notes
    folder = find_program("kubectl").parent
    environment = {**os.environ, "KUBECONFIG": str(installed.kubeconfig), "PATH": f"{folder}:{os.environ['PATH']}"}
    pasted = subprocess.run(
        ["bash"], input=f"{command[0]}\n", capture_output=True, text=True, check=False, timeout=60, env=environment
    )
    assert pasted.returncode == 0, pasted.stderr
    assert "qwenservice.qwen-vllm.io/qwen-news-classifier created" in pasted.stdout


def test_operator_may_do_its_work_and_not_more(installed: ControlPlane) -> None:
    for verb, group, resource in (
        ("watch", "qwen-vllm.io", "qwenservices"),
        ("patch", "qwen-vllm.io", "qwenservices/status"),
        ("patch", "apps", "deployments"),
        ("patch", "", "pods/status"),
        ("create", "", "pods/eviction"),
        ("get", "", "nodes"),
        ("list", "monitoring.coreos.com", "prometheuses"),
        ("list", "networking.k8s.io", "ingressclasses"),
        ("patch", "networking.k8s.io", "ingresses"),
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


def definition(plane: ControlPlane) -> dict[str, Any]:
    """The metadata of the CRD."""
    found = plane.request("GET", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{CRD}")
    metadata: dict[str, Any] = found["metadata"]
    return metadata


def test_another_release_stops_before_it_changes_anything(installed: ControlPlane) -> None:
    before = definition(installed)["resourceVersion"]
    said = refusal(installed, "install", "other", str(generate.CHART))
    assert "belongs to the Helm release qwen-operator in the namespace qwen-system. Nothing was changed." in said
    assert "--take-ownership --set adopt=true" in said
    assert "--set crds.enabled=false" in said
    assert definition(installed)["resourceVersion"] == before
    assert names(installed, "deployments,serviceaccounts", "app.kubernetes.io/instance=other") == set()
    # Beside it, an operator of other namespaces works.
    beside = ("--set", "crds.enabled=false", "--set", "watchNamespaces={default}")
    helm(installed, "install", "other", str(generate.CHART), *beside)
    helm(installed, "uninstall", "other")


def test_a_kept_definition_can_be_taken_over_by_another_name(installed: ControlPlane) -> None:
    installed.kubectl("apply", "-f", str(SAMPLES[0]))
    helm(installed, "uninstall", "qwen-operator")
    there = {"namespace": "default"}
    assert "Nothing was changed." in refusal(installed, "install", "second", str(generate.CHART), **there)
    helm(installed, "install", "second", str(generate.CHART), "--take-ownership", "--set", "adopt=true", **there)
    assert definition(installed)["annotations"]["meta.helm.sh/release-name"] == "second"
    assert "qwenservice" in installed.kubectl("get", "qwenservices", "-A", "-o", "name")
    helm(installed, "upgrade", "second", str(generate.CHART), "--reset-values", **there)
    helm(installed, "uninstall", "second", **there)


@both
def test_a_release_can_follow_the_install_manifest(installed: ControlPlane, program: str) -> None:
    helm(installed, "uninstall", "qwen-operator", program=program)
    installed.kubectl("delete", "crd", CRD)
    installed.kubectl("apply", "--server-side", "-f", str(generate.INSTALL))
    said = refusal(installed, "install", "qwen-operator", str(generate.CHART), program=program)
    assert "belongs to no Helm release" in said
    adopt = ("--take-ownership", "--set", "adopt=true")
    helm(installed, "install", "qwen-operator", str(generate.CHART), *adopt, program=program)
    assert "deployment.apps/qwen-operator" in names(installed, "deployments", "app.kubernetes.io/managed-by=Helm")
    helm(installed, "upgrade", "qwen-operator", str(generate.CHART), "--reset-values", program=program)


@both
def test_a_rollback_does_not_take_the_definition_back(installed: ControlPlane, program: str, tmp_path: Path) -> None:
    newer = tmp_path / "qwen-operator"
    shutil.copytree(generate.CHART, newer)
    copy = newer / "files" / "crd.yaml"
    copy.write_text(copy.read_text(encoding="utf-8").replace("1000000", "1001000", 1), encoding="utf-8")
    helm(installed, "upgrade", "qwen-operator", str(newer), program=program)
    wait_until("the policy is in force", lambda: not_written(installed, "0"))
    said = refusal(installed, "rollback", "qwen-operator", "1", program=program)
    assert "The QwenService CRD does not go back to an older version" in said
    assert definition(installed)["annotations"][VERSION] == "1001000"
    # As the message says: the older operator, and the newer CRD.
    kept = ("--set", "crds.enabled=false")
    helm(installed, "upgrade", "qwen-operator", str(generate.CHART), *kept, program=program)
    assert definition(installed)["annotations"][VERSION] == "1001000"


def not_written(plane: ControlPlane, version: str) -> bool:
    """Whether the CRD cannot get this version."""
    body = {"metadata": {"annotations": {VERSION: version}}}
    where = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{CRD}?dryRun=All"
    try:
        plane.request("PATCH", where, body, "application/merge-patch+json")
    except urllib.error.HTTPError as error:
        return error.code == 403
    return False


def as_operator(plane: ControlPlane, obj: dict[str, Any], verb: str = "create") -> str:
    """What the API server says to the operator's ServiceAccount that writes an object, on trial."""
    token = plane.service_account_token(generate.NAMESPACE, "qwen-operator")
    config = plane.write_kubeconfig("operator", token)
    command = [find_program("kubectl"), "--kubeconfig", config, verb, "--dry-run=server", "-f", "-"]
    arguments = [*map(str, command), *(["--server-side"] if verb == "apply" else [])]
    result = subprocess.run(
        arguments, input=yaml.safe_dump(obj), capture_output=True, text=True, check=False, timeout=60
    )
    return result.stdout + result.stderr


def deployment(name: str, labels: dict[str, str], **pod: Any) -> dict[str, Any]:
    selected = {"app": name}
    spec = {"containers": [{"name": "server", "image": "server"}], **pod}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default", "labels": labels},
        "spec": {
            "selector": {"matchLabels": selected},
            "template": {"metadata": {"labels": selected}, "spec": spec},
        },
    }


def test_admission_policies_keep_the_operator_to_its_own_objects(installed: ControlPlane) -> None:
    ours = {"app.kubernetes.io/managed-by": "qwen-operator"}
    theirs = deployment("theirs", {"app": "theirs"})
    assert "created (server dry run)" in as_operator(installed, theirs)
    helm(installed, "upgrade", "qwen-operator", str(generate.CHART), "--set", "admissionPolicy.enabled=true")
    label = "may only write objects with the label app.kubernetes.io/managed-by=qwen-operator"
    wait_until("the policy is in force", lambda: label in as_operator(installed, theirs))
    assert "created (server dry run)" in as_operator(installed, deployment("ours", ours))
    # An object of somebody else does not become the operator's by a label.
    installed.kubectl("apply", "-f", "-", text=yaml.safe_dump(theirs))
    assert label in as_operator(installed, deployment("theirs", {"app": "theirs", **ours}), "apply")
    # Others are not restricted.
    installed.kubectl("apply", "--dry-run=server", "-f", "-", text=yaml.safe_dump(deployment("more", {})))
    installed.kubectl("delete", "deployment", "theirs")


def test_admission_policies_keep_pods_to_accounts_that_the_namespace_allows(installed: ControlPlane) -> None:
    helm(installed, "upgrade", "qwen-operator", str(generate.CHART), "--set", "admissionPolicy.enabled=true")
    ours = {"app.kubernetes.io/managed-by": "qwen-operator"}
    admin = deployment("news", ours, serviceAccountName="admin")
    said = "allows its QwenServices only the ServiceAccounts default, and not admin"
    wait_until("the policy is in force", lambda: said in as_operator(installed, admin))
    assert "created (server dry run)" in as_operator(installed, deployment("news", ours))
    assert "created (server dry run)" in as_operator(installed, deployment("news", ours, serviceAccountName="default"))
    annotation = "qwen-vllm.io/service-accounts"
    installed.kubectl("annotate", "namespace", "default", f"{annotation}=default, admin")
    try:
        wait_until("it is allowed", lambda: "created (server dry run)" in as_operator(installed, admin))
    finally:
        installed.kubectl("annotate", "namespace", "default", f"{annotation}-")


def test_schema_of_values_is_that_of_the_api_server(empty: ControlPlane) -> None:
    documents = [empty.request("GET", path) for path in kubernetes_types.DOCUMENTS]
    expected = kubernetes_types.extract(documents)
    written = yaml.safe_load(FURTHER_TYPES.read_text(encoding="utf-8"))
    assert written == expected, "run python -m charts.kubernetes_types"


@pytest.mark.parametrize("overlay", ["base", "overlays/registry"])
def test_kustomize_builds_what_the_api_server_accepts(empty: ControlPlane, overlay: str) -> None:
    built = empty.kubectl("kustomize", str(ROOT / "manifests" / overlay))
    manifests = generate.documents(built)
    assert {manifest["kind"] for manifest in manifests} >= {"Deployment", "CustomResourceDefinition", "ClusterRole"}
    operator = next(manifest for manifest in manifests if manifest["kind"] == "Deployment")
    (container,) = operator["spec"]["template"]["spec"]["containers"]
    environment = {item["name"]: item.get("value") for item in container["env"]}
    registry = "registry.example.com/qwen/" if overlay == "overlays/registry" else ""
    assert container["image"] == f"{registry}qwen-operator:1.0.0"
    assert environment["QWEN_OPERATOR_SERVER_IMAGE_CPU"] == f"{registry}qwen-server:1.0.0-cpu"
    assert environment["QWEN_OPERATOR_SERVER_IMAGE_CUDA"] == f"{registry}qwen-server:1.0.0-cuda"
    assert environment["QWEN_OPERATOR_LEASE_NAME"] == "qwen-operator"
    empty.kubectl("apply", "--server-side", "-f", "-", text=built)
    empty.kubectl("delete", "-f", "-", "--timeout=50s", text=built)


def test_kustomize_labels_what_prometheus_selects(empty: ControlPlane) -> None:
    built = empty.kubectl("kustomize", str(ROOT / "manifests" / "overlays" / "monitoring"))
    monitors = [item for item in generate.documents(built) if item["apiVersion"] == "monitoring.coreos.com/v1"]
    assert {item["kind"] for item in monitors} == {"ServiceMonitor", "PrometheusRule"}
    assert {item["metadata"]["labels"]["release"] for item in monitors} == {"kube-prometheus-stack"}


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

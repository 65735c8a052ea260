"""The chart, installed by Helm on a real API server: install, upgrade, uninstall."""

from __future__ import annotations

import os
import re
import subprocess
from functools import partial
from pathlib import Path

import pytest
import yaml
from charts import generate, kubernetes_types
from charts.values_schema import FURTHER_TYPES

from tests.cluster import builds
from tests.cluster.settings import ROOT, Settings
from tests.integration.chart_releases import CHART, SAMPLES, both, helm, names, refusal
from tests.integration.control_plane import ControlPlane, find_program, wait_until

pytestmark = pytest.mark.cluster


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
        ("list", "", "namespaces"),
        ("list", "networking.k8s.io", "ingressclasses"),
        ("patch", "networking.k8s.io", "ingresses"),
        ("create", "batch", "jobs"),
        ("delete", "batch", "jobs"),
        ("patch", "keda.sh", "scaledobjects"),
    ):
        allowed = partial(may, installed, verb, group, resource)
        wait_until(f"{verb} {resource}", allowed)  # the API server learns of rights a little later
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
    helm(installed, "upgrade", "qwen-operator", CHART, "--set", "watchNamespaces={default}")
    wait_until("it may there", lambda: may(installed, "patch", "apps", "deployments", "default"))
    wait_until("nowhere else", lambda: not may(installed, "list", "apps", "deployments", "kube-public"))
    assert not may(installed, "get", "", "nodes")
    assert not may(installed, "list", "monitoring.coreos.com", "prometheuses")
    assert names(installed, "clusterroles,clusterrolebindings,priorityclasses") == set()


@both
def test_upgrade_can_switch_the_election_off_and_on(installed: ControlPlane, program: str) -> None:
    alone = ("--set", "replicas=1,leaderElection.enabled=false")
    recreate = ("--reset-values", "--set", "strategy.type=Recreate")
    strategies = []
    for values in (alone, recreate, ("--reset-values",)):
        if values is recreate:
            said = refusal(installed, "upgrade", "qwen-operator", CHART, "--reset-values", program=program)
            assert "would act at the same time. Nothing was changed." in said
            assert f"--set {recreate[-1]}" in said
        helm(installed, "upgrade", "qwen-operator", CHART, *values, program=program)
        found = installed.kubectl("get", "deployment", "qwen-operator", "-n", generate.NAMESPACE, "-o", "yaml")
        strategies.append(yaml.safe_load(found)["spec"]["strategy"]["type"])
    assert strategies == ["Recreate", "Recreate", "RollingUpdate"]


@both
def test_what_null_has_removed_stays_so_when_values_are_reused(installed: ControlPlane, program: str) -> None:
    removed = ("resources=null", "podSecurityContext.runAsUser=null", "commonLabels=null", "monitoring.labels=null")
    nulls = [option for value in removed for option in ("--set", value)]
    helm(installed, "upgrade", "qwen-operator", CHART, *nulls, program=program)
    where = f"/apis/apps/v1/namespaces/{generate.NAMESPACE}/deployments/qwen-operator"
    for reused in ("--reuse-values", "--reset-then-reuse-values"):
        helm(installed, "upgrade", "qwen-operator", CHART, reused, "--set", "log.level=debug", program=program)
        pod = installed.request("GET", where)["spec"]["template"]["spec"]
        assert "debug" in [item.get("value") for item in pod["containers"][0]["env"]]
        assert pod["containers"][0]["resources"] == {}
        assert "runAsUser" not in pod["securityContext"]
        assert pod["securityContext"]["runAsNonRoot"] is True


@both
def test_uninstall_keeps_services_and_a_new_install_takes_them_over(installed: ControlPlane, program: str) -> None:
    installed.kubectl("apply", "-f", str(SAMPLES[0]))
    before = installed.kubectl("get", "qwenservices", "-A", "-o", "name")
    helm(installed, "uninstall", "qwen-operator", program=program)
    assert names(installed, "deployments,roles,clusterroles,services,serviceaccounts") == set()
    assert installed.kubectl("get", "qwenservices", "-A", "-o", "name") == before != ""
    helm(installed, "install", "qwen-operator", CHART, program=program)
    assert installed.kubectl("get", "qwenservices", "-A", "-o", "name") == before


def test_install_manifest_can_follow_a_removed_release(installed: ControlPlane) -> None:
    helm(installed, "uninstall", "qwen-operator")
    manifest = str(Path(generate.INSTALL))
    installed.kubectl("apply", "--server-side", "-f", manifest)
    installed.kubectl("apply", "--server-side", "-f", manifest)
    wait_until("it may work", lambda: may(installed, "patch", "apps", "deployments"))
    installed.kubectl("delete", "-f", manifest, "--ignore-not-found", "--timeout=50s")


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
    # What is in the namespace goes with it, at times before kubectl asks for it.
    empty.kubectl("delete", "-f", "-", "--ignore-not-found", "--timeout=50s", text=built)


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
    helm(installed, "upgrade", "qwen-operator", CHART)
    found = names(installed, kinds)
    assert found == {
        "servicemonitor.monitoring.coreos.com/qwen-operator",
        "prometheusrule.monitoring.coreos.com/qwen-operator",
    }
    assert "configmap/qwen-operator-dashboards" in names(installed, "configmaps")
    helm(installed, "uninstall", "qwen-operator")
    assert names(installed, kinds) == set()
    installed.kubectl("delete", "--timeout=50s", "-f", str(builds.crds(settings)))
    wait_until("the API is gone", lambda: "monitoring.coreos.com" not in str(installed.request("GET", "/apis")))

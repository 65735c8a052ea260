"""A release that meets another installation, or is kept to its own: nothing changes unnoticed."""

from __future__ import annotations

import re
import shutil
import subprocess
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import yaml
from charts import generate

from tests.integration.chart_releases import CHART, CRD, SAMPLES, both, helm, names, refusal
from tests.integration.control_plane import ControlPlane, find_program, wait_until
from tests.unit.qwen_operator.objects import gpu_service, pod_spec, service

pytestmark = pytest.mark.cluster

VERSION = "qwen-vllm.io/definition-version"


def definition(plane: ControlPlane) -> dict[str, Any]:
    """The metadata of the CRD."""
    found = plane.request("GET", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{CRD}")
    metadata: dict[str, Any] = found["metadata"]
    return metadata


def test_another_release_stops_before_it_changes_anything(installed: ControlPlane) -> None:
    before = definition(installed)["resourceVersion"]
    said = refusal(installed, "install", "other", CHART)
    assert "belongs to the Helm release qwen-operator in the namespace qwen-system. Nothing was changed." in said
    assert "--take-ownership --set adopt=true" in said
    assert "--set crds.enabled=false" in said
    assert definition(installed)["resourceVersion"] == before
    assert names(installed, "deployments,serviceaccounts", "app.kubernetes.io/instance=other") == set()


BESIDE = ("--set", "crds.enabled=false", "--set")


def test_a_release_never_serves_what_another_one_serves(installed: ControlPlane) -> None:
    def refused(action: str, name: str, *options: str) -> str:
        said = refusal(installed, action, name, CHART, *options)
        assert "Two operators must never serve the same namespace. Nothing was changed." in said
        return said

    # As for a person who forgets the list, or gives one beside an operator of every namespace.
    all_of_them = "watchNamespaces: the Helm release qwen-operator in the namespace qwen-system serves every namespace"
    said = refused("install", "other", *BESIDE[:2])
    assert f"{all_of_them} already, and this release would serve every namespace." in said
    said = refused("install", "other", *BESIDE, "watchNamespaces={default}")
    assert f"{all_of_them} already, and this release would serve default." in said
    assert "Give that one a list of other namespaces first (its watchNamespaces), or uninstall that one" in said
    # Adoption is for what a removed installation left behind.
    refused("install", "other", *BESIDE[:2], "--set", "adopt=true")
    # One that does not run disturbs nobody.
    idle = ("--set", "replicas=0", *BESIDE)
    helm(installed, "install", "other", CHART, *idle, "watchNamespaces={default}")

    theirs = "watchNamespaces={kube-public,kube-node-lease}"
    helm(installed, "upgrade", "qwen-operator", CHART, "--set", theirs)
    said = refused("upgrade", "other", *BESIDE, "watchNamespaces={default,kube-public}")
    assert "serves kube-public already, and this release would serve them, too." in said
    assert "Leave them out of watchNamespaces, or" in said
    said = refused("upgrade", "other", *BESIDE, "watchNamespaces=null")
    assert "serves kube-public, kube-node-lease already, and this release would serve every namespace." in said
    assert "--set 'watchNamespaces={NAMESPACE}'" in said
    helm(installed, "upgrade", "other", CHART, *BESIDE, "watchNamespaces={default}")
    # The rule holds for the release that was there first, too.
    said = refused("upgrade", "qwen-operator", "--set", "watchNamespaces=null")
    assert "the Helm release other in the namespace qwen-system serves default already" in said
    helm(installed, "uninstall", "other")
    helm(installed, "upgrade", "qwen-operator", CHART, "--set", "watchNamespaces=null")


@both
def test_who_may_not_list_deployments_reads_how_to_install_without_it(installed: ControlPlane, program: str) -> None:
    installed.kubectl("create", "rolebinding", "alice", "-n", "default", "--clusterrole=cluster-admin", "--user=alice")
    try:
        mine = ("install", "other", CHART, *BESIDE, "watchNamespaces={default}", "--dry-run=server")
        as_alice = {"program": program, "namespace": "default"}
        said = refusal(installed, *mine, "--kube-as-user=alice", **as_alice)
        assert "deployments.apps is forbidden" in said
        [value] = set(re.findall(r"\((checkOthers=\w+) skips this check\)", said))
        helm(installed, *mine, "--kube-as-user=alice", "--set", value, **as_alice)
    finally:
        installed.kubectl("delete", "rolebinding", "alice", "-n", "default")


def test_a_kept_definition_can_be_taken_over_by_another_name(installed: ControlPlane) -> None:
    installed.kubectl("apply", "-f", str(SAMPLES[0]))
    helm(installed, "uninstall", "qwen-operator")
    there = {"namespace": "default"}
    assert "Nothing was changed." in refusal(installed, "install", "second", CHART, **there)
    helm(installed, "install", "second", CHART, "--take-ownership", "--set", "adopt=true", **there)
    assert definition(installed)["annotations"]["meta.helm.sh/release-name"] == "second"
    assert "qwenservice" in installed.kubectl("get", "qwenservices", "-A", "-o", "name")
    helm(installed, "upgrade", "second", CHART, "--reset-values", **there)
    helm(installed, "uninstall", "second", **there)


@both
def test_a_release_can_follow_the_install_manifest(installed: ControlPlane, program: str) -> None:
    helm(installed, "uninstall", "qwen-operator", program=program)
    installed.kubectl("delete", "crd", CRD)
    installed.kubectl("apply", "--server-side", "-f", str(generate.INSTALL))
    said = refusal(installed, "install", "qwen-operator", CHART, program=program)
    assert "belongs to no Helm release" in said
    # Its flags are those that the message names.
    [flags] = re.findall(r"run this command again with (.*?adopt=true[^.]*)\.", said)
    helm(installed, "install", "qwen-operator", CHART, *flags.split(), program=program)
    assert "deployment.apps/qwen-operator" in names(installed, "deployments", "app.kubernetes.io/managed-by=Helm")
    helm(installed, "upgrade", "qwen-operator", CHART, "--reset-values", program=program)


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
    # An upgrade to the older chart stops before it has changed anything, and names the same remedy.
    earlier = refusal(installed, "upgrade", "qwen-operator", CHART, program=program)
    assert "is newer than that of this chart" in earlier
    assert "Nothing was changed." in earlier
    assert "--set crds.enabled=false" in earlier
    # As the message says: the older operator, and the newer CRD.
    assert "--set crds.enabled=false" in said
    helm(installed, "upgrade", "qwen-operator", CHART, "--set", "crds.enabled=false", program=program)
    assert definition(installed)["annotations"][VERSION] == "1001000"
    assert '"deployed"' in helm(installed, "list", "--output", "json", program=program)


@both
def test_a_release_gives_up_its_definition_only_if_that_is_kept(installed: ControlPlane, program: str) -> None:
    helm(installed, "upgrade", "qwen-operator", CHART, "--set", "crds.keep=false", program=program)
    uid = definition(installed)["uid"]
    switched = ("upgrade", "qwen-operator", CHART, "--set", "crds.enabled=false")
    said = refusal(installed, *switched, "--set", "crds.keep=false", program=program)
    assert "Helm would delete the QwenService CRD, and with it every QwenService. Nothing was changed." in said
    assert "--set crds.keep=true" in said
    helm(installed, "upgrade", "qwen-operator", CHART, "--set", "crds.keep=true", program=program)
    helm(installed, *switched, program=program)
    assert definition(installed)["uid"] == uid


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
    """What the API server says to the operator that writes an object, on trial."""
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
    wait_until("it has its rights", lambda: "created (server dry run)" in as_operator(installed, theirs))
    helm(installed, "upgrade", "qwen-operator", CHART, "--set", "admissionPolicy.enabled=true")
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
    helm(installed, "upgrade", "qwen-operator", CHART, "--set", "admissionPolicy.enabled=true")
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


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("priorityClass.value=5", "does not allow changing 1000000 of PriorityClass qwen-operator"),
        ("nameOverride=other,fullnameOverride=qwen-operator", "the selector of Deployment qwen-operator"),
        ("leaderElection.leaseName=other", "old and new pods would act at the same time"),
        ("fullnameOverride=other", "old and new pods would act at the same time"),
        ("fullnameOverride=other,strategy.type=Recreate", "--set leaderElection.leaseName=qwen-operator, and keep"),
        ("fullnameOverride=other,replicas=1,leaderElection.enabled=false", "Scale Deployment qwen-operator to 0"),
    ],
)
def test_what_cannot_be_changed_stops_an_upgrade_before_it(installed: ControlPlane, values: str, said: str) -> None:
    assert said in refusal(installed, "upgrade", "qwen-operator", CHART, "--set", values)
    assert '"deployed"' in helm(installed, "list", "--output", "json")


@both
def test_another_lease_is_used_when_no_pod_of_the_old_one_acts(installed: ControlPlane, program: str) -> None:
    renamed = ("upgrade", "qwen-operator", CHART, "--set", "leaderElection.leaseName=other")
    said = refusal(installed, *renamed, program=program)
    [flags] = re.findall(r"run this command again with (--set \S+),", said, re.IGNORECASE)
    helm(installed, *renamed, *flags.split(), program=program)
    where = f"/apis/apps/v1/namespaces/{generate.NAMESPACE}/deployments/qwen-operator"
    assert installed.request("GET", where)["spec"]["strategy"] == {"type": "Recreate"}
    helm(installed, *renamed, program=program)
    assert installed.request("GET", where)["spec"]["strategy"]["type"] == "RollingUpdate"


def test_another_name_keeps_the_lease_so_that_one_operator_acts(installed: ControlPlane) -> None:
    renamed = ("upgrade", "qwen-operator", CHART, "--set", "fullnameOverride=other")
    said = refusal(installed, *renamed)
    [flags] = re.findall(r"run this command again with (--set \S+),", said, re.IGNORECASE)
    helm(installed, *renamed, *flags.split())
    assert names(installed, "deployments") == {"deployment.apps/other"}
    where = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{generate.NAMESPACE}/roles"
    rules = [rule for role in installed.request("GET", where)["items"] for rule in role["rules"]]
    assert ["qwen-operator"] in [rule.get("resourceNames") for rule in rules if rule["resources"] == ["leases"]]
    helm(installed, *renamed, *flags.split())


def try_pod(plane: ControlPlane, spec: dict[str, Any]) -> None:
    """Asks for a pod in the namespace `strict`, on trial. Raises urllib's HTTPError."""
    # The release creates the class.
    kept = {key: value for key, value in spec.items() if key not in ("priorityClassName", "restartPolicy")}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "trial"}, "spec": kept}
    plane.request("POST", "/api/v1/namespaces/strict/pods?dryRun=All", pod)


def test_all_pods_are_accepted_where_the_restricted_standard_is_enforced(empty: ControlPlane) -> None:
    empty.kubectl("create", "namespace", "strict")
    empty.kubectl("label", "namespace", "strict", "pod-security.kubernetes.io/enforce=restricted")
    empty.kubectl("create", "serviceaccount", "qwen-operator", "-n", "strict")
    accounts = ("get", "serviceaccounts", "-n", "strict", "-o", "name")
    wait_until("the account of model pods", lambda: "default" in empty.kubectl(*accounts))
    options = ("--kube-version", generate.KUBE_VERSION)
    rendered = generate.documents(helm(empty, "template", "qwen-operator", CHART, *options))
    specs = [manifest["spec"] for manifest in rendered if manifest["kind"] == "Pod"]
    specs += [manifest["spec"]["template"]["spec"] for manifest in rendered if manifest["kind"] == "Deployment"]
    specs += [pod_spec(subject) for subject in (service(), service(cache={"size": "1Gi"}), gpu_service())]
    assert len(specs) == 5
    for spec in specs:
        try_pod(empty, spec)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        try_pod(empty, {"containers": [{"name": "a", "image": "a"}]})
    empty.kubectl("delete", "namespace", "strict", "--wait=false")

"""What the operator may do, cluster-wide and in listed namespaces."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

import pytest

from .conftest import ROOT, Rendered, render, template

Grant = tuple[str, str, str]  # API group, resource, verb
# What only an operator of the whole cluster may read.
CLUSTERWIDE = {"nodes", "prometheuses", "namespaces", "ingressclasses"}


def grants(role: dict[str, Any]) -> set[Grant]:
    return {grant for rule in role["rules"] for grant in product(rule["apiGroups"], rule["resources"], rule["verbs"])}


def roles(rendered: Rendered) -> list[dict[str, Any]]:
    return [*rendered.all("Role"), *rendered.all("ClusterRole")]


def bound(rendered: Rendered, account: str = "qwen-operator") -> list[tuple[str, str, str | None]]:
    """(kind, name, namespace) of every role that the operator's ServiceAccount is bound to."""
    return [
        (binding["roleRef"]["kind"], binding["roleRef"]["name"], binding["metadata"].get("namespace"))
        for binding in [*rendered.all("RoleBinding"), *rendered.all("ClusterRoleBinding")]
        if {"kind": "ServiceAccount", "name": account, "namespace": "qwen-system"} in binding["subjects"]
    ]


@pytest.fixture(scope="module", params=["default", "namespaced"])
def either(request: pytest.FixtureRequest) -> Rendered:
    rendered: Rendered = request.getfixturevalue(request.param)
    return rendered


def test_no_wildcard_anywhere(either: Rendered) -> None:
    for role in roles(either):
        assert not [grant for grant in grants(role) if "*" in grant]
        assert not [rule for rule in role["rules"] if "nonResourceURLs" in rule]


def test_no_secrets_and_nothing_that_raises_rights(either: Rendered) -> None:
    forbidden = {"secrets", "serviceaccounts/token", "pods/exec", "pods/attach", "pods/portforward", "pods/log"}
    for role in roles(either):
        resources = {resource for _, resource, _ in grants(role)}
        assert not resources & forbidden
        assert not [grant for grant in grants(role) if grant[0] == "rbac.authorization.k8s.io"]
        assert not [grant for grant in grants(role) if grant[2] in {"escalate", "bind", "impersonate"}]


def test_pods_are_never_created_or_deleted_only_evicted(either: Rendered) -> None:
    for role in roles(either):
        verbs = {verb for group, resource, verb in grants(role) if (group, resource) == ("", "pods")}
        assert not verbs & {"create", "delete", "deletecollection", "update"}
    working = [role for role in roles(either) if ("", "pods", "patch") in grants(role)]
    assert working
    for role in working:
        assert ("", "pods/eviction", "create") in grants(role)
        assert ("", "pods/status", "patch") in grants(role)


def test_services_are_never_deleted_by_the_operator(either: Rendered) -> None:
    for kind, name, _ in bound(either):
        role = next(role for role in either.all(kind) if role["metadata"]["name"] == name)
        verbs = {
            verb for group, resource, verb in grants(role) if (group, resource) == ("qwen-vllm.io", "qwenservices")
        }
        assert not verbs & {"create", "delete", "deletecollection"}


def test_default_is_one_cluster_role_and_a_lease(default: Rendered) -> None:
    assert sorted(kind for kind, _, _ in bound(default)) == ["ClusterRole", "Role"]
    lease = default.one("Role")
    assert lease["metadata"]["namespace"] == "qwen-system"
    assert {resource for _, resource, _ in grants(lease)} == {"leases"}
    named = [rule for rule in lease["rules"] if rule["verbs"] != ["create"]]
    assert [rule["resourceNames"] for rule in named] == [["qwen-operator"]]


def test_namespaced_mode_has_a_role_in_each_namespace_and_nothing_clusterwide(
    default: Rendered, namespaced: Rendered
) -> None:
    for kind in ("ClusterRole", "ClusterRoleBinding", "PriorityClass"):
        assert not namespaced.all(kind)
    (name,) = {name for _, name, namespace in bound(namespaced) if namespace != "qwen-system"}
    assert [namespace for _, bound_name, namespace in bound(namespaced) if bound_name == name] == ["team-a", "team-b"]
    wide = next(grants(role) for role in default.all("ClusterRole") if ("", "pods", "list") in grants(role))
    for role in namespaced.all("Role"):
        if role["metadata"]["namespace"] != "qwen-system":
            assert grants(role) == {grant for grant in wide if grant[1] not in CLUSTERWIDE}


def documented() -> set[Grant]:
    """The table at the top of kube/client.py: the rights that the operator's calls need."""
    text = (ROOT / "operator" / "src" / "qwen_operator" / "kube" / "client.py").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    found: set[Grant] = set()
    for group, resources, verbs in rows[2:]:
        named = [name.strip() for name in re.sub(r"\(.*?\)", "", resources).split(",")]
        wanted = [verb.strip() for verb in re.sub(r"\(.*?\)", "", verbs).split(",")]
        found |= set(product(["" if group == "core" else group], named, wanted))
    return found


def test_rights_are_exactly_those_that_the_operators_calls_need(default: Rendered) -> None:
    assert len(documented()) > 20
    bound_names = {name for _, name, _ in bound(default)}
    granted = [grants(role) for role in roles(default) if role["metadata"]["name"] in bound_names]
    assert set().union(*granted) == documented()


def test_own_namespace_can_be_listed_too() -> None:
    rendered = render({"watchNamespaces": ["qwen-system"]})
    names = [role["metadata"]["name"] for role in rendered.all("Role")]
    assert len(names) == len(set(names)) == 2


def test_people_get_qwenservices_with_the_clusters_own_roles(default: Rendered) -> None:
    view = default.one("ClusterRole", "qwen-operator-view")
    edit = default.one("ClusterRole", "qwen-operator-edit")
    aggregate = "rbac.authorization.k8s.io/aggregate-to-"
    assert {f"{aggregate}{role}" for role in ("view", "edit", "admin")} <= set(view["metadata"]["labels"])
    assert f"{aggregate}view" not in edit["metadata"]["labels"]
    assert {verb for _, _, verb in grants(view)} == {"get", "list", "watch"}
    assert ("qwen-vllm.io", "qwenservices", "create") in grants(edit)
    assert ("qwen-vllm.io", "qwenservices/scale", "patch") in grants(edit)
    assert ("qwen-vllm.io", "qwenservices/status", "patch") not in grants(edit)
    assert len(render({"rbac": {"aggregate": False}}).all("ClusterRole")) == 1


def test_common_labels_repeat_no_label_of_the_clusters_roles() -> None:
    """YAML with a key twice is refused by Helm, or means what comes last."""
    label = "rbac.authorization.k8s.io/aggregate-to-edit"
    result = template({"commonLabels": {label: "false"}})
    assert result.returncode == 0, result.stderr
    roles = [text for text in result.stdout.split("\n---\n") if "# Source: qwen-operator/templates/rbac-aggr" in text]
    assert [text.count(f"{label}:") for text in roles] == [1, 1]
    assert all(f'{label}: "true"' in text for text in roles)


def test_admission_policies_cover_whatever_the_operator_may_write(default: Rendered) -> None:
    assert len(default.all("ValidatingAdmissionPolicy")) == 1  # that of the CRD
    rendered = render({"admissionPolicy": {"enabled": True}, "serviceAccount": {"name": "mine"}})
    writes = rendered.one("ValidatingAdmissionPolicy", "qwen-operator-qwen-system-writes")["spec"]
    accounts = rendered.one("ValidatingAdmissionPolicy", "qwen-operator-qwen-system-accounts")["spec"]
    covered = {
        (group, resource)
        for rule in writes["matchConstraints"]["resourceRules"]
        for group, resource in product(rule["apiGroups"], rule["resources"])
        if set(rule["operations"]) == {"CREATE", "UPDATE", "DELETE"}
    }
    role = next(role for role in rendered.all("ClusterRole") if ("", "pods", "patch") in grants(role))
    written = {(group, resource) for group, resource, verb in grants(role) if verb in {"patch", "delete"}}
    own = {(group, resource) for group, resource in written if group == "qwen-vllm.io" or resource == "events"}
    assert covered == written - own
    assert ("apps", "deployments") in covered
    for policy in (writes, accounts):
        (condition,) = policy["matchConditions"]
        assert condition["expression"] == "request.userInfo.username == 'system:serviceaccount:qwen-system:mine'"
        assert policy["failurePolicy"] == "Fail"
    bound_to = {binding["spec"]["policyName"] for binding in rendered.all("ValidatingAdmissionPolicyBinding")}
    assert bound_to == {policy["metadata"]["name"] for policy in rendered.all("ValidatingAdmissionPolicy")}


def test_rights_can_come_from_elsewhere() -> None:
    rendered = render({"rbac": {"create": False}, "serviceAccount": {"create": False, "name": "given"}})
    assert not roles(rendered)
    assert not rendered.all("ServiceAccount")
    assert rendered.one("Deployment")["spec"]["template"]["spec"]["serviceAccountName"] == "given"


def test_the_right_to_list_prometheus_objects_is_optional_in_both_modes() -> None:
    wanted = {("monitoring.coreos.com", "prometheuses", "list"), ("", "namespaces", "list")}
    without = render({"rbac": {"listPrometheuses": False}})
    assert not wanted & set().union(*map(grants, without.all("ClusterRole")))
    namespaced = render({"watchNamespaces": ["team-a"], "rbac": {"listPrometheuses": "true"}})
    assert grants(namespaced.one("ClusterRole")) == wanted
    (binding,) = namespaced.all("ClusterRoleBinding")
    assert binding["roleRef"]["name"] == namespaced.one("ClusterRole")["metadata"]["name"]

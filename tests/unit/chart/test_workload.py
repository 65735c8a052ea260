"""The operator's own Deployment and what stands around it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from qwen_operator.planning.monitoring import RUNBOOKS

from .conftest import CHART, Rendered, render

SELECTOR = {
    "app.kubernetes.io/name": "qwen-operator",
    "app.kubernetes.io/instance": "qwen-operator",
    "app.kubernetes.io/component": "operator",
}
ENVIRONMENT = {
    "QWEN_OPERATOR_SERVER_IMAGE_CPU": "qwen-server:1.0.0-cpu",
    "QWEN_OPERATOR_SERVER_IMAGE_CUDA": "qwen-server:1.0.0-cuda",
    "QWEN_OPERATOR_SERVER_PULL_SECRETS": "",
    "QWEN_OPERATOR_POD_TEMPLATE_ALLOW": "*",
    "QWEN_OPERATOR_WATCH_NAMESPACES": "",
    "QWEN_OPERATOR_NAMESPACE": "metadata.namespace",
    "QWEN_OPERATOR_POD_NAME": "metadata.name",
    "QWEN_OPERATOR_LEADER_ELECTION": "true",
    "QWEN_OPERATOR_LEASE_NAME": "qwen-operator",
    "QWEN_OPERATOR_METRICS_PORT": "8080",
    "QWEN_OPERATOR_LOG_LEVEL": "info",
    "QWEN_OPERATOR_LOG_FORMAT": "json",
    "QWEN_OPERATOR_RESYNC_SECONDS": "60",
    "QWEN_OPERATOR_MONITORING_LABELS": "",
    "QWEN_OPERATOR_METRICS_KEY_FILE": "",
    "QWEN_OPERATOR_RUNBOOK_BASE_URL": RUNBOOKS,
}


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {
        entry["name"]: entry["value"] if "value" in entry else entry["valueFrom"]["fieldRef"]["fieldPath"]
        for entry in container["env"]
    }


def matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def test_environment_is_exactly_what_the_operator_reads(default: Rendered) -> None:
    assert environment(default.container) == ENVIRONMENT


def test_environment_follows_the_values() -> None:
    rendered = render(
        {
            "serverImages": {"cpu": "r/s:c", "cuda": "r/s:g", "pullSecrets": [{"name": "one"}, {"name": "two"}]},
            "podTemplate": {"allow": ["metadata", "spec.tolerations"]},
            "watchNamespaces": ["a", "b"],
            "replicas": 1,
            "leaderElection": {"enabled": False, "leaseName": "l"},
            "log": {"level": "error", "format": "text"},
            "resyncSeconds": 5,
        }
    )
    changed = {
        "QWEN_OPERATOR_SERVER_IMAGE_CPU": "r/s:c",
        "QWEN_OPERATOR_SERVER_IMAGE_CUDA": "r/s:g",
        "QWEN_OPERATOR_SERVER_PULL_SECRETS": "one,two",
        "QWEN_OPERATOR_POD_TEMPLATE_ALLOW": "metadata,spec.tolerations",
        "QWEN_OPERATOR_WATCH_NAMESPACES": "a,b",
        "QWEN_OPERATOR_LEADER_ELECTION": "false",
        "QWEN_OPERATOR_LEASE_NAME": "l",
        "QWEN_OPERATOR_LOG_LEVEL": "error",
        "QWEN_OPERATOR_LOG_FORMAT": "text",
        "QWEN_OPERATOR_RESYNC_SECONDS": "5",
    }
    assert environment(rendered.container) == ENVIRONMENT | changed


def test_a_cluster_may_have_no_image_for_a_device() -> None:
    variables = environment(render({"serverImages": {"cuda": ""}}).container)
    assert variables == ENVIRONMENT | {"QWEN_OPERATOR_SERVER_IMAGE_CUDA": ""}


def test_pod_template_can_be_switched_off() -> None:
    assert environment(render({"podTemplate": {"allow": []}}).container)["QWEN_OPERATOR_POD_TEMPLATE_ALLOW"] == "none"


def test_selectors_hold_only_what_never_changes(default: Rendered) -> None:
    changed = render({"commonLabels": {"team": "x"}, "podLabels": {"tier": "gold"}, "image": {"tag": "9"}})
    for rendered in (default, changed):
        assert rendered.one("Deployment")["spec"]["selector"] == {"matchLabels": SELECTOR}
        assert rendered.one("Service")["spec"]["selector"] == SELECTOR
        assert rendered.one("PodDisruptionBudget")["spec"]["selector"] == {"matchLabels": SELECTOR}
        assert matches(SELECTOR, rendered.one("Deployment")["spec"]["template"]["metadata"]["labels"])


def test_service_does_not_send_anyone_to_the_test_pod(default: Rendered) -> None:
    assert not matches(SELECTOR, default.one("Pod")["metadata"]["labels"])


def test_every_pod_is_restricted(default: Rendered) -> None:
    for pod in (default.one("Deployment")["spec"]["template"]["spec"], default.one("Pod")["spec"]):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 65532
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert "privileged" not in context
            assert container["resources"]["limits"]["memory"]
        assert not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))


def test_the_cluster_may_choose_the_user_of_the_pods() -> None:
    rendered = render({"podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}})
    for pod in (rendered.one("Deployment")["spec"]["template"]["spec"], rendered.one("Pod")["spec"]):
        assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def test_root_is_read_only_and_tmp_is_not(default: Rendered) -> None:
    mounts = {mount["name"]: mount["mountPath"] for mount in default.container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in default.one("Deployment")["spec"]["template"]["spec"]["volumes"]}
    assert mounts == {"tmp": "/tmp"}
    assert "emptyDir" in volumes["tmp"]


def test_two_pods_of_which_a_rollout_keeps_two(default: Rendered) -> None:
    spec = default.one("Deployment")["spec"]
    assert spec["replicas"] == 2
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    assert default.one("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_operator_without_election_is_never_doubled() -> None:
    rendered = render({"replicas": 1, "leaderElection": {"enabled": False}})
    assert rendered.one("Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    assert not rendered.all("PodDisruptionBudget")
    assert not [role for role in rendered.all("Role") if "leases" in role["rules"][0]["resources"]]


def test_probes_ask_the_named_port(default: Rendered) -> None:
    container = default.container
    assert container["ports"] == [{"name": "metrics", "containerPort": 8080, "protocol": "TCP"}]
    paths = {name: container[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert paths == {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    assert all(container[name]["httpGet"]["port"] == "metrics" for name in paths)


def test_times_of_the_probes_can_be_changed() -> None:
    container = render({"probes": {"startup": {"failureThreshold": 90}, "liveness": {"timeoutSeconds": 9}}}).container
    assert (container["startupProbe"]["periodSeconds"], container["startupProbe"]["failureThreshold"]) == (2, 90)
    assert container["livenessProbe"]["timeoutSeconds"] == 9
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "metrics"}


def test_strategy_can_be_chosen() -> None:
    chosen = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    assert render({"strategy": chosen}).one("Deployment")["spec"]["strategy"] == chosen


def test_further_volumes_are_mounted() -> None:
    volume = {"name": "ca", "configMap": {"name": "company-ca"}}
    mount = {"name": "ca", "mountPath": "/etc/ssl/company", "readOnly": True}
    rendered = render({"extraVolumes": [volume], "extraVolumeMounts": [mount]})
    assert volume in rendered.one("Deployment")["spec"]["template"]["spec"]["volumes"]
    assert mount in rendered.container["volumeMounts"]
    assert {"name": "tmp", "mountPath": "/tmp"} in rendered.container["volumeMounts"]


def test_common_labels_and_annotations_reach_every_object() -> None:
    everything = {
        "commonLabels": {"team": "platform"},
        "commonAnnotations": {"owner": "platform"},
        "networkPolicy": {"enabled": True},
        "admissionPolicy": {"enabled": True},
        "monitoring": {part: {"enabled": True} for part in ("serviceMonitor", "prometheusRule", "dashboards")},
    }
    for rendered in (render(everything), render({**everything, "watchNamespaces": ["a"]})):
        metadata = [manifest["metadata"] for manifest in rendered.manifests]
        metadata.append(rendered.one("Deployment")["spec"]["template"]["metadata"])
        for item in metadata:
            assert item["labels"]["team"] == "platform", item
            assert item["annotations"]["owner"] == "platform", item


def test_priority_class_exists_and_is_used(default: Rendered) -> None:
    created = default.one("PriorityClass")
    assert default.one("Deployment")["spec"]["template"]["spec"]["priorityClassName"] == created["metadata"]["name"]
    assert 0 < created["value"] <= 1_000_000_000


def test_replaced_topology_spread_gets_the_selector() -> None:
    constraint = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
    own = {**constraint, "labelSelector": {"matchLabels": {"a": "b"}}}
    rendered = render({"topologySpreadConstraints": [constraint, own]})
    spread = rendered.one("Deployment")["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert spread[0] == {**constraint, "labelSelector": {"matchLabels": SELECTOR}}
    assert spread[1]["labelSelector"]["matchLabels"]["a"] == "b"


def test_names_follow_the_release_and_stay_short() -> None:
    rendered = render(release="a" * 53)
    for manifest in rendered.manifests:
        assert len(manifest["metadata"]["name"]) <= 63, manifest["kind"]
    assert render(release="blue").one("Deployment")["metadata"]["name"] == "blue-qwen-operator"


def test_names_that_yaml_takes_for_something_else_stay_names() -> None:
    """Kubernetes allows names such as `123`, `null` and `on`."""
    values = {
        "crds": {"enabled": False},
        "nameOverride": "on",
        "fullnameOverride": "null",
        "watchNamespaces": ["456"],
        "serviceAccount": {"name": "0"},
        "leaderElection": {"leaseName": "1"},
        "priorityClass": {"create": False, "name": "2"},
        "rbac": {"listPrometheuses": True},
        "networkPolicy": {"enabled": True},
        "monitoring": {part: {"enabled": True} for part in ("serviceMonitor", "prometheusRule", "dashboards")},
    }
    rendered = render(values, "--namespace", "123", release="true")
    assert len(rendered.manifests) > 13
    wrong = [
        (manifest["kind"], key, value)
        for manifest in rendered.manifests
        for key, value in named(manifest)
        if not isinstance(value, str)
    ]
    assert wrong == []


def named(node: Any) -> Iterator[tuple[str, Any]]:
    """The values in a manifest that can only be texts, with their keys."""
    texts = {"name", "namespace", "serviceAccountName", "priorityClassName"}
    maps, lists = {"labels", "matchLabels", "selector", "annotations"}, {"resourceNames", "matchNames"}
    for key, value in node.items() if isinstance(node, dict) else ():
        if key in texts:
            yield key, value
        elif key in lists:
            yield from ((key, item) for item in value)
        elif key in maps:
            yield from ((name, part) for name, part in value.items() if not isinstance(part, dict))
    for part in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from named(part)


def test_image_without_digest_is_the_charts_version(default: Rendered) -> None:
    assert default.container["image"] == "qwen-operator:1.0.0"
    assert render({"image": {"tag": "x"}}).container["image"] == "qwen-operator:x"


def test_tag_of_digits_is_no_number() -> None:
    assert render(None, "--set", "image.tag=1234567890123").container["image"] == "qwen-operator:1234567890123"
    assert render({"image": {"tag": 12345678}}).container["image"] == "qwen-operator:12345678"


def test_test_hook_asks_readyz_through_the_service(default: Rendered, namespaced: Rendered) -> None:
    pod = default.one("Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    (container,) = pod["spec"]["containers"]
    assert container["image"] == default.container["image"]
    script = container["args"][0]
    assert script == (CHART / "files" / "helm_test.py").read_text(encoding="utf-8").strip() + "\n"
    url = f"http://{default.one('Service')['metadata']['name']}.qwen-system.svc:8080"
    assert container["env"] == [
        {"name": "OPERATOR_URL", "value": url},
        {"name": "WATCH_NAMESPACES", "value": ""},
    ]
    (container,) = namespaced.one("Pod")["spec"]["containers"]
    assert {"name": "WATCH_NAMESPACES", "value": "team-a,team-b"} in container["env"]
    # It lists QwenServices as the operator may.
    operator = default.one("Deployment")["spec"]["template"]["spec"]
    assert pod["spec"]["serviceAccountName"] == operator["serviceAccountName"]
    assert pod["spec"]["automountServiceAccountToken"] is True


def test_network_policy_lets_the_chosen_peers_and_the_test_in() -> None:
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    rendered = render({"networkPolicy": {"enabled": True, "from": [peer]}})
    spec = rendered.one("NetworkPolicy")["spec"]
    assert spec["podSelector"] == {"matchLabels": SELECTOR}
    assert spec["policyTypes"] == ["Ingress"]
    (rule,) = spec["ingress"]
    assert rule["ports"] == [{"port": "metrics", "protocol": "TCP"}]
    assert peer in rule["from"]
    test_labels = rendered.one("Pod")["metadata"]["labels"]
    assert any(
        matches(entry["podSelector"]["matchLabels"], test_labels) for entry in rule["from"] if "podSelector" in entry
    )
    assert not render().all("NetworkPolicy")


def test_objects_of_a_namespace_name_it(default: Rendered) -> None:
    clusterwide = {
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "PriorityClass",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    }
    for manifest in default.manifests:
        if manifest["kind"] not in clusterwide:
            assert manifest["metadata"]["namespace"] == "qwen-system", manifest["kind"]


def test_network_policies_of_services_know_the_operator_under_any_name() -> None:
    odd = render({"nameOverride": "other", "podLabels": {"app.kubernetes.io/part-of": "mine"}})
    labels = odd.one("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/part-of"] == "qwen-vllm"
    assert labels["app.kubernetes.io/component"] == "operator"


def test_the_key_for_metrics_comes_from_a_secret(default: Rendered) -> None:
    rendered = render({"monitoring": {"metricsKey": {"secretName": "metrics-keys", "secretKey": "keys.txt"}}})
    mounts = {mount["name"]: mount for mount in rendered.container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in rendered.one("Deployment")["spec"]["template"]["spec"]["volumes"]}
    assert volumes["metrics-key"]["secret"] == {
        "secretName": "metrics-keys",
        "items": [{"key": "keys.txt", "path": "keys"}],
    }
    path = environment(rendered.container)["QWEN_OPERATOR_METRICS_KEY_FILE"]
    assert path == f"{mounts['metrics-key']['mountPath']}/keys"
    assert mounts["metrics-key"]["readOnly"]
    assert "metrics-key" not in str(default.one("Deployment")["spec"]["template"]["spec"]["volumes"])

"""What values do: which are accepted, and what a wrong one is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
import yaml
from charts import generate

from .conftest import CHART, render, run_helm, template

EVERYTHING: dict[str, Any] = {
    "nameOverride": "models",
    "fullnameOverride": "model-operator",
    "commonLabels": {"team": "platform", "app.kubernetes.io/part-of": "not-this"},
    "commonAnnotations": {"owner": "platform"},
    "adopt": True,
    "image": {
        "repository": "registry.example.com/op",
        "tag": "2",
        "digest": "sha256:" + "a" * 64,
        "pullPolicy": "Always",
    },
    "imagePullSecrets": [{"name": "pull"}],
    "serverImages": {
        "cpu": "registry.example.com/s:cpu",
        "cuda": "registry.example.com/s:cuda",
        "pullSecrets": [{"name": "pull"}],
    },
    "replicas": 3,
    "leaderElection": {"enabled": True, "leaseName": "chosen"},
    "log": {"level": "debug", "format": "text"},
    "resyncSeconds": 30,
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
    "extraVolumes": [{"name": "ca", "configMap": {"name": "company-ca"}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ssl/company"}],
    "podTemplate": {"allow": ["metadata.labels", "spec.tolerations"]},
    "admissionPolicy": {"enabled": True},
    "probes": {"startup": {"failureThreshold": 60}},
    "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "50%", "maxUnavailable": 0}},
    "serviceAccount": {"create": True, "name": "custom", "annotations": {"a": "b"}},
    "priorityClass": {"create": False, "name": "system-cluster-critical"},
    "podAnnotations": {"note": "1"},
    "podLabels": {"tier": "control", "app.kubernetes.io/component": "not-this"},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}
    ],
    "networkPolicy": {
        "enabled": True,
        "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        "egress": [{"ports": [{"port": 443}]}],
    },
    "monitoring": {
        "labels": {"release": "prometheus"},
        "serviceMonitor": {"enabled": True, "interval": "10s"},
        "prometheusRule": {"enabled": "true", "runbookBaseUrl": "https://runbooks.example.com/"},
        "dashboards": {"enabled": True, "annotations": {"grafana_folder": "Qwen"}},
        "metricsKey": {"secretName": "metrics-keys", "secretKey": "keys.txt"},
    },
}


METRICS_KEY: dict[str, Any] = {"monitoring": {"metricsKey": {"secretName": "keys"}}}


def test_helm_lint_finds_nothing() -> None:
    result = run_helm("lint", "--strict", "--kube-version", generate.KUBE_VERSION, str(CHART))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "[WARNING]" not in result.stdout


def test_every_option_at_once_renders() -> None:
    rendered = render(EVERYTHING)
    pod = rendered.one("Deployment", "model-operator")["spec"]["template"]["spec"]
    assert rendered.container["image"] == "registry.example.com/op:2@sha256:" + "a" * 64
    assert pod["priorityClassName"] == "system-cluster-critical"
    assert pod["serviceAccountName"] == rendered.one("ServiceAccount")["metadata"]["name"] == "custom"
    assert pod["topologySpreadConstraints"][0]["topologyKey"] == "topology.kubernetes.io/zone"
    assert {"name": "HTTPS_PROXY", "value": "http://proxy:3128"} in rendered.container["env"]
    assert not rendered.all("PriorityClass")
    kinds = {manifest["kind"] for manifest in rendered.manifests}
    assert {"ServiceMonitor", "PrometheusRule", "NetworkPolicy", "PodDisruptionBudget"} <= kinds


def test_users_labels_are_added_and_replace_none_of_the_charts() -> None:
    rendered = render(EVERYTHING)
    labels = rendered.one("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert labels["team"] == "platform"
    assert labels["tier"] == "control"
    assert labels["app.kubernetes.io/part-of"] == "qwen-vllm"
    assert labels["app.kubernetes.io/component"] == "operator"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"replcas": 2}, "replcas"),
        ({"image": {"repo": "x"}}, "repo"),
        ({"monitoring": {"serviceMonitor": {"enable": True}}}, "enable"),
        ({"crds": {"keep": "yes"}}, "keep"),
        ({"replicas": "2"}, "replicas"),
        ({"log": {"level": "verbose"}}, "level"),
        ({"watchNamespaces": ["Team_A"]}, "watchNamespaces"),
        ({"watchNamespaces": ["a", "a"]}, "watchNamespaces"),
        ({"image": {"digest": "latest"}}, "digest"),
        ({"monitoring": {"dashboards": {"enabled": "Sometimes"}}}, "dashboards"),
    ],
)
def test_wrong_value_is_refused_with_its_name(values: dict[str, Any], named: str) -> None:
    result = template(values)
    assert result.returncode != 0
    assert named in result.stderr


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"resources": {"requests": {"cpus": "1"}}}, "cpus"),
    ({"resources": {"limits": {"memory": "1 GB"}}}, "memory"),
    ({"resources": {"limits": {"memory": {}}}}, "memory"),
    ({"resources": {"requets": {}}}, "requets"),
    ({"extraEnv": [{"name": "A", "valueForm": {}}]}, "valueForm"),
    ({"extraEnv": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s"}}}]}, "key"),
    ({"extraEnv": [{"name": "A", "value": 1}]}, "value"),
    ({"extraEnv": [None]}, "extraEnv"),
    ({"serverImages": {"cpu": "a b"}}, "cpu"),
    ({"serverImages": {"cuda": "UPPER/case:tag:tag"}}, "cuda"),
    ({"serverImages": {"cpu": "server@sha256:short"}}, "cpu"),
    ({"image": {"repository": "x:1.0"}}, "repository"),
    ({"image": {"repository": "host:5000/x:1.0"}}, "repository"),
    ({"image": {"repository": "https://host/x"}}, "repository"),
    ({"image": {"tag": "-x"}}, "tag"),
    ({"fullnameOverride": "Bad_Name"}, "fullnameOverride"),
    ({"fullnameOverride": "1st"}, "fullnameOverride"),
    ({"fullnameOverride": "a" * 53}, "fullnameOverride"),
    ({"nameOverride": "a."}, "nameOverride"),
    ({"affinity": {"foo": {}}}, "foo"),
    ({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}}}, "nodeSelectorTerms"),
    ({"topologySpreadConstraints": [{"maxskew": 1}]}, "maxskew"),
    ({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone"}]}, "whenUnsatisfiable"),
    ({"tolerations": [{"operator": "Exist"}]}, "operator"),
    ({"tolerations": [{"tolerationSeconds": "5"}]}, "tolerationSeconds"),
    ({"podSecurityContext": {"runAsUsr": 1}}, "runAsUsr"),
    ({"securityContext": {"capabilities": {"drop": "ALL"}}}, "drop"),
    ({"securityContext": {"seccompProfile": {"type": "Default"}}}, "type"),
    ({"nodeSelector": {"disk": "a b"}}, "disk"),
    ({"commonLabels": {"team": "a/b"}}, "team"),
    ({"podLabels": {"a b": "c"}}, "a b"),
    ({"podAnnotations": {"note": 1}}, "note"),
    ({"commonAnnotations": {"a b": "c"}}, "a b"),
    ({"imagePullSecrets": [{"name": "Pull_Secret"}]}, "imagePullSecrets"),
    ({"serverImages": {"pullSecrets": ["pull"]}}, "pullSecrets"),
    ({"serviceAccount": {"name": "Account"}}, "serviceAccount"),
    ({"priorityClass": {"name": "a_b"}}, "priorityClass"),
    ({"leaderElection": {"leaseName": "a b"}}, "leaseName"),
    ({"strategy": {"type": "Rolling"}}, "type"),
    ({"strategy": {"rollingUpdate": {"maxsurge": 1}}}, "maxsurge"),
    ({"probes": {"liveness": {"periodSeconds": 0}}}, "periodSeconds"),
    ({"probes": {"liveness": {"httpGet": {}}}}, "httpGet"),
    ({"extraVolumes": [{"configMap": {"name": "a"}}]}, "name"),
    ({"extraVolumes": [{"name": "a", "hostPaht": {"path": "/"}}]}, "hostPaht"),
    ({"extraVolumeMounts": [{"name": "a"}]}, "mountPath"),
    ({"networkPolicy": {"from": [{"podSelektor": {}}]}}, "podSelektor"),
    ({"networkPolicy": {"from": [{"ipBlock": {"except": []}}]}}, "cidr"),
    ({"networkPolicy": {"egress": [{"ports": [{"protocol": "HTTP"}]}]}}, "protocol"),
    ({"podTemplate": {"allow": ["tolerations"]}}, "allow"),
    (
        {"extraEnv": [{"name": "A", "value": "1", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]},
        "extraEnv",
    ),
    ({"extraEnv": [{"name": "A", "valueFrom": {}}]}, "valueFrom"),
    ({"extraVolumes": [{"name": "a", "emptyDir": {}, "configMap": {"name": "b"}}]}, "extraVolumes"),
    ({"networkPolicy": {"from": [{}]}}, "from"),
    ({"networkPolicy": {"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}}, "from"),
    ({"monitoring": {"metricsKey": {"secretName": "Metrics_Keys"}}}, "secretName"),
    ({"monitoring": {"metricsKey": {"secretKey": "a/b"}}}, "secretKey"),
]


def test_what_kubernetes_would_refuse_is_refused_with_its_name() -> None:
    """The schema itself is asked, because a process of helm for each of them would take long."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft7Validator(schema)
    for values, named in REFUSED:
        errors = list(validator.iter_errors(values))
        assert any(named in f"{error.json_path} {error.message}" for error in errors), (values, errors)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"resources": {"requests": {"cpus": "1"}}}, "'/resources/requests': additional properties 'cpus'"),
        ({"podLabels": {"a b": "c"}}, "'/podLabels': additional properties 'a b'"),
        ({"commonAnnotations": {"a b": "c"}}, "'/commonAnnotations': additional properties 'a b'"),
        ({"extraEnv": [{"name": "A", "valueForm": {}}]}, "extraEnv"),
        ({"serverImages": {"cpu": "a b"}}, "serverImages"),
        ({"image": {"repository": "x:1.0"}}, "image"),
        ({"topologySpreadConstraints": [{"maxskew": 1}]}, "topologySpreadConstraints"),
    ],
)
def test_helm_reads_the_schema_as_the_tests_do(values: dict[str, Any], named: str) -> None:
    result = template(values)
    assert result.returncode != 0
    assert named in result.stderr


def test_what_kubernetes_accepts_is_accepted() -> None:
    accepted: dict[str, Any] = {
        "resources": {
            "requests": {"cpu": 0.5, "memory": "128Mi", "nvidia.com/gpu": 1, "ephemeral-storage": "1Gi"},
            "limits": {"memory": 1000000000, "hugepages-2Mi": "4Mi"},
            "claims": [{"name": "a"}],
        },
        "image": {"repository": "localhost:5000/team/qwen-operator", "tag": 20261126},
        "serverImages": {
            "cpu": "[fd00::1]:5000/s:1@sha256:" + "a" * 64,
            "cuda": "registry.example.com/a__b/c-d.e:v1.0_x",
        },
        "nodeSelector": {"kubernetes.io/hostname": "n-1.example.com", "empty": ""},
        "affinity": {
            "podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [
                    {"topologyKey": "zone", "labelSelector": {"matchLabels": {"a": "b"}}}
                ]
            }
        },
        "networkPolicy": {"enabled": True, "egress": [{"ports": [{"port": "https"}], "to": [{"podSelector": {}}]}]},
        "extraVolumes": [{"name": "a", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}],
        "extraVolumeMounts": [{"name": "a", "mountPath": "/a", "mountPropagation": "None"}],
        "securityContext": {"capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "Localhost"}},
    }
    assert render(accepted).container["resources"]["requests"]["cpu"] == 0.5


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"serviceAccount": {"create": False}}, "serviceAccount.name: required"),
        ({"watchNamespaces": ["a"], "priorityClass": {"name": "high"}}, "priorityClass.create=false"),
        ({"priorityClass": {"name": "system-mine"}}, "reserves the prefix system-"),
        ({"extraEnv": [{"name": "A"}, {"name": "A"}]}, "A is set twice"),
        ({"extraVolumes": [{"name": "tmp", "emptyDir": {}}]}, "a volume tmp already"),
        ({"extraVolumeMounts": [{"name": "a", "mountPath": "/a"}]}, "no volume of extraVolumes is called a"),
        ({"extraVolumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]}, "mounted at /tmp already"),
        ({"extraVolumeMounts": [{"name": "tmp", "mountPath": "/tmp/"}]}, "mounted at /tmp already"),
        (
            {**METRICS_KEY, "extraVolumes": [{"name": "metrics-key", "emptyDir": {}}]},
            "there is a volume metrics-key already",
        ),
        (
            {**METRICS_KEY, "extraVolumeMounts": [{"name": "tmp", "mountPath": "/etc/qwen-operator/metrics-key"}]},
            "mounted at /etc/qwen-operator/metrics-key already",
        ),
        ({"podTemplate": {"allow": ["spec.toleration"]}}, "spec.toleration is no field of podTemplate"),
        (
            {"podTemplate": {"allow": ["metadata", "spec.containers.resource.limits"]}},
            "spec.containers.resource.limits",
        ),
        (
            {"replicas": 1, "leaderElection": {"enabled": False}, "strategy": {"type": "RollingUpdate"}},
            "can only be Recreate",
        ),
        ({"resources": {"requests": {"memory": "1Gi"}}}, "resources.requests.memory: 1Gi is above the limit"),
        ({"resources": {"requests": {"cpu": 0.6}, "limits": {"cpu": "500m"}}}, "requests.cpu: 0.6 is above the limit"),
        ({"strategy": {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}}, "the type Recreate allows none"),
        ({"strategy": {"rollingUpdate": {"maxSurge": "0%", "maxUnavailable": 0}}}, "maxUnavailable are both 0"),
        ({"tolerations": [{"key": "a"}, {"operator": "Exists", "value": "b"}]}, "tolerations[1].value: the operator"),
        ({"tolerations": [{"value": "b"}]}, "tolerations[0].key: only the operator Exists"),
        (
            {"tolerations": [{"key": "a", "effect": "NoSchedule", "tolerationSeconds": 5}]},
            "tolerations[0].tolerationSeconds: only the effect NoExecute",
        ),
    ],
)
def test_what_would_be_dropped_or_not_work_is_refused(values: dict[str, Any], said: str) -> None:
    result = template(values)
    assert result.returncode != 0
    assert said in result.stderr


def test_paths_of_pod_templates_may_end_anywhere() -> None:
    """Within an item of a list, at a label of any name, and below quantities of any resource."""
    allow = ["metadata.labels.team", "spec.containers.resources.limits.cpu", "spec.volumes", "spec.affinity"]
    variables = {item["name"]: item.get("value") for item in render({"podTemplate": {"allow": allow}}).container["env"]}
    assert variables["QWEN_OPERATOR_POD_TEMPLATE_ALLOW"] == ",".join(allow)


def test_a_release_whose_name_no_service_can_have_is_refused_with_the_remedy() -> None:
    result = template({}, release="1st")
    assert result.returncode != 0
    assert "set fullnameOverride" in result.stderr
    assert template({"fullnameOverride": "first"}, release="1st").returncode == 0


def test_an_existing_priority_class_can_be_used_with_listed_namespaces() -> None:
    rendered = render({"watchNamespaces": ["a"], "priorityClass": {"create": False, "name": "high"}})
    assert rendered.one("Deployment")["spec"]["template"]["spec"]["priorityClassName"] == "high"


def defaults() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    return values


def leaves_null(values: dict[str, Any]) -> dict[str, Any]:
    """Null for every value, but not within what Kubernetes would then refuse."""
    whole = ("resources", "podSecurityContext", "securityContext")
    inner = {key for key, value in values.items() if isinstance(value, dict) and value and key not in whole}
    return {key: leaves_null(value) if key in inner else None for key, value in values.items()}


def sections_null(values: dict[str, Any]) -> dict[str, Any]:
    """Null for every section within a section."""
    inner = {key: value for key, value in values.items() if isinstance(value, dict)}
    return {key: dict.fromkeys(value) for key, value in inner.items() if value}


@pytest.mark.parametrize("everything", [leaves_null, sections_null, dict.fromkeys])
def test_nulls_are_the_defaults_and_crash_no_template(everything: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    api = ("--api-versions", "monitoring.coreos.com/v1")
    rendered, usual = render(everything(defaults()), *api), render(None, *api)
    assert [manifest["kind"] for manifest in rendered.manifests] == [manifest["kind"] for manifest in usual.manifests]
    assert rendered.container["env"] == usual.container["env"]
    assert rendered.container["image"] == usual.container["image"]
    assert rendered.one("PriorityClass")["value"] == usual.one("PriorityClass")["value"]


def test_the_schema_accepts_null_wherever_there_is_a_default() -> None:
    """Helm asks it about nulls that `--reuse-values` brings, and removes others first."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft7Validator(schema)

    def null(values: Any) -> Any:
        return {key: null(value) for key, value in values.items()} if isinstance(values, dict) and values else None

    for values in (null(defaults()), leaves_null(defaults()), sections_null(defaults()), dict.fromkeys(defaults())):
        assert [f"{error.json_path} {error.message}" for error in validator.iter_errors(values)] == []


def test_a_null_that_helm_leaves_reaches_no_object() -> None:
    """Helm leaves a null without a default in the values, as one of a reused release."""
    values = {
        "nodeSelector": {"disk": None},
        "podAnnotations": {"note": None},
        "podSecurityContext": {"supplementalGroups": None},
    }
    rendered = render(values).one("Deployment")["spec"]["template"]
    assert "nodeSelector" not in rendered["spec"]
    assert "note" not in rendered["metadata"]["annotations"]
    assert "supplementalGroups" not in rendered["spec"]["securityContext"]


@pytest.mark.parametrize(
    ("request_", "limit"), [("1e3", 1500), ("0.5", "500m"), ("1", "1000m"), (64, "1Ki"), ("128Mi", "0.2G"), ("0", "0")]
)
def test_a_request_may_be_as_large_as_the_limit(request_: Any, limit: Any) -> None:
    render({"resources": {"requests": {"example.com/a": request_}, "limits": {"example.com/a": limit}}})


def test_null_removes_what_a_cluster_does_not_allow() -> None:
    rendered = render({"podSecurityContext": None, "securityContext": None, "resources": {"limits": None}})
    assert "securityContext" not in rendered.one("Deployment")["spec"]["template"]["spec"]
    assert "securityContext" not in rendered.container
    assert "limits" not in rendered.container["resources"]


def test_every_template_completes_the_values_first() -> None:
    templates = [path for path in (CHART / "templates").rglob("*") if path.suffix in {".yaml", ".txt"}]
    assert len(templates) > 15
    for path in templates:
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        assert first == '{{- include "qwen-operator.complete" . -}}', path.name


def test_two_operators_without_election_are_refused() -> None:
    result = template({"replicas": 2, "leaderElection": {"enabled": False}})
    assert result.returncode != 0
    assert "leaderElection.enabled=true" in result.stderr


def test_environment_of_the_chart_cannot_be_repeated() -> None:
    result = template({"extraEnv": [{"name": "QWEN_OPERATOR_LOG_LEVEL", "value": "debug"}]})
    assert result.returncode != 0
    assert "the chart sets QWEN_OPERATOR_LOG_LEVEL" in result.stderr


def test_cluster_that_is_too_old_is_refused() -> None:
    result = template({}, "--kube-version", "1.28.15")
    assert result.returncode != 0
    assert "kubeVersion" in result.stderr


def test_versions_of_managed_clusters_are_accepted() -> None:
    assert template({}, "--kube-version", "1.33.4-gke.1000").returncode == 0


def test_schema_knows_every_value_and_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    not_in_values = {"global", "enabled"}  # Helm's own, and a parent chart's condition
    differences: list[str] = []

    def compare(schema: dict[str, Any], values: Any, path: str) -> None:
        if not schema.get("properties"):
            return
        assert schema["additionalProperties"] is False, path
        known = set(schema["properties"]) - (not_in_values if not path else {"claims"})
        differences.extend(f"{path}.{key}" for key in known ^ set(values))
        for key in known & set(values):
            compare(schema["properties"][key], values[key], f"{path}.{key}")

    compare(schema, values, "")
    assert differences == []


def test_the_readme_lists_every_value() -> None:
    readme = (CHART / "README.md").read_text(encoding="utf-8")
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))

    def missing(value: Any, path: str) -> list[str]:
        """What is not in the table: a value is, or all that it consists of."""
        if f"| `{path}` |" in readme:
            return []
        parts = value if isinstance(value, dict) else {}
        return [name for key, part in parts.items() for name in missing(part, f"{path}.{key}")] if parts else [path]

    assert [name for key, value in values.items() for name in missing(value, key)] == []

"""What values do: which are accepted, and what a wrong one is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from charts import generate

from .conftest import CHART, render, run_helm, template

EVERYTHING: dict[str, Any] = {
    "nameOverride": "models",
    "fullnameOverride": "model-operator",
    "commonLabels": {"team": "platform", "app.kubernetes.io/part-of": "not-this"},
    "image": {
        "repository": "registry.example.com/op",
        "tag": "2",
        "digest": "sha256:" + "a" * 64,
        "pullPolicy": "Always",
    },
    "imagePullSecrets": [{"name": "pull"}],
    "serverImages": {"cpu": "registry.example.com/s:cpu", "cuda": "registry.example.com/s:cuda"},
    "replicas": 3,
    "leaderElection": {"enabled": True, "leaseName": "chosen"},
    "log": {"level": "debug", "format": "text"},
    "resyncSeconds": 30,
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
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
    },
}


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

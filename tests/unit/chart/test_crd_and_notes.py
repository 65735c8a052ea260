"""The definition that travels with the chart, the notes, and the files that are derived."""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from charts import generate

from qwen_operator import __version__

from .conftest import CHART, ROOT, Rendered, render, template

SAMPLE = ROOT / "manifests" / "samples" / "qwen-news-classifier.yaml"


@cache
def crd() -> dict[str, Any]:
    """The definition in manifests/crd.yaml, which no test may change."""
    (loaded,) = generate.documents((ROOT / "manifests" / "crd.yaml").read_text(encoding="utf-8"))
    return dict(loaded)


def objections(service: dict[str, Any]) -> list[str]:
    """What the definition's schema has against an object: wrong values and unknown fields.

    CEL is the API server's.
    """
    schema = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    # OpenAPI 3.0 has JSON Schema's draft 4 meaning of exclusiveMinimum.
    found = [error.message for error in jsonschema.Draft4Validator(schema).iter_errors(service)]

    def unknown(value: Any, known: dict[str, Any], path: str) -> None:
        if isinstance(value, list):
            for item in value:
                unknown(item, known["items"], f"{path}[]")
        elif isinstance(value, dict) and known.get("properties") and path != ".metadata":
            for key, part in value.items():
                if key in known["properties"]:
                    unknown(part, known["properties"][key], f"{path}.{key}")
                else:
                    found.append(f"unknown field {path}.{key}")

    unknown(service, schema, "")
    return found


def notes(chart: Path, values: dict[str, Any] | None = None) -> str:
    result = template(values, "--show-only", "templates/notes.yaml", chart=chart)
    assert result.returncode == 0, result.stderr
    text: str = yaml.safe_load(result.stdout)["data"]["notes"]
    return text


def pasted(command: str) -> str:
    """What kubectl reads if somebody pastes this command into a shell. A command that is not
    complete does not end.
    """
    script = f'kubectl() {{ cat; }}\n{command}\necho "# the shell goes on"\n'
    result = subprocess.run(["bash"], input=script, capture_output=True, text=True, check=True, timeout=20)
    # Without the end of a here-document, bash takes all that follows as its content.
    assert result.stderr == ""
    assert result.stdout.endswith("\n# the shell goes on\n")
    return result.stdout


def test_definition_is_the_generated_one_to_the_last_field(default: Rendered) -> None:
    assert default.one("CustomResourceDefinition")["spec"] == crd()["spec"]
    assert default.one("CustomResourceDefinition")["metadata"]["name"] == crd()["metadata"]["name"]


def test_the_definition_outlives_the_release_by_default(default: Rendered) -> None:
    keep = "helm.sh/resource-policy"
    assert default.one("CustomResourceDefinition")["metadata"]["annotations"][keep] == "keep"
    dropped = render({"crds": {"keep": False}}).one("CustomResourceDefinition")["metadata"]
    assert keep not in dropped.get("annotations", {})


def test_a_release_that_would_delete_the_definition_notes_it() -> None:
    """By this note an upgrade with crds.enabled=false is refused: Helm would delete the CRD."""
    noted = "qwen-vllm.io/deletes-definition"
    for crds, expected in (({}, False), ({"keep": False}, True), ({"keep": False, "enabled": False}, False)):
        metadata = render({"crds": crds}).one("Deployment")["metadata"]
        assert (noted in metadata.get("annotations", {})) is expected, crds
    assert noted not in (ROOT / "manifests" / "install.yaml").read_text(encoding="utf-8")


def test_a_policy_keeps_the_definition_from_going_back(default: Rendered) -> None:
    annotation = "qwen-vllm.io/definition-version"
    version = crd()["metadata"]["annotations"][annotation]
    assert default.one("CustomResourceDefinition")["metadata"]["annotations"][annotation] == version
    policy, binding = default.one("ValidatingAdmissionPolicy"), default.one("ValidatingAdmissionPolicyBinding")
    assert binding["spec"] == {"policyName": policy["metadata"]["name"], "validationActions": ["Deny"]}
    (rule,) = policy["spec"]["matchConstraints"]["resourceRules"]
    assert rule["resourceNames"] == [crd()["metadata"]["name"]]
    assert rule["operations"] == ["UPDATE"]  # it can still be deleted
    assert all(f"'{annotation}'" in variable["expression"] for variable in policy["spec"]["variables"])
    (validation,) = policy["spec"]["validations"]
    assert "--set crds.enabled=false" in validation["message"]
    assert "\n" not in validation["message"]


@pytest.mark.parametrize("values", [{"protect": False}, {"enabled": False}])
def test_the_definition_can_be_left_unprotected(values: dict[str, bool]) -> None:
    assert not render({"crds": values}).all("ValidatingAdmissionPolicy")


def test_definition_can_come_from_elsewhere() -> None:
    assert not render({"crds": {"enabled": False}}).all("CustomResourceDefinition")


def test_notes_end_with_a_service_that_the_definition_accepts(notes_chart: Path) -> None:
    text = notes(notes_chart)
    match = re.search(r"^kubectl apply -f - <<'END'\n.*?^END$", text, re.DOTALL | re.MULTILINE)
    assert match, text
    applied = yaml.safe_load(pasted(match[0]))
    assert applied == yaml.safe_load(SAMPLE.read_text(encoding="utf-8"))
    assert objections(applied) == []
    assert applied["kind"] == crd()["spec"]["names"]["kind"]


def test_notes_say_how_to_watch(notes_chart: Path) -> None:
    text = notes(notes_chart)
    assert "kubectl get qwenservices -A --watch" in text
    assert "every namespace" in text


def test_notes_say_when_no_operator_runs(notes_chart: Path) -> None:
    text = notes(notes_chart, {"replicas": 0, "watchNamespaces": ["team-a"]})
    assert "is installed for team-a, but replicas is 0: no operator runs" in text
    assert "serves QwenServices" not in text
    assert "kubectl -n qwen-system scale deployment/qwen-operator --replicas=1" in text


def test_notes_of_a_namespaced_operator_use_a_served_namespace(notes_chart: Path) -> None:
    text = notes(notes_chart, {"watchNamespaces": ["team-a", "team-b"]})
    assert "team-a, team-b" in text
    assert "kubectl -n team-a apply" in text


def test_notes_of_a_namespaced_operator_can_be_pasted(notes_chart: Path) -> None:
    text = notes(notes_chart, {"watchNamespaces": ["team-a"]})
    match = re.search(r"^kubectl -n team-a apply -f - <<'END'\n.*?^END$", text, re.DOTALL | re.MULTILINE)
    assert match, text
    assert yaml.safe_load(pasted(match[0]))["kind"] == "QwenService"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"networkPolicy": {"from": [{"podSelector": {}}]}}, "networkPolicy.from"),
        ({"networkPolicy": {"egress": [{"ports": [{"port": 443}]}]}}, "networkPolicy.from and networkPolicy.egress"),
        ({"serviceAccount": {"create": False, "name": "a", "annotations": {"a": "b"}}}, "serviceAccount.annotations"),
        ({"replicas": 1, "leaderElection": {"enabled": False, "leaseName": "a"}}, "leaderElection.leaseName"),
        ({"podLabels": {"app.kubernetes.io/component": "x"}}, "podLabels, app.kubernetes.io/component"),
        ({"commonLabels": {"helm.sh/chart": "x"}}, "commonLabels, helm.sh/chart"),
        ({"podAnnotations": {"kubectl.kubernetes.io/default-container": "x"}}, "podAnnotations"),
        ({"rbac": {"create": False, "listPrometheuses": True}}, "rbac.listPrometheuses, because rbac.create"),
        ({"crds": {"enabled": False, "keep": False}}, "crds.keep and crds.protect, because crds.enabled"),
        ({"priorityClass": {"create": False, "value": 5}}, "priorityClass.value, because the chart creates no"),
        (
            {"watchNamespaces": ["a"], "priorityClass": {"value": 5}},
            "priorityClass.value, because the chart creates no",
        ),
        ({"monitoring": {"metricsKey": {"secretKey": "a"}}}, "monitoring.metricsKey.secretKey, because"),
        (
            {"monitoring": {"dashboards": {"labels": {"app.kubernetes.io/name": "x"}}}},
            "monitoring.dashboards.labels, app.kubernetes.io/name: the chart sets it",
        ),
    ],
)
def test_notes_name_the_values_that_have_no_effect(notes_chart: Path, values: dict[str, Any], named: str) -> None:
    assert f"Values without effect:\n  - {named}" in notes(notes_chart, values)


def test_notes_name_nothing_where_all_values_have_an_effect(notes_chart: Path) -> None:
    used = {"networkPolicy": {"enabled": True, "from": [{"podSelector": {}}]}}
    assert "without effect" not in notes(notes_chart, used)


def test_notes_warn_when_the_definition_is_not_installed(notes_chart: Path) -> None:
    assert "crds.enabled is false" in notes(notes_chart, {"crds": {"enabled": False}})


def test_derived_files_are_up_to_date() -> None:
    outdated = [str(path.relative_to(ROOT)) for path in generate.stale(check=True)]
    assert outdated == [], "run python -m charts.generate"


def test_install_manifest_holds_the_chart_without_helm() -> None:
    manifests = generate.documents((ROOT / "manifests" / "install.yaml").read_text(encoding="utf-8"))
    assert manifests[0]["kind"] == "Namespace"
    assert manifests[0]["metadata"]["name"] == "qwen-system"
    expected = {(m["kind"], m["metadata"]["name"]) for m in render().manifests if m["kind"] != "Pod"}
    assert {(m["kind"], m["metadata"]["name"]) for m in manifests[1:]} == expected
    for manifest in manifests:
        assert "helm" not in json.dumps(manifest["metadata"]).lower(), manifest["kind"]


def test_missing_helm_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(generate.GenerateError, match="make deps"):
        generate.find_helm()


def test_versions_agree() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["version"] == chart["appVersion"] == __version__


def test_example_of_the_catalogue_page_is_accepted() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    (example,) = yaml.safe_load(chart["annotations"]["artifacthub.io/crdsExamples"])
    assert objections(example) == []

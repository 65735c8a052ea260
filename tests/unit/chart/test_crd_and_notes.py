"""The definition that travels with the chart, the notes, and the files that are derived."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from charts import generate

from .conftest import CHART, ROOT, Rendered, render, template

SAMPLE = ROOT / "manifests" / "samples" / "qwen-news-classifier.yaml"


def crd() -> dict[str, Any]:
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


def test_definition_is_the_generated_one_to_the_last_field(default: Rendered) -> None:
    assert default.one("CustomResourceDefinition")["spec"] == crd()["spec"]
    assert default.one("CustomResourceDefinition")["metadata"]["name"] == crd()["metadata"]["name"]


def test_the_definition_outlives_the_release_by_default(default: Rendered) -> None:
    keep = "helm.sh/resource-policy"
    assert default.one("CustomResourceDefinition")["metadata"]["annotations"][keep] == "keep"
    dropped = render({"crds": {"keep": False}}).one("CustomResourceDefinition")["metadata"]
    assert keep not in dropped.get("annotations", {})


def test_definition_can_come_from_elsewhere() -> None:
    assert not render({"crds": {"enabled": False}}).all("CustomResourceDefinition")


def test_notes_end_with_a_service_that_the_definition_accepts(notes_chart: Path) -> None:
    text = notes(notes_chart)
    match = re.search(r"kubectl apply -f - <<'END'\n(.*?)\n +END\n", text, re.DOTALL)
    assert match, text
    applied = yaml.safe_load(match[1])
    assert applied == yaml.safe_load(SAMPLE.read_text(encoding="utf-8"))
    assert objections(applied) == []
    assert applied["kind"] == crd()["spec"]["names"]["kind"]


def test_notes_say_how_to_watch(notes_chart: Path) -> None:
    text = notes(notes_chart)
    assert "kubectl get qwenservices -A --watch" in text
    assert "every namespace" in text


def test_notes_of_a_namespaced_operator_use_a_served_namespace(notes_chart: Path) -> None:
    text = notes(notes_chart, {"watchNamespaces": ["team-a", "team-b"]})
    assert "team-a, team-b" in text
    assert "kubectl -n team-a apply" in text


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
    assert chart["version"] == chart["appVersion"] == "1.0.0"


def test_example_of_the_catalogue_page_is_accepted() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    (example,) = yaml.safe_load(chart["annotations"]["artifacthub.io/crdsExamples"])
    assert objections(example) == []

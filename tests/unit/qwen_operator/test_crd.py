"""The generated CRD: up to date, structural, and complete."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from generate_crd import build_crd, build_reference, main, render_crd
from tests.unit.qwen_operator.objects import ROOT, load

Schema = dict[str, Any]


@cache
def schema() -> Schema:
    found: Schema = build_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def nodes(node: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    yield path, node
    for name, part in node.get("properties", {}).items():
        yield from nodes(part, f"{path}.{name}")
    for name in ("items", "additionalProperties"):
        if isinstance(node.get(name), dict):
            yield from nodes(node[name], f"{path}[]")


def at(path: str) -> Schema:
    return next(node for where, node in nodes(schema()) if where == path)


def test_committed_files_are_those_that_the_models_give() -> None:
    assert (ROOT / "manifests/crd.yaml").read_text(encoding="utf-8") == render_crd()
    assert (ROOT / "docs/reference.md").read_text(encoding="utf-8") == build_reference()


def test_check_tells_drift_by_its_exit_status(tmp_path: Path) -> None:
    places = ["--output", str(tmp_path / "crd.yaml"), "--reference", str(tmp_path / "reference.md")]
    assert main([*places, "--check"]) == 1
    assert main(places) == 0
    assert main([*places, "--check"]) == 0


def test_schema_is_structural() -> None:
    for path, node in nodes(schema()):
        assert "$ref" not in node, path
        assert "allOf" not in node, path
        assert ("type" in node) != bool(node.get("x-kubernetes-int-or-string")), path
        assert ("anyOf" in node) == bool(node.get("x-kubernetes-int-or-string")), path


def test_every_field_is_described() -> None:
    bare = [
        path
        for path, node in nodes(schema())
        if not node.get("description") and not path.endswith("[]") and path not in ("", ".metadata")
    ]
    assert bare == []


def test_only_the_pod_template_takes_unknown_fields() -> None:
    free = [path for path, node in nodes(schema()) if node.get("x-kubernetes-preserve-unknown-fields")]
    assert free == [".spec.podTemplate.spec"]


def test_rules_that_fail_name_a_field_that_exists() -> None:
    for path, node in nodes(schema()):
        for rule in node.get("x-kubernetes-validations", ()):
            assert rule["message"]
            if "fieldPath" in rule:
                assert any(where == path + rule["fieldPath"] for where, _ in nodes(schema())), (path, rule)


def test_only_the_source_is_required() -> None:
    assert schema()["required"] == ["spec"]
    assert at(".spec")["required"] == ["model"]
    assert at(".spec.model")["required"] == ["source"]
    assert "required" not in at(".spec.engine")


def test_defaults_are_those_of_the_reference() -> None:
    assert "default" not in at(".spec.replicas")
    assert at(".spec.limits.queueTimeout")["default"] == "30s"
    assert at(".spec.rollout.startupTimeout")["default"] == "30m"
    assert at(".spec.remediation.backoff")["default"] == {"base": "30s", "max": "10m"}
    assert "default" not in at(".spec.gpu.count")


def test_status_has_no_defaults() -> None:
    assert [path for path, node in nodes(schema()) if path.startswith(".status") and "default" in node] == []


@pytest.mark.parametrize(
    ("path", "keys"), [(".spec.alerts", ["name"]), (".spec.remediation.rules", ["alert", "action"])]
)
def test_duplicates_are_refused_by_key(path: str, keys: list[str]) -> None:
    assert at(path)["x-kubernetes-list-type"] == "map"
    assert at(path)["x-kubernetes-list-map-keys"] == keys
    for key in keys:
        assert key in at(path)["items"]["required"]


def test_autoscalers_find_replicas_and_selector() -> None:
    assert build_crd()["spec"]["versions"][0]["subresources"]["scale"] == {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }


def test_columns_show_what_matters_first() -> None:
    columns = build_crd()["spec"]["versions"][0]["additionalPrinterColumns"]
    assert [column["name"] for column in columns if not column.get("priority")] == [
        "Ready",
        "Replicas",
        "Model",
        "URL",
        "Age",
    ]


@pytest.mark.parametrize("path", sorted((ROOT / "manifests/samples").glob("*.yaml")), ids=lambda path: path.name)
def test_samples_use_fields_that_exist(path: Path) -> None:
    known = {where for where, _ in nodes(schema())}

    def check(value: Any, where: str) -> None:
        if where.startswith(".spec.podTemplate.spec"):
            return
        if isinstance(value, dict) and not isinstance(at(where).get("additionalProperties"), dict):
            for key, part in value.items():
                assert f"{where}.{key}" in known
                check(part, f"{where}.{key}")
        elif isinstance(value, list):
            for part in value:
                check(part, f"{where}[]")

    check(load(str(path.relative_to(ROOT)))["spec"], ".spec")


def test_full_sample_shows_every_section() -> None:
    assert set(load("manifests/samples/full.yaml")["spec"]) == set(at(".spec")["properties"])

"""The generated CRD: up to date, structural, and complete."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from generate_crd import build_crd, build_reference, definition_version, main, render_crd
from qwen_operator import __version__
from qwen_operator.api import QwenService
from qwen_operator.api.bounds import MAX_NESTING
from qwen_operator.planning.builders.merge import LIST_KEYS
from tests.unit.qwen_operator.good_specs import GOOD_SPECS
from tests.unit.qwen_operator.objects import ROOT, load

Schema = dict[str, Any]
POD = ".spec.podTemplate.spec"


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


def test_the_version_of_the_definition_grows_with_the_operators() -> None:
    numbers = [int(definition_version(version)) for version in ("0.9.12", "1.0.0", "1.0.1-rc.1", "1.10.0", "2.0.0")]
    assert numbers == sorted(set(numbers))
    annotations = build_crd()["metadata"]["annotations"]
    assert annotations == {"qwen-vllm.io/definition-version": definition_version(__version__)}


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
        if not path.startswith(f"{POD}.")  # Kubernetes describes them
    ]
    assert bare == []


def test_no_part_takes_unknown_fields() -> None:
    free = [path for path, node in nodes(schema()) if node.get("x-kubernetes-preserve-unknown-fields")]
    assert free == []
    objects = [(path, node) for path, node in nodes(schema()) if node.get("type") == "object"]
    assert [path for path, node in objects if not {"properties", "additionalProperties"} & set(node)] == [".metadata"]


def test_no_object_is_deeper_than_the_reader_accepts() -> None:
    assert max(path.count(".") + path.count("[]") for path, _ in nodes(schema())) < MAX_NESTING / 2


def test_every_list_is_bounded() -> None:
    assert [path for path, node in nodes(schema()) if node.get("type") == "array" and "maxItems" not in node] == []


def test_definition_fits_into_the_annotation_of_kubectl_apply() -> None:
    assert len(json.dumps(build_crd(), separators=(",", ":"))) < 200 * 1024  # of 256 KiB


def test_pod_template_has_the_fields_of_kubernetes_by_the_keys_of_the_merge() -> None:
    container = at(f"{POD}.containers[]")
    assert container["required"] == ["name"]
    assert container["properties"]["$patch"]["enum"] == ["replace", "delete"]
    assert container["properties"]["imagePullPolicy"]["nullable"]
    assert at(f"{POD}.containers[].ports[]")["required"] == ["containerPort"]
    assert at(f"{POD}.containers[].resources.limits[]")["x-kubernetes-int-or-string"]
    assert "required" not in at(f"{POD}.volumes[].configMap.items[]")
    assert "ephemeralContainers" not in at(POD)["properties"]


def test_every_key_of_the_merge_is_a_field_of_a_pod() -> None:
    known = {path.rsplit(".", 1)[-1]: path for path, _ in nodes(schema()) if path.startswith(POD)}
    for field, keys in LIST_KEYS.items():
        assert set(keys) <= set(at(f"{known[field]}[]")["properties"])


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
    assert "default" not in at(".spec.rollout.startupTimeout")  # it follows from the model
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
    assert [column["name"] for column in columns if column.get("priority")] == [
        "Device",
        "GPU",
        "Download",
        "Desired",
        "Reason",
    ]


@pytest.mark.parametrize("path", sorted((ROOT / "manifests/samples").glob("*.yaml")), ids=lambda path: path.name)
def test_samples_use_fields_that_exist(path: Path) -> None:
    known = {where for where, _ in nodes(schema())}

    def check(value: Any, where: str) -> None:
        if isinstance(value, dict) and not isinstance(at(where).get("additionalProperties"), dict):
            for key, part in value.items():
                assert f"{where}.{key}" in known
                check(part, f"{where}.{key}")
        elif isinstance(value, list):
            for part in value:
                check(part, f"{where}[]")

    check(load(str(path.relative_to(ROOT)))["spec"], ".spec")


def test_good_specs_use_every_field() -> None:
    def used(value: Any, where: str) -> Iterator[str]:
        yield where
        free = isinstance(at(where).get("additionalProperties"), dict) or where == POD
        if isinstance(value, dict) and not free:
            for key, part in value.items():
                yield from used(part, f"{where}.{key}")
        elif isinstance(value, list):
            for part in value:
                yield from used(part, f"{where}[]")

    known = {
        path
        for path, node in nodes(schema()["properties"]["spec"], ".spec")
        if not path.startswith(f"{POD}.") and not path.endswith("[]")
    }
    assert len(GOOD_SPECS) >= 30
    assert known - {path for spec in GOOD_SPECS.values() for path in used(spec, ".spec")} == set()


@pytest.mark.parametrize("name", GOOD_SPECS)
def test_good_specs_are_read(name: str) -> None:
    found = QwenService.parse({"metadata": {"name": "news"}, "spec": GOOD_SPECS[name]})
    again = QwenService.parse({"metadata": {"name": "news"}, "spec": found.spec.to_dict()})
    assert found.spec == again.spec


def test_full_sample_shows_every_section() -> None:
    assert set(load("manifests/samples/full.yaml")["spec"]) == set(at(".spec")["properties"])

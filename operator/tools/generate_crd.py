"""Generates the CustomResourceDefinition and its reference page from qwen_operator.api.

    PYTHONPATH=operator/src python operator/tools/generate_crd.py [--check]

writes `manifests/crd.yaml` and `docs/reference.md`. With `--check` it writes nothing and exits with
1 if one of them differs from what the models say. It is a build tool and no part of the image.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from pod_schema import pod_spec_schema
from qwen_operator import __version__
from qwen_operator.api.base import ApiObject
from qwen_operator.api.qwenservice import GROUP, KIND, PLURAL, VERSION, QwenServiceSpec
from qwen_operator.api.status import ServiceStatus

Schema = dict[str, Any]

_HEADER: Final = "# Generated from operator/src/qwen_operator/api by `make manifests`; do not edit.\n"
_DROPPED: Final = {"title", "additionalProperties", "$defs", "$ref", "const", "anyOf", "allOf", "discriminator"}


def build_crd() -> Schema:
    """The CustomResourceDefinition as a plain object."""
    names = {
        "kind": KIND,
        "listKind": f"{KIND}List",
        "plural": PLURAL,
        "singular": KIND.lower(),
        "shortNames": ["qs"],
        "categories": ["all"],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{PLURAL}.{GROUP}",
            "annotations": {f"{GROUP}/definition-version": definition_version(__version__)},
        },
        "spec": {"group": GROUP, "names": names, "scope": "Namespaced", "versions": [_version()]},
    }


def definition_version(version: str) -> str:
    """A version as one number that grows with it.

    By it a policy of the chart keeps the CRD from going back to an older version.
    """
    major, minor, patch = map(int, re.findall(r"\d+", version)[:3])
    return str(major * 1_000_000 + minor * 1_000 + patch)


def _version() -> Schema:
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": _columns(),
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "description": "A Qwen model served by vLLM behind one Service.",
                "required": ["spec"],
                "properties": {
                    "apiVersion": {"type": "string", "description": "API version of this object."},
                    "kind": {"type": "string", "description": "Kind of this object: QwenService."},
                    "metadata": {"type": "object"},
                    "spec": {**_spec_schema(), "description": "Desired state."},
                    "status": {**_without_defaults(structural_schema(ServiceStatus)), "description": "Observed state."},
                },
            }
        },
    }


def _columns() -> list[Schema]:
    def column(name: str, path: str, kind: str = "string", priority: int = 0) -> Schema:
        entry = {"name": name, "type": kind, "jsonPath": path}
        return {**entry, "priority": priority} if priority else entry

    return [
        column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
        column("Replicas", ".status.readyReplicas", "integer"),
        column("Model", ".status.model"),
        column("URL", ".status.url"),
        column("Age", ".metadata.creationTimestamp", "date"),
        column("Device", ".spec.engine.device", priority=1),
        column("GPU", ".status.gpus", "integer", priority=1),
        column("Download", ".status.download.progress", priority=1),
        column("Desired", ".spec.replicas", "integer", priority=1),
        column("Reason", ".status.reason", priority=1),
    ]


class _Dense(dict[str, Any]):
    """A part of the schema that is written in as few lines as possible."""


def _spec_schema() -> Schema:
    schema = structural_schema(QwenServiceSpec)
    template = schema["properties"]["podTemplate"]["properties"]
    template["spec"] |= {key: _Dense(part) if key == "properties" else part for key, part in pod_spec_schema().items()}
    return schema


def structural_schema(model: type[ApiObject]) -> Schema:
    """A model's schema as CRDs need it: no references, no `null` alternatives, defaults inline."""

    document = model.model_json_schema(by_alias=True)
    return _structural(document, document.get("$defs", {}))


def _structural(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> Schema:
    merged = _resolve(node, definitions)
    result = {key: value for key, value in merged.items() if key not in _DROPPED}
    if merged.get("x-kubernetes-int-or-string"):
        result["anyOf"] = merged["anyOf"]
    for key in ("minimum", "maximum"):  # exclusive bounds are flags in OpenAPI
        exclusive = f"exclusive{key.capitalize()}"
        if exclusive in result:
            result[key], result[exclusive] = result[exclusive], True
    if "properties" in merged:
        result["properties"] = {name: _structural(schema, definitions) for name, schema in merged["properties"].items()}
    elif isinstance(merged.get("additionalProperties"), Mapping):
        result["additionalProperties"] = _structural(merged["additionalProperties"], definitions)
    if "items" in merged:
        result["items"] = _structural(merged["items"], definitions)
    if result.get("default", ...) is None:
        del result["default"]
    if result.get("default") == {} and "x-kubernetes-validations" in result:
        # the API server validates a default before it fills in the defaults of its fields
        result["default"] = {name: part["default"] for name, part in result["properties"].items() if "default" in part}
    return result


def _resolve(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> Schema:
    """Follows references and drops the `null` alternative.

    Keys next to a `$ref` win over its target.
    """
    merged = dict(node)
    while True:
        alternatives = merged.get("anyOf", [])
        if "$ref" in merged:
            target = definitions[merged.pop("$ref").rsplit("/", 1)[-1]]
        elif any(alternative == {"type": "null"} for alternative in alternatives):
            del merged["anyOf"]
            (target,) = [alternative for alternative in alternatives if alternative != {"type": "null"}]
        else:
            return merged
        merged = {**target, **merged}


def _without_defaults(node: Any) -> Any:
    """The API server must not add defaults to a status: only the operator writes it."""
    if isinstance(node, list):
        return [_without_defaults(item) for item in node]
    if isinstance(node, dict):
        return {key: _without_defaults(value) for key, value in node.items() if key != "default"}
    return node


class Row(NamedTuple):
    """One field of the reference."""

    path: str
    type: str
    default: str
    description: str


def _rows(schema: Mapping[str, Any], path: str) -> Iterator[Row]:
    required = set(schema.get("required", ()))
    for name, child in schema.get("properties", {}).items():
        child_path = f"{path}.{name}"
        yield Row(child_path, _type_name(child), _default(child, name in required), _describe(child))
        if isinstance(child.get("properties"), _Dense):
            continue  # it is documented by Kubernetes
        if child.get("type") == "array":
            yield from _rows(child.get("items", {}), f"{child_path}[]")
        else:
            yield from _rows(child, child_path)


def _type_name(schema: Mapping[str, Any]) -> str:
    if schema.get("x-kubernetes-int-or-string"):
        return "integer or string"
    if "enum" in schema:
        return " \\| ".join(f"`{in_yaml(value)}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type_name(schema['items'])}"
    if isinstance(schema.get("additionalProperties"), Mapping):
        return f"map to {_type_name(schema['additionalProperties'])}"
    return str(schema.get("type", "any"))


def in_yaml(value: Any) -> str:
    """A value as it stands in YAML, which reads some words as booleans if they have no quotes."""
    return str(value) if yaml.safe_load(str(value)) == value else f'"{value}"'


def _default(schema: Mapping[str, Any], required: bool) -> str:
    if required:
        return "**required**"
    default = schema.get("default")
    return (
        ""
        if default is None or default == {}
        else f"`{yaml.safe_dump(default, default_flow_style=True).split(chr(10))[0]}`"
    )


def _describe(schema: Mapping[str, Any]) -> str:
    text = " ".join(str(schema.get("description", "")).split())
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        text += f" ({'above ' if schema.get('exclusiveMinimum') else ''}{low} to {high})"
    elif low is not None:
        text += f" (at least {low})"
    rules = [rule["message"] for rule in schema.get("x-kubernetes-validations", ())]
    return " ".join([text, *(f"*{rule[0].upper()}{rule[1:]}.*" for rule in rules)]).replace("|", "\\|")


def build_reference() -> str:
    """The reference page: every field with type, default and description."""
    properties = build_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    parts = [
        f"<!-- {_HEADER[2:].strip()} -->",
        "# QwenService reference",
        f"API group and version `{GROUP}/{VERSION}`, kind `{KIND}`, short name `qs`.",
        "Only `spec.model.source` is required.",
        "Durations are written as `500ms`, `30s`, `5m` or `1h30m`. `kubectl apply` rejects unknown fields.",
    ]
    for section in ("spec", "status"):
        schema = properties[section]
        rules = [f"- {rule['message']}" for rule in schema.get("x-kubernetes-validations", ())]
        table = ["| Field | Type | Default | Description |", "|---|---|---|---|"]
        table += [
            f"| `{row.path}` | {row.type} | {row.default} | {row.description} |" for row in _rows(schema, section)
        ]
        parts += [f"## {section}", *(["\n".join(rules)] if rules else []), "\n".join(table)]
    return "\n\n".join(parts) + "\n"


class _Dumper(yaml.SafeDumper):
    """Writes no YAML aliases for equal parts: few tools for manifests expect them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    _Dense, lambda dumper, data: dumper.represent_mapping("tag:yaml.org,2002:map", data, flow_style=True)
)


def render_crd() -> str:
    """The CustomResourceDefinition as YAML."""
    return _HEADER + yaml.dump(build_crd(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def main(arguments: list[str] | None = None) -> int:
    """Writes or checks the generated files; returns the exit status."""
    parser = argparse.ArgumentParser(prog="generate_crd.py", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file is out of date")
    parser.add_argument("--output", type=Path, default=Path("manifests/crd.yaml"), help="the CRD (%(default)s)")
    parser.add_argument("--reference", type=Path, default=Path("docs/reference.md"), help="the page (%(default)s)")
    options = parser.parse_args(arguments)
    stale = 0
    for path, text in ((options.output, render_crd()), (options.reference, build_reference())):
        if options.check:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                sys.stderr.write(f"{path} is out of date: run `make manifests`\n")
                stale = 1
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return stale


if __name__ == "__main__":
    sys.exit(main())

"""The definitions of charts/qwen-operator/values.schema.json, which `python -m charts.generate`
writes. The rest of that file is written by hand and refers to them.

They are Kubernetes' own types, so that Helm refuses what the API server would refuse or drop: an
unknown field, a wrong type, a value that is none of a fixed list, a required field that is missing.
Their fields come from operator/tools/pod_spec.yaml and charts/kubernetes_types.yaml.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from qwen_operator.api.base import QUANTITY_PATTERN

Schema = dict[str, Any]

ROOT: Final = Path(__file__).resolve().parents[1]
PATH: Final = ROOT / "charts" / "qwen-operator" / "values.schema.json"
POD_TYPES: Final = ROOT / "operator" / "tools" / "pod_spec.yaml"
FURTHER_TYPES: Final = ROOT / "charts" / "kubernetes_types.yaml"
_REF: Final = "#/definitions/"
_LIST, _MAP = "list of ", "map of "
_OR_NULL: Final = "OrNull"
"""Ends the name of a definition that accepts null, too."""
_SUBDOMAIN: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_QUALIFIED: Final = rf"^({_SUBDOMAIN}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?$"
_LABEL_VALUE: Final = r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"
_HOST: Final = r"([A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?(\.[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?)*|\[[0-9A-Fa-f:]+\])"
_FOLDER: Final = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY: Final = rf"({_HOST}(:[0-9]+)?/)?{_FOLDER}(/{_FOLDER})*"
_TAG: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
# A resource without a prefix must be one that Kubernetes knows.
_RESOURCE: Final = r"^(cpu|memory|ephemeral-storage|hugepages-[^/]+|[^/]+/[^/]+)$"

OWN: Final[dict[str, Schema]] = {
    "Name": {"type": "string", "maxLength": 63, "pattern": r"^([a-z]([-a-z0-9]*[a-z0-9])?)?$"},
    "Subdomain": {"type": "string", "maxLength": 253, "pattern": rf"^({_SUBDOMAIN})?$"},
    "Repository": {"type": "string", "maxLength": 255, "pattern": f"^{_REPOSITORY}$"},
    "Image": {
        "type": "string",
        "maxLength": 512,
        "pattern": f"^({_REPOSITORY}(:{_TAG})?(@[A-Za-z][A-Za-z0-9+._-]*:[0-9a-fA-F]{{32,}})?)?$",
    },
    "Labels": {
        "type": "object",
        "additionalProperties": False,
        "patternProperties": {_QUALIFIED: {"type": "string", "pattern": _LABEL_VALUE}},
    },
    "Annotations": {
        "type": "object",
        "additionalProperties": False,
        "patternProperties": {_QUALIFIED: {"type": "string"}},
    },
    "PullSecrets": {
        "type": "array",
        "items": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"name": {"type": "string", "maxLength": 253, "pattern": f"^{_SUBDOMAIN}$"}},
            "required": ["name"],
        },
    },
    "ProbeTimes": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "failureThreshold": {"type": "integer", "minimum": 1},
            "initialDelaySeconds": {"type": "integer", "minimum": 0},
            "periodSeconds": {"type": "integer", "minimum": 1},
            "timeoutSeconds": {"type": "integer", "minimum": 1},
        },
    },
}
"""What Kubernetes' types do not say: the forms of names, images and labels. Keys have a pattern by
`patternProperties`, because Helm names a wrong place for a key that `propertyNames` refuses.
"""
_RULES: Final[dict[str, Schema]] = {
    "EnvVar": {"not": {"required": ["value", "valueFrom"]}},
    "EnvVarSource": {"minProperties": 1, "maxProperties": 1},
    "NetworkPolicyPeer": {
        "minProperties": 1,
        "not": {"required": ["ipBlock"], "minProperties": 2},
    },
    "Volume": {"maxProperties": 2},
}
"""What the fields of a type exclude, such as a second source of a volume."""
_SPECIAL: Final[dict[str, Schema]] = {
    "quantity": {"type": ["string", "number"], "pattern": QUANTITY_PATTERN},
    "integer or string": {"type": ["integer", "string"]},
    **{name: {"type": name} for name in ("string", "integer", "number", "boolean")},
}


def load_types() -> tuple[dict[str, dict[str, Any]], dict[str, list[str]]]:
    """The fields of each type in the form of pod_spec.yaml, and the fields that a type requires."""
    further = yaml.safe_load(FURTHER_TYPES.read_text(encoding="utf-8"))
    types = {**yaml.safe_load(POD_TYPES.read_text(encoding="utf-8")), **further["types"]}
    return types, further["required"]


def with_definitions(schema: Schema) -> Schema:
    """The schema with the definitions to which it refers, and those to which they refer."""
    rest = {key: value for key, value in schema.items() if key != "definitions"}
    types, required = load_types()
    found: dict[str, Schema] = {}
    todo = list(_references(rest))
    while todo:
        name = todo.pop()
        if name not in found:
            found[name] = _definition(name, types, required)
            todo += _references(found[name])
    return {**rest, "definitions": {name: found[name] for name in sorted(found)}}


def _references(node: Any) -> Iterator[str]:
    for text in re.findall(rf'"\$ref": "{_REF}(\w+)"', json.dumps(node)):
        yield str(text)


def _definition(name: str, types: dict[str, dict[str, Any]], required: dict[str, list[str]]) -> Schema:
    known = name.removesuffix(_OR_NULL)
    found = OWN[known] if known in OWN else _object(known, types, required)
    return found if known == name else or_null(found)


def or_null(schema: Schema) -> Schema:
    """A schema that accepts null, too, also in each field of an object, but not as item of a list.

    A null stays in the values of a release that is upgraded with `--reuse-values`.
    """
    if "$ref" in schema:
        return {"$ref": f"{schema['$ref'].removesuffix(_OR_NULL)}{_OR_NULL}"}
    found = dict(schema)
    if "enum" in schema:
        found["enum"] = [*schema["enum"], None]
    if "type" in schema:
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        found["type"] = [*types, "null"]
    for fields in {"properties", "patternProperties"} & set(schema):
        found[fields] = {name: or_null(field) for name, field in schema[fields].items()}
    if schema.get("additionalProperties"):
        found["additionalProperties"] = or_null(schema["additionalProperties"])
    return found


def _object(name: str, types: dict[str, dict[str, Any]], required: dict[str, list[str]]) -> Schema:
    properties = {field: _value(text, types) for field, text in types[name].items()}
    if name == "ResourceRequirements":
        for field in ("requests", "limits"):
            quantity = properties[field]["additionalProperties"]
            properties[field] = {
                "type": "object",
                "additionalProperties": False,
                "patternProperties": {_RESOURCE: quantity},
            }
    schema: Schema = {"type": "object", "additionalProperties": False, "properties": properties}
    return schema | ({"required": required[name]} if name in required else {}) | _RULES.get(name, {})


def _value(text: Any, types: dict[str, dict[str, Any]]) -> Schema:
    if isinstance(text, list):
        return {"enum": text}
    if text.startswith(_LIST):
        return {"type": "array", "items": _value(text.removeprefix(_LIST), types)}
    if text.startswith(_MAP):
        return {"type": "object", "additionalProperties": _value(text.removeprefix(_MAP), types)}
    return {"$ref": f"{_REF}{text}"} if text in types else dict(_SPECIAL[text])

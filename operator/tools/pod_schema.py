"""The schema of `podTemplate.spec`: Kubernetes' own PodSpec, of which a QwenService gives a part.

    export PYTHONPATH=operator/src
    kubectl get --raw /openapi/v3/api/v1 | python operator/tools/pod_schema.py

writes `operator/tools/pod_spec.yaml`: each type with its fields, without descriptions and without
what is required. An integration test compares it with the API server. `generate_crd.py` expands it
into the CRD, so that errors in types and names are refused at `kubectl apply` and the depth of an
object is bounded.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from qwen_operator.api.base import QUANTITY_PATTERN
from qwen_operator.planning.builders.merge import KEY_DEFAULTS, LIST_KEYS

Schema = dict[str, Any]
Types = dict[str, dict[str, Any]]

PATH: Final = Path(__file__).with_name("pod_spec.yaml")
ROOT: Final = "PodSpec"
# What a pod template cannot have, or what nobody gives to the claim of an ephemeral volume.
_DROPPED: Final = {"PodSpec": {"ephemeralContainers"}}
_METADATA: Final = {"annotations": "map of string", "labels": "map of string"}
_LIST, _MAP = "list of ", "map of "
MAX_ITEMS: Final = 1000
"""Items of a list. Kubernetes has no limit but the size of the object."""
_SPECIAL: Final[dict[str, Schema]] = {
    "quantity": {
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "x-kubernetes-int-or-string": True,
        "pattern": QUANTITY_PATTERN,
    },
    "integer or string": {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True},
    **{name: {"type": name} for name in ("string", "integer", "number", "boolean")},
}


def compact(openapi: Mapping[str, Any]) -> Types:
    """The types that a PodSpec consists of, from the API server's OpenAPI of `v1`.

    A field is the name of its type, `list of` or `map of` one, or the list of its values.
    """
    schemas = openapi["components"]["schemas"]
    by_name = {name.rsplit(".", 1)[-1]: schema for name, schema in schemas.items()}
    types: Types = {}
    todo = [ROOT]
    while todo:
        name = todo.pop()
        if name in types or name in _SPECIAL:
            continue
        if name == "ObjectMeta":
            types[name] = dict(_METADATA)
            continue
        dropped = _DROPPED.get(name, set())
        fields = {field: schema for field, schema in by_name[name]["properties"].items() if field not in dropped}
        types[name] = {field: _short(schema) for field, schema in sorted(fields.items())}
        named = (text for text in types[name].values() if isinstance(text, str))
        todo += [text.removeprefix(_LIST).removeprefix(_MAP) for text in named]
    return {name: types[name] for name in sorted(types, key=lambda name: (name != ROOT, name))}


def _short(schema: Mapping[str, Any]) -> Any:
    for part in (schema, *schema.get("allOf", ())):
        if "$ref" in part:
            name = part["$ref"].rsplit(".", 1)[-1]
            return {"Quantity": "quantity", "IntOrString": "integer or string", "Time": "string"}.get(name, name)
    if "enum" in schema:
        return list(schema["enum"])
    if schema["type"] == "array":
        item = _short(schema["items"])
        return f"{_LIST}{'string' if isinstance(item, list) else item}"
    if schema["type"] == "object":
        return f"{_MAP}{_short(schema['additionalProperties'])}"
    return str(schema["type"])


def pod_spec_schema() -> Schema:
    """The schema of a partial PodSpec. `null` and `$patch` are what the merge understands."""
    types: Types = yaml.load(PATH.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    return _object(types, ROOT)


def _object(types: Types, name: str, keys: tuple[str, ...] = (), *, in_list: bool = False) -> Schema:
    properties = {
        field: _value(types, text, field) | ({} if field in keys else {"nullable": True})
        for field, text in types[name].items()
    }
    directives = ["replace", "delete"] if in_list else ["replace"]
    schema = {"type": "object", "properties": {"$patch": {"type": "string", "enum": directives}, **properties}}
    required = [key for key in keys if key not in KEY_DEFAULTS]
    return schema | ({"required": required} if required else {})


def _value(types: Types, text: Any, field: str = "") -> Schema:
    if isinstance(text, list):
        # No enum, because the API server then refuses null, which removes a field.
        return {"type": "string", "pattern": f"^({'|'.join(map(re.escape, text))})$"}
    if text.startswith(_LIST):
        item = text.removeprefix(_LIST)
        keys = LIST_KEYS.get(field, ())
        in_list = bool(keys) and item in types
        items = _object(types, item, keys, in_list=True) if in_list else _value(types, item)
        return {"type": "array", "maxItems": MAX_ITEMS, "items": items}
    if text.startswith(_MAP):
        return {"type": "object", "additionalProperties": _value(types, text.removeprefix(_MAP)) | {"nullable": True}}
    return _object(types, text) if text in types else dict(_SPECIAL[text])


def render(types: Types, version: str) -> str:
    """The compact form as YAML."""
    header = (
        f"# The types of a PodSpec in Kubernetes {version}; made by operator/tools/pod_schema.py, do not edit.\n"
        "# A list names the values of a field.\n"
    )
    body: str = yaml.safe_dump(types, sort_keys=False, default_flow_style=None, width=120)
    return header + body


def main() -> None:
    """Reads the OpenAPI document from standard input and writes the file."""
    openapi = json.load(sys.stdin)
    PATH.write_text(render(compact(openapi), minor_version(openapi)), encoding="utf-8")


def minor_version(openapi: Mapping[str, Any]) -> str:
    """Such as 1.34."""
    return ".".join(openapi["info"]["version"].removeprefix("v").split(".")[:2])


if __name__ == "__main__":
    main()

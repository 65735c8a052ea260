"""Writes charts/kubernetes_types.yaml from the OpenAPI documents of an API server.

    python -m charts.kubernetes_types

asks the server of the current kubeconfig by kubectl. The file has what operator/tools/pod_spec.yaml
lacks for the schema of the chart's values: types that are no part of a PodSpec, and which fields
are required. An integration test compares it with the API server.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml
from charts.values_schema import FURTHER_TYPES, POD_TYPES

DOCUMENTS: Final = ("/openapi/v3/api/v1", "/openapi/v3/apis/apps/v1", "/openapi/v3/apis/networking.k8s.io/v1")
"""The documents of the API server that hold the types."""
FURTHER: Final = (
    "DeploymentStrategy",
    "IPBlock",
    "NetworkPolicyEgressRule",
    "NetworkPolicyPeer",
    "NetworkPolicyPort",
    "RollingUpdateDeployment",
)
_HEADER: Final = """\
# What the schema of the chart's values needs of Kubernetes beside operator/tools/pod_spec.yaml.
# Made by charts/kubernetes_types.py, do not edit.
"""


def extract(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The content of the file."""
    schemas = {
        name.rsplit(".", 1)[-1]: schema
        for document in documents
        for name, schema in document["components"]["schemas"].items()
    }
    known = yaml.safe_load(POD_TYPES.read_text(encoding="utf-8"))
    types = {name: _fields(schemas[name]) for name in FURTHER}
    # The chart makes the PodSpec itself; values hold parts of it.
    names = sorted({*types, *known} - {"PodSpec", "ObjectMeta"})
    required = {name: sorted(schemas[name]["required"]) for name in names if schemas[name].get("required")}
    return {"types": types, "required": required}


def _fields(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {field: _short(part) for field, part in sorted(schema["properties"].items())}


def _short(schema: Mapping[str, Any]) -> Any:
    for part in (schema, *schema.get("allOf", ())):
        if "$ref" in part:
            name = str(part["$ref"]).rsplit(".", 1)[-1]
            return "integer or string" if name == "IntOrString" else name
    if "enum" in schema:
        return list(schema["enum"])
    if schema["type"] == "array":
        return f"list of {_short(schema['items'])}"
    return str(schema["type"])


def render(content: Mapping[str, Any]) -> str:
    """The file."""
    body: str = yaml.safe_dump(dict(content), sort_keys=False, default_flow_style=None, width=100)
    return _HEADER + body


def main() -> None:
    """Asks the API server and writes the file."""
    documents = []
    for path in DOCUMENTS:
        command = ["kubectl", "get", "--raw", path]
        answer = subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - fixed arguments
        documents.append(json.loads(answer.stdout))
    FURTHER_TYPES.write_text(render(extract(documents)), encoding="utf-8")


if __name__ == "__main__":
    main()

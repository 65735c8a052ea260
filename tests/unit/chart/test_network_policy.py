"""The values that docs/operations.md gives for the operator's NetworkPolicy let it work."""

from __future__ import annotations

from typing import Any

from qwen_operator.api.names import child_labels
from tests.cluster import policies
from tests.e2e.enforced_policies import documented_values
from tests.unit.cluster.test_policies import admitted

from .conftest import render

OPERATOR, MODEL, STRANGER, SCRAPER = "10.244.0.10", "10.244.0.11", "10.244.0.12", "10.244.0.13"
API_SERVER = "192.168.250.2"


def running(namespace: str, address: str, labels: dict[str, str], spec: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"namespace": namespace, "labels": labels}, "spec": spec, "status": {"podIP": address}}


def test_the_documented_policy_admits_what_the_operator_needs_and_no_more() -> None:
    rendered = render(documented_values())
    template = rendered.one("Deployment")["spec"]["template"]
    empty: dict[str, Any] = {"containers": []}
    pods = [
        running("qwen-system", OPERATOR, template["metadata"]["labels"], template["spec"]),
        running("news", MODEL, child_labels("news"), empty),
        running("news", STRANGER, {}, empty),
        running("monitoring", SCRAPER, {}, empty),
    ]
    names = {pod["metadata"]["namespace"] for pod in pods}
    namespaces = [{"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}} for name in names]
    found = policies.chains([rendered.one("NetworkPolicy")], pods, namespaces)

    assert admitted(found, OPERATOR, API_SERVER, 443)
    assert admitted(found, OPERATOR, API_SERVER, 6443)
    assert admitted(found, OPERATOR, API_SERVER, 53, "UDP")
    assert admitted(found, OPERATOR, MODEL, 8000)
    assert not admitted(found, OPERATOR, STRANGER, 8000)
    assert not admitted(found, OPERATOR, MODEL, 22)
    assert admitted(found, SCRAPER, OPERATOR, 8080)
    assert not admitted(found, STRANGER, OPERATOR, 8080)
    assert not admitted(found, SCRAPER, OPERATOR, 22)

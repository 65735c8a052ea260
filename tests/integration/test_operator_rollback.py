"""A rollback: the operator meets a definition that is newer than itself."""

from __future__ import annotations

import urllib.error
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.integration.admin_api import QS, AdminApi
from tests.integration.control_plane import ControlPlane, wait_until
from tests.integration.fake_pods import FakePodServers
from tests.integration.test_operator_remediation import gate_is, ip_of, start

pytestmark = pytest.mark.cluster

DEFINITION = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/qwenservices.qwen-vllm.io"
SPEC = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties"
FIELD = f"{SPEC}/engine/properties/speculation"
VALUES = f"{SPEC}/rollout/properties/onOperatorUpgrade/enum"
HUNG = [
    {"alert": "EngineUnresponsive", "action": "Unready"},
    {"alert": "EngineUnresponsive", "action": "Restart", "for": "1h"},
]


def redefine(plane: ControlPlane, *changes: Mapping[str, Any]) -> None:
    """Changes the definition by a JSON patch."""
    plane.request("PATCH", DEFINITION, changes, "application/json-patch+json")


@pytest.fixture
def newer_definition(plane: ControlPlane) -> Iterator[None]:
    """A definition with one more field, and with one more value of a field."""
    field = {"op": "add", "path": FIELD, "value": {"type": "string"}}
    redefine(plane, field, {"op": "add", "path": f"{VALUES}/2", "value": "Window"})
    yield
    redefine(plane, {"op": "remove", "path": FIELD}, {"op": "remove", "path": f"{VALUES}/2"})


def written(api: AdminApi, section: str, field: str, value: str) -> bool:
    """Writes a field of the spec.

    Returns False if the API server does not know it or its value. It learns a new definition within
    seconds.
    """
    try:
        stored = api.patch(QS, "qwenservices", "news", {"spec": {section: {field: value}}})
    except urllib.error.HTTPError as error:
        if error.code != 422:
            raise
        return False
    return bool(stored["spec"][section].get(field) == value)


def handled(api: AdminApi) -> bool:
    """Whether the status is that of the current spec."""
    service = api.service()
    return bool(service["status"].get("observedGeneration") == service["metadata"]["generation"])


def running(api: AdminApi) -> dict[str, Any]:
    """What runs: the pods, and the state of the objects that the operator writes."""
    deployment = api.deployment()
    assert deployment is not None
    found: dict[str, Any] = {"pods": [pod["metadata"]["uid"] for pod in api.pods()]}
    found["deployment"] = (deployment["metadata"]["uid"], deployment["metadata"]["generation"])
    for plural, name in (("services", "news"), ("configmaps", "news-alerts")):
        child = api.get("v1", plural, name)
        assert child is not None
        found[plural] = child["metadata"]["resourceVersion"]
    return found


@pytest.mark.usefixtures("operator", "newer_definition")
def test_a_definition_that_is_newer_than_the_operator_changes_nothing_that_runs(
    api: AdminApi, servers: FakePodServers
) -> None:
    hung, well = start(api, servers, 2, rules=HUNG)
    server = servers.by_ip[ip_of(0)]
    server.alerts, server.generates = ["EngineUnresponsive"], False
    wait_until("the gate is closed", gate_is(api, hung, "False"))
    api.run_pod(hung, ip_of(0))
    before = running(api)

    # A field that the operator does not know has no effect.
    wait_until("the new field is accepted", lambda: written(api, "engine", "speculation", "on"))
    wait_until("it was handled", lambda: handled(api))
    assert api.condition("Progressing")["reason"] != "InvalidSpec"
    assert running(api) == before

    # A value that it does not know is InvalidSpec, and what runs stays as it is.
    wait_until("the new value is accepted", lambda: written(api, "rollout", "onOperatorUpgrade", "Window"))
    wait_until("the reason", lambda: api.condition("Degraded").get("reason") == "InvalidSpec")
    assert "spec.rollout.onOperatorUpgrade" in api.condition("Degraded")["message"]
    event = wait_until("an Event InvalidSpec", lambda: api.events("InvalidSpec"))[0]
    assert (event["type"], "spec.rollout.onOperatorUpgrade" in event["message"]) == ("Warning", True)
    assert api.condition("Ready")["status"] == "True"
    assert running(api) == before

    # Remediation goes on: the gate of the hung pod stays closed in ten more rounds.
    polls = server.asked["/api/v1/metrics"]
    wait_until("ten more polls", lambda: server.asked["/api/v1/metrics"] >= polls + 10)
    assert (api.gate(hung), api.gate(well)) == ("False", "True")

    assert written(api, "rollout", "onOperatorUpgrade", "Defer")
    wait_until("the spec is valid again", lambda: api.condition("Degraded").get("reason") != "InvalidSpec")
    assert running(api) == before

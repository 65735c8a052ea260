"""replicas that a manifest leaves out, for an autoscaler."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.integration.admin_api import AdminApi, qwen_service
from tests.integration.control_plane import ControlPlane, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("operator")]


def test_replicas_that_are_left_out_are_written_for_autoscalers(api: AdminApi) -> None:
    api.create(qwen_service())
    wait_until("the replicas", lambda: api.service()["spec"].get("replicas") == 1)
    wait_until("the Deployment", lambda: (api.deployment() or {}).get("spec", {}).get("replicas") == 1)


def test_taking_replicas_out_of_the_manifest_scales_nothing(plane: ControlPlane, api: AdminApi) -> None:
    def apply(**spec: Any) -> None:
        plane.kubectl("-n", api.namespace, "apply", "-f", "-", text=json.dumps(qwen_service(**spec)))

    apply(replicas=5)
    wait_until("five replicas", lambda: (api.deployment() or {}).get("spec", {}).get("replicas") == 5)
    before = (api.deployment() or {})["metadata"]["generation"]
    apply(autoscaling={"minReplicas": 2, "maxReplicas": 8})
    wait_until("the autoscaler", lambda: api.get("autoscaling/v2", "horizontalpodautoscalers", "news"))
    wait_until("the number is back", lambda: api.service()["spec"].get("replicas") == 5)
    deployment = api.deployment()
    assert deployment is not None
    assert (deployment["spec"]["replicas"], deployment["metadata"]["generation"]) == (5, before)
    apply(autoscaling={"minReplicas": 2, "maxReplicas": 8}, service={"port": 9000})
    wait_until("the port", lambda: api.get("v1", "services", "news")["spec"]["ports"][0]["port"] == 9000)  # type: ignore[index]
    assert api.service()["spec"]["replicas"] == 5

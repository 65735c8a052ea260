"""What the operator costs the API server."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest

from qwen_operator.kube.client import KubeClient
from tests.integration.admin_api import AdminApi, qwen_service
from tests.integration.control_plane import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("operator")]


def test_a_new_service_costs_at_most_eight_requests(api: AdminApi, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    send = KubeClient._send

    async def counted(self: KubeClient, method: str, path: str, query: Mapping[str, str], **options: Any) -> Any:
        _, _, what = path.partition(f"/namespaces/{api.namespace}/")
        if what and "watch" not in query and not what.startswith("events"):
            asked.append(f"{method} {what}")
        return await send(self, method, path, query, **options)

    monkeypatch.setattr(KubeClient, "_send", counted)
    calls: list[str] = []
    for name in ("first", "second", "third"):  # if pods come one by one, each changes the status
        api.create(qwen_service(name, replicas=2, networkPolicy={"enabled": True}))
        wait_until("the status has settled", lambda name=name: api.status(name)["replicas"] == 2)  # type: ignore[misc]
        time.sleep(1.0)  # let what the last writes cause through
        calls = [call for call in asked if name in call]
        same = (f"{kind}/{name}" for kind in ("services", "deployments", "poddisruptionbudgets", "networkpolicies"))
        for child in (f"configmaps/{name}-alerts", *same):
            assert [call for call in calls if call.endswith(f" {child}")] == [f"PATCH {child}"]
        if len(calls) <= 8:
            return
    pytest.fail(f"more than 8 requests: {calls}")

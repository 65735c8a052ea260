"""LoRA adapters of a QwenService on a real API server: running pods get them without a restart."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.integration.admin_api import QS, AdminApi, qwen_service
from tests.integration.control_plane import wait_until
from tests.integration.fake_pods import FakePodServers

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("operator")]

NEWS = {"name": "news", "source": {"path": "/models/news"}}
SPORT = {"name": "sport", "source": {"huggingFace": {"repo": "me/sport", "revision": "v1"}}}


def says(name: str, source: str, state: str, reason: str = "") -> dict[str, Any]:
    return {"name": name, "source": source, "state": state, "loaded": state == "loaded", "reason": reason}


def declared(api: AdminApi) -> list[str]:
    found = api.get("v1", "configmaps", "news-alerts")
    document = json.loads((found or {"data": {}})["data"].get("adapters.json", '{"adapters": []}'))
    return [adapter["name"] for adapter in document["adapters"]]


def test_running_pods_get_an_adapter_and_the_status_says_which_have_it(api: AdminApi, servers: FakePodServers) -> None:
    api.create(qwen_service(adapters=[NEWS]))
    [pod] = api.started(1)
    server = servers.add("10.0.0.1")
    server.more = {"adapters": [says("news", "/models/news", "loaded")]}
    api.run_pod(pod, "10.0.0.1")
    wait_until("the adapter is loaded", lambda: api.status().get("adapters", [{}])[0].get("pods") == "1/1")
    before = api.deployment()
    api.patch(QS, "qwenservices", "news", {"spec": {"adapters": [NEWS, SPORT]}})
    wait_until("the pods are told", lambda: declared(api) == ["news", "sport"])
    wait_until("the kubelet is asked", lambda: "qwen-vllm.io/config-hash" in api.pod(pod)["metadata"]["annotations"])
    cause = "cannot be downloaded: the hub has no such repository"
    server.more = {"adapters": [*server.more["adapters"], says("sport", "me/sport@v1", "failed", cause)]}
    wait_until("the failure shows", lambda: api.status()["adapters"][-1]["reason"] == "Failed")
    assert api.status()["adapters"] == [
        {"name": "news", "pods": "1/1", "reason": "Loaded", "message": ""},
        {"name": "sport", "pods": "0/1", "reason": "Failed", "message": f"Pod {pod}: {cause}"},
    ]
    assert api.condition("HasWarnings")["reason"] == "AdapterFailed"
    assert wait_until("an event", lambda: api.events("AdapterFailed"))
    after = api.deployment()
    assert before is not None
    assert after is not None
    assert after["spec"]["template"] == before["spec"]["template"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    assert [item["metadata"]["name"] for item in api.pods()] == [pod]

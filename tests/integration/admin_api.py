"""The Kubernetes API as an administrator uses it, and what a kubelet would report."""

from __future__ import annotations

import urllib.error
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from qwen_operator.api.names import READINESS_GATE
from tests.integration.control_plane import ControlPlane, wait_until

Object = dict[str, Any]

QS = "qwen-vllm.io/v1alpha1"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"


def path(api_version: str, plural: str, namespace: str | None, name: str = "", subresource: str = "") -> str:
    """The URL path of objects."""
    root = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
    parts = [root, *(["namespaces", namespace] if namespace else []), plural, name, subresource]
    return "/".join(part for part in parts if part)


PLURALS = {
    "Namespace": "namespaces",
    "QwenService": "qwenservices",
    "Service": "services",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "CustomResourceDefinition": "customresourcedefinitions",
    "Deployment": "deployments",
    "LimitRange": "limitranges",
    "ResourceQuota": "resourcequotas",
}
CLUSTER_WIDE = ("Namespace", "CustomResourceDefinition")


def qwen_service(name: str = "news", **spec: Any) -> Object:
    """A small QwenService; keyword arguments are sections of its spec."""
    return {
        "apiVersion": QS,
        "kind": "QwenService",
        "metadata": {"name": name},
        "spec": {"model": {"source": {"builtin": "news-classifier"}}, "engine": {"device": "cpu"}, **spec},
    }


@dataclass(frozen=True)
class AdminApi:
    """The API as an administrator uses it, in one namespace."""

    plane: ControlPlane
    namespace: str

    def create(self, obj: Object) -> Object:
        """Creates an object, with strict validation."""
        namespace = None if obj["kind"] in CLUSTER_WIDE else self.namespace
        where = path(obj["apiVersion"], PLURALS[obj["kind"]], namespace)
        created: Object = self.plane.request("POST", f"{where}?fieldValidation=Strict", obj)
        return created

    def get(self, api_version: str, plural: str, name: str) -> Object | None:
        """An object; None if it does not exist."""
        try:
            found: Object = self.plane.request("GET", path(api_version, plural, self.namespace, name))
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise
        return found

    def objects(self, api_version: str, plural: str) -> list[Object]:
        """All objects of a kind."""
        answer = self.plane.request("GET", path(api_version, plural, self.namespace))
        return list(answer["items"])

    def patch(
        self, api_version: str, plural: str, name: str, body: Object, subresource: str = "", *, kind: str = MERGE
    ) -> Object:
        """Merges fields into an object."""
        where = path(api_version, plural, self.namespace, name, subresource)
        patched: Object = self.plane.request("PATCH", where, body, kind)
        return patched

    def delete(self, api_version: str, plural: str, name: str) -> None:
        """Deletes an object."""
        self.plane.request("DELETE", path(api_version, plural, self.namespace, name))

    # What the tests need most.

    def service(self, name: str = "news") -> Object:
        """A QwenService that exists."""
        found = self.get(QS, "qwenservices", name)
        assert found is not None
        return found

    def status(self, name: str = "news") -> Object:
        """The status of a QwenService; empty before the operator's first update."""
        return dict(self.service(name).get("status") or {})

    def condition(self, kind: str, name: str = "news") -> Object:
        """A condition of its status; empty if it is not set."""
        found = [item for item in self.status(name).get("conditions", ()) if item["type"] == kind]
        return dict(found[0]) if found else {}

    def deployment(self, name: str = "news") -> Object | None:
        """Its Deployment."""
        return self.get("apps/v1", "deployments", name)

    def pods(self) -> list[Object]:
        """The pods, oldest name first."""
        return sorted(self.objects("v1", "pods"), key=lambda pod: str(pod["metadata"]["name"]))

    def pod(self, name: str) -> Object:
        """A pod that exists."""
        found = self.get("v1", "pods", name)
        assert found is not None
        return found

    def events(self, reason: str, kind: str = "QwenService") -> list[Object]:
        """The Events with a reason about objects of a kind."""
        return [
            event
            for event in self.objects("v1", "events")
            if event["reason"] == reason and event["involvedObject"]["kind"] == kind
        ]

    # What the kubelet would do.

    def run_pod(
        self, name: str, ip: str, *, ready: bool = True, restarts: int = 0, ended: Object | None = None
    ) -> None:
        """Reports a pod as its kubelet would: it runs at an address, ready or not.

        `ended` is how the container's last run ended.
        """
        text = "True" if ready else "False"
        gate_open = self.gate(name) == "True"
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        conditions = [
            {"type": "ContainersReady", "status": text, "lastTransitionTime": now},
            {"type": "Ready", "status": "True" if ready and gate_open else "False", "lastTransitionTime": now},
        ]
        container = {
            "name": "server",
            "ready": ready,
            "started": ready,
            "restartCount": restarts,
            "image": "server:cpu",
            "imageID": "",
            "state": {"running": {"startedAt": now}},
            "lastState": {"terminated": ended} if ended else {},
        }
        status = {
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "conditions": conditions,
            "containerStatuses": [container],
        }
        self.patch("v1", "pods", name, {"status": status}, "status", kind=STRATEGIC)

    def gate(self, name: str) -> str:
        """The status of a pod's readiness gate; empty if it is not set."""
        conditions = self.pod(name)["status"].get("conditions", ())
        return next((item["status"] for item in conditions if item["type"] == READINESS_GATE), "")

    def started(self, count: int) -> list[str]:
        """Waits for this many pods of a service. Returns their names."""
        pods = wait_until(f"{count} pods", lambda: len(self.pods()) == count and self.pods())
        return [pod["metadata"]["name"] for pod in pods]

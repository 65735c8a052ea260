"""Pods that stand for clients: each listens on a port of its own, and connects from where it is."""

from __future__ import annotations

from collections.abc import Mapping

from tests.cluster import images
from tests.cluster.clusters import Local
from tests.cluster.settings import Settings
from tests.e2e.kubectl import Kubectl, Object

PROCESS = "python"
PORT = 9000


def client_pod(image: str, name: str, labels: Mapping[str, str]) -> Object:
    """A pod of the operator's image, which has Python, that serves files on `PORT`."""
    container = {
        "name": "client",
        "image": image,
        "command": [PROCESS, "-m", "http.server", str(PORT)],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": dict(labels)},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
        },
    }


def run(cluster: Settings, kubectl: Kubectl, name: str, **labels: str) -> Object:
    """Runs a client with these labels in the namespace. Returns it when it has an address."""
    kubectl.apply(client_pod(Local(cluster).reference(images.OPERATOR), name, labels))
    kubectl.run("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")
    return kubectl.get("pod", name)

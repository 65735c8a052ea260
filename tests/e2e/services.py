"""QwenServices for the tests, small enough that two fit on a node with two cores."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from tests.cluster.demo import ASK
from tests.cluster.settings import Settings
from tests.cluster.shell import output
from tests.e2e.kubectl import Kubectl

# The server exits with its engine, instead of restarting it.
EXITS_WITH_ENGINE = {"device": "cpu", "restarts": 0}


def qwen_service(name: str, replicas: int = 1, **sections: Any) -> dict[str, Any]:
    """A QwenService with the built-in model on a CPU; `sections` replace or extend its spec."""
    spec: dict[str, Any] = {
        "model": {"source": {"builtin": "news-classifier"}},
        "engine": {"device": "cpu"},
        "replicas": replicas,
        "resources": {"requests": {"cpu": "100m", "memory": "2Gi"}, "limits": {"cpu": "2", "memory": "6Gi"}},
        "rollout": {"minReadySeconds": 0},
        "drain": {"timeout": "10s"},
    }
    return {
        "apiVersion": "qwen-vllm.io/v1alpha1",
        "kind": "QwenService",
        "metadata": {"name": name},
        "spec": {**spec, **sections},
    }


def ask_through_service(
    kubectl: Kubectl, cluster: Settings, name: str, path: str, body: dict[str, Any]
) -> dict[str, Any]:
    """Sends a request from the cluster's network to the Service. Returns the JSON answer."""
    address = kubectl.get("service", name)["spec"]["clusterIP"]
    env = {**os.environ, "URL": f"http://{address}:8000", "REQUESTS": json.dumps([[path, body]])}
    answer: dict[str, Any] = json.loads(output([*cluster.nsenter(), sys.executable, "-c", ASK], env=env, timeout=90))
    return answer

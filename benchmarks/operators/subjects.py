"""The two operators: what they are given, what they make of it, and how they are started."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import yaml
from tests.cluster.settings import ROOT
from tests.integration.control_plane import ControlPlane

from benchmarks.operators.peer import Peer as Built

Object = dict[str, Any]

NAMESPACE = "fleet"
LEASE = "qwen-operator"
REPLICAS = 2
SOURCE = ROOT / "operator" / "src"


class Start(NamedTuple):
    """A command with its environment."""

    command: Sequence[str]
    environment: Mapping[str, str]


class Subject(Protocol):
    """An operator.

    Attributes:
        name: for messages and the table.
        user: whom the API server sees.
        definition: the name of the definition of its objects.
        objects: the path of its objects in the API.
        children: the paths of what it makes of each object, one of each.
        min_ready_seconds: seconds that a pod must be ready before it counts as available.
    """

    name: str
    user: str
    definition: str
    objects: str
    children: Sequence[str]
    min_ready_seconds: float

    def install(self, plane: ControlPlane) -> None:
        """Installs definitions and rights."""

    def body(self, name: str) -> Object:
        """An object with two replicas."""

    def start(self, plane: ControlPlane, identity: str, port: int) -> Start:
        """How a process is started. It answers /readyz on the port."""


def _path(api: str, plural: str) -> str:
    return f"{api}/namespaces/{NAMESPACE}/{plural}"


class Ours:
    """This operator, with the rights of its chart and leader election."""

    name = "this operator"
    user = "system:serviceaccount:qwen-system:qwen-operator"
    definition = "qwenservices.qwen-vllm.io"
    objects = _path("/apis/qwen-vllm.io/v1alpha1", "qwenservices")
    children: Sequence[str] = (
        _path("/api/v1", "configmaps"),
        _path("/api/v1", "services"),
        _path("/apis/apps/v1", "deployments"),
        _path("/apis/policy/v1", "poddisruptionbudgets"),
        _path("/apis/networking.k8s.io/v1", "networkpolicies"),
    )
    min_ready_seconds = 60.0

    def install(self, plane: ControlPlane) -> None:
        """Installs what manifests/install.yaml has. Its Deployment has no node to run on."""
        plane.kubectl("apply", "--server-side", "-f", str(ROOT / "manifests" / "install.yaml"))

    def body(self, name: str) -> Object:
        """A QwenService with a NetworkPolicy, so that it has five children."""
        return {
            "apiVersion": "qwen-vllm.io/v1alpha1",
            "kind": "QwenService",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {
                "model": {"source": {"builtin": "news-classifier"}},
                "engine": {"device": "cpu"},
                "replicas": REPLICAS,
                "networkPolicy": {"enabled": True},
                "monitoring": {"networkPolicyFrom": []},  # or each service would have a warning
            },
        }

    def start(self, plane: ControlPlane, identity: str, port: int) -> Start:
        """A process with the default settings."""
        token = plane.service_account_token("qwen-system", "qwen-operator")
        settings = {
            "SERVER_IMAGE_CPU": "server:cpu",
            "SERVER_IMAGE_CUDA": "server:cuda",
            "NAMESPACE": "qwen-system",
            "POD_NAME": identity,
            "LEASE_NAME": LEASE,
            "METRICS_PORT": str(port),
        }
        environment = {f"QWEN_OPERATOR_{name}": value for name, value in settings.items()}
        return Start(
            [sys.executable, "-m", "qwen_operator"],
            {
                **os.environ,
                **environment,
                "PYTHONPATH": str(SOURCE),
                "KUBECONFIG": str(plane.write_kubeconfig(identity, token)),
            },
        )


class Theirs:
    """The operator of vllm-project/production-stack, with all rights and its own defaults."""

    name = "production-stack"
    user = "system:serviceaccount:peer:operator"
    definition = "vllmruntimes.production-stack.vllm.ai"
    objects = _path("/apis/production-stack.vllm.ai/v1alpha1", "vllmruntimes")
    children: Sequence[str] = (_path("/api/v1", "services"), _path("/apis/apps/v1", "deployments"))
    min_ready_seconds = 0.0

    def __init__(self, built: Built) -> None:
        self._built = built

    def install(self, plane: ControlPlane) -> None:
        """Installs its definitions, a ServiceAccount and the RuntimeClass that its pods ask for."""
        plane.kubectl("apply", "--server-side", "-f", str(self._built.definitions))
        binding = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "peer"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "namespace": "peer", "name": "operator"}],
        }
        objects: list[Object] = [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "peer"}},
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "operator", "namespace": "peer"}},
            binding,
            {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "nvidia"}, "handler": "x"},
        ]
        plane.kubectl("apply", "-f", "-", text=yaml.safe_dump_all(objects))

    def body(self, name: str) -> Object:
        """The module's own sample without LM cache, sidecar, volume and token."""
        obj: Object = copy.deepcopy(self._built.sample)
        obj["metadata"] = {"name": name, "namespace": NAMESPACE}
        spec = obj["spec"]
        for section in ("lmCacheConfig", "storageConfig"):
            spec.pop(section, None)
        spec["model"].pop("hfTokenSecret", None)
        spec["deploymentConfig"].pop("sidecarConfig", None)
        spec["deploymentConfig"]["replicas"] = REPLICAS
        return obj

    def start(self, plane: ControlPlane, identity: str, port: int) -> Start:
        """A process without leader election, which its flags leave off by default."""
        token = plane.service_account_token("peer", "operator")
        kubeconfig: Path = plane.write_kubeconfig(identity, token)
        command = [str(self._built.program), f"--health-probe-bind-address=127.0.0.1:{port}"]
        return Start(command, {**os.environ, "KUBECONFIG": str(kubeconfig)})

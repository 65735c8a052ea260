"""Minimal objects of the Kubernetes API for the tests."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from qwen_operator.api import QwenService
from qwen_operator.api.names import child_labels
from qwen_operator.planning.builders.merge import merge
from qwen_operator.planning.plan import ClusterFacts, Plan, plan

ROOT = Path(__file__).resolve().parents[3]
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
UID = "00000000-0000-0000-0000-000000000001"
Object = dict[str, Any]


def service_object(name: str = "news", status: Object | None = None, **spec: Any) -> Object:
    """A QwenService from the API server. `spec` is merged into a built-in model on a CPU."""
    base = {"model": {"source": {"builtin": "news-classifier"}}, "engine": {"device": "cpu"}}
    return {
        "apiVersion": "qwen-vllm.io/v1alpha1",
        "kind": "QwenService",
        "metadata": {"name": name, "namespace": "default", "uid": UID, "generation": 3},
        "spec": merge(base, spec),
        "status": status or {},
    }


def service(name: str = "news", status: Object | None = None, **spec: Any) -> QwenService:
    """A parsed QwenService."""
    return QwenService.parse(service_object(name, status, **spec))


def gpu_service(**spec: Any) -> QwenService:
    """A QwenService on GPUs."""
    return service(**merge({"engine": {"device": "cuda"}}, spec))


def facts(**changes: Any) -> ClusterFacts:
    """A cluster without any optional API."""
    base: Object = {
        "operator_version": "1.0.0",
        "server_images": {"cpu": "registry/server:cpu", "cuda": "registry/server:cuda"},
        "operator_namespace": "qwen-system",
    }
    return ClusterFacts(**{**base, **changes})


def planned(subject: QwenService, **changes: Any) -> Plan:
    """The plan in a cluster with these facts, where a Job that downloads the model has ended."""
    found = plan(subject, facts(**changes))
    if found.download is None or found.download.done or "jobs" in changes:
        return found
    return plan(subject, facts(**changes, jobs=[ended(found.download.job)]))


def ended(job: Object, condition: str = "Complete", **fields: Any) -> Object:
    """A Job that has ended, as the API server returns it."""
    return {**job, "status": {"conditions": [{"type": condition, "status": "True", **fields}]}}


def child(subject: QwenService, kind: str, **changes: Any) -> Object:
    """The only child of a kind."""
    (found,) = [obj for obj in planned(subject, **changes).children if obj["kind"] == kind]
    return found


def pod_spec(subject: QwenService) -> Object:
    """The PodSpec of the service's Deployment."""
    spec: Object = child(subject, "Deployment")["spec"]["template"]["spec"]
    return spec


def container(subject: QwenService) -> Object:
    """The server's container."""
    (found,) = [item for item in pod_spec(subject)["containers"] if item["name"] == "server"]
    return dict(found)


def environment(subject: QwenService) -> Object:
    """The server's environment by name."""
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in container(subject)["env"]}


def arguments(subject: QwenService) -> dict[str, str]:
    """The server's own flags by name."""
    args = container(subject)["args"]
    own = args[: args.index("--")] if "--" in args else args
    return {flag.partition("=")[0]: flag.partition("=")[2] for flag in own}


def pod(name: str = "news-1", **status: Any) -> Object:
    """A pod with conditions (`ready`, `scheduled`, `gate`) and the status of its container."""

    conditions = []
    kinds = {
        "ready": "Ready",
        "containers": "ContainersReady",
        "scheduled": "PodScheduled",
        "gate": "qwen-vllm.io/slo-ready",
    }
    for field, kind in kinds.items():
        if field in status:
            value = status.pop(field)
            entry = value if isinstance(value, dict) else {"status": "True" if value else "False"}
            conditions.append({"type": kind, **entry})
    result: Object = {"phase": "Running", "conditions": conditions}
    if "server" in status:
        result["containerStatuses"] = [{"name": "server", "restartCount": 0, **status.pop("server")}]
    metadata = {"name": name, "uid": f"uid-{name}", "labels": child_labels("news")}
    return {"metadata": metadata, "status": {**result, **status}}


READY_POD = pod(ready=True, server={"ready": True, "started": True, "state": {"running": {}}})


def crashed(code: int, message: str = "", **terminated: Any) -> Object:
    """A container that waits for its restart after it exited with a code."""
    last = {"exitCode": code, "reason": "Error", "message": message, **terminated}
    return {
        "ready": False,
        "started": False,
        "restartCount": 2,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": last},
    }


def deployment(replicas: int = 1, **changes: Any) -> Object:
    """A Deployment in its desired state. `changes` go into its status."""
    status = {
        "observedGeneration": 1,
        "replicas": replicas,
        "updatedReplicas": replicas,
        "readyReplicas": replicas,
        "availableReplicas": replicas,
        "conditions": [{"type": "Available", "status": "True"}, {"type": "Progressing", "status": "True"}],
    }
    return {
        "metadata": {"name": "news", "generation": 1},
        "spec": {"replicas": replicas},
        "status": {**status, **changes},
    }


def live(desired: Object) -> Object:
    """An applied Deployment as the API server returns it."""
    result = copy.deepcopy(desired)
    result["metadata"]["resourceVersion"] = "7"
    result["spec"]["template"]["metadata"]["creationTimestamp"] = None
    result["spec"]["template"]["spec"]["restartPolicy"] = "Always"
    return result


def serving(desired: Object) -> Object:
    """The same with a ready pod."""

    return {**live(desired), "status": {"readyReplicas": 1}}


def load(path: str) -> Object:
    """A YAML file of the repository."""
    content: Object = yaml.load((ROOT / path).read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    return content

"""Converts objects of the API into the values of remediation. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qwen_operator.api import parse_time
from qwen_operator.api.names import CONTAINER, READINESS_GATE, RESTART_ANNOTATION, RESTART_ENGINE_ANNOTATION
from qwen_operator.api.objects import Object
from qwen_operator.remediation.values import Gate, Pod, Rollout
from qwen_operator.status.diagnosis import MAX_REASON, is_active


def pod_view(obj: Object, *, node_ready: bool = True, newest_hash: str | None = None) -> Pod:
    """A pod. Without a `newest_hash` it counts as one of the newest revision."""
    metadata, status = obj["metadata"], obj.get("status") or {}
    conditions = {item["type"]: item for item in status.get("conditions") or ()}
    gate, last = conditions.get(READINESS_GATE) or {}, last_termination(obj)
    return Pod(
        uid=metadata["uid"],
        name=metadata["name"],
        gate=gate_of(obj),
        ready=_true(conditions.get("Ready")),
        running=_true(conditions.get("ContainersReady")),
        deleting=not is_active(obj),
        node=(obj.get("spec") or {}).get("nodeName", ""),
        node_ready=node_ready,
        newest=newest_hash is None or (metadata.get("labels") or {}).get("pod-template-hash") == newest_hash,
        restarts=server_status(obj).get("restartCount", 0),
        exit_code=last.get("exitCode"),
        out_of_memory=last.get("reason") == "OOMKilled",
        restart_id=(metadata.get("annotations") or {}).get(RESTART_ANNOTATION, ""),
        engine_restart_id=(metadata.get("annotations") or {}).get(RESTART_ENGINE_ANNOTATION, ""),
        closed_for=gate.get("reason", "")[:MAX_REASON],
        closed_since=parse_time(gate.get("lastTransitionTime")),
        created=parse_time(metadata.get("creationTimestamp")),
        unschedulable=(conditions.get("PodScheduled") or {}).get("status") == "False",
    )


def gate_of(obj: Object) -> Gate:
    """The state of a pod's readiness gate."""
    gates = (obj.get("spec") or {}).get("readinessGates") or ()
    if not any(gate.get("conditionType") == READINESS_GATE for gate in gates):
        return Gate.MISSING
    for condition in (obj.get("status") or {}).get("conditions") or ():
        if condition["type"] == READINESS_GATE:
            return Gate.OPEN if condition.get("status") == "True" else Gate.CLOSED
    return Gate.UNSET


def pod_ip(obj: Object) -> str:
    """The pod's address; empty if it has none yet."""
    return str((obj.get("status") or {}).get("podIP") or "")


def server_status(obj: Object) -> Mapping[str, Any]:
    """The status of the server's container."""
    for item in (obj.get("status") or {}).get("containerStatuses") or ():
        if item["name"] == CONTAINER:
            return dict(item)
    return {}


def last_termination(obj: Object) -> Mapping[str, Any]:
    """The last termination of the server's container; empty if it never terminated."""
    return dict((server_status(obj).get("lastState") or {}).get("terminated") or {})


def termination_message(obj: Object) -> str:
    """The message of the last termination of the server's container."""
    return str(last_termination(obj).get("message") or "")


def rollout_view(deployment: Object | None) -> Rollout:
    """Whether a Deployment is replacing its pods. Scaling is not a rollout."""
    if deployment is None:
        return Rollout()
    spec, status = deployment["spec"], deployment.get("status") or {}
    reason = next((item.get("reason") for item in status.get("conditions") or () if item["type"] == "Progressing"), "")
    if reason == "ProgressDeadlineExceeded":
        return Rollout(stalled=True)
    replicas, updated = status.get("replicas", 0), status.get("updatedReplicas", 0)
    behind = status.get("observedGeneration", 0) < deployment["metadata"].get("generation", 0)
    scaling = replicas == updated and reason == "NewReplicaSetAvailable"
    return Rollout(under_way=behind or replicas > updated or (updated < spec.get("replicas", 1) and not scaling))


def newest_revision(replica_sets: Sequence[Object]) -> str | None:
    """The pod-template-hash of the newest ReplicaSet; None if there is none."""

    def revision(obj: Object) -> int:
        text = (obj["metadata"].get("annotations") or {}).get("deployment.kubernetes.io/revision", "0")
        return int(text) if text.isdigit() else 0

    newest = max(replica_sets, key=revision, default=None)
    return None if newest is None else (newest["metadata"].get("labels") or {}).get("pod-template-hash")


def _true(condition: Mapping[str, Any] | None) -> bool:
    return condition is not None and condition.get("status") == "True"

"""Finds out from a pod's status why it is not ready. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from qwen_operator.api import format_time, parse_duration, parse_time
from qwen_operator.api.names import CONTAINER, READINESS_GATE
from qwen_operator.status.exits import ENGINE_DIED, exit_reason
from qwen_operator.status.pod_events import explain
from qwen_operator.status.runs import ends_again, missed_start

EXIT_ENGINE_DIED: Final = ENGINE_DIED
GATE_PATIENCE: Final = timedelta(minutes=5)
"""A readiness gate that has not opened by then does not open by itself."""
MAX_REASON: Final = 64
"""Characters of the reason in a gate that count. Whoever may patch a pod's status writes any."""
_IMAGE_REASONS: Final = {
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
}
_CONFIG_REASONS: Final = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
_OTHERS: Final = {"init": "InitContainerFailed", "sidecar": "SidecarFailed"}
_BACK_OFF: Final = re.compile(r"back-off ([0-9a-z.]+)")
_TAIL_LINES: Final = 8
_TAIL_LENGTH: Final = 600

_VOLUME_NOT_BOUND: Final = re.compile(
    r"unbound immediate PersistentVolumeClaims|persistentvolumeclaim \"?[^ ]*\"? not found|binding volumes|"
    r"non-existent persistentvolume|available persistent volumes to bind|volume node affinity conflict",
    re.IGNORECASE,
)
_CLAIM_MISSING: Final = re.compile(
    r'resourceclaim\S* "[^"]*" (not found|is being deleted)|ResourceClaim not created yet', re.IGNORECASE
)

# All reasons with what to do, the most specific first: if pods differ, the first one is reported.
FAILURES: Final[dict[str, str]] = {
    "ImagePullError": "Check engine.image, the operator's default images and engine.imagePullSecrets.",
    "ContainerConfigError": "Check that the Secrets and ConfigMaps that the spec names exist, and their keys.",
    "VolumeNotBound": "Check that the claim exists, its storage class, and that a volume fits it.",
    "ResourceClaimMissing": "Create the ResourceClaim or ResourceClaimTemplate that gpu.resourceClaims names.",
    "VolumeNotMounted": "Check the claim, its volume and the storage driver on the node.",
    "Unschedulable": "Free or add nodes, or reduce what gpu, resources and scheduling request.",
    "PodRejected": "The node refuses the pod. Check the node, its devices and their driver.",
    "Evicted": "Kubernetes starts another pod. Check what the node ran out of.",
    "SandboxFailed": "Check the network plugin and the container runtime of the node.",
    "NodeLost": "Kubernetes replaces the pod after about 5 minutes. Check the node and its kubelet.",
    "InitContainerFailed": "The last lines of the container's log show the cause. See podTemplate.",
    "SidecarFailed": "The last lines of the container's log show the cause. See podTemplate.",
    "OutOfMemory": "Increase resources.limits.memory. On a GPU, reduce engine.gpuMemoryUtilization or "
    "engine.maxModelLen, or use more GPUs.",
    "ModelDownloadFailed": "Check model.source, its token Secret, the network and the free space of the cache.",
    "ModelTooLarge": "The message says what fits: set engine.maxModelLen or engine.tensorParallelSize, give the pod "
    "larger GPUs or more memory, or choose a smaller or a quantized model.",
    "ModelLoadFailed": "Check model.source and the settings of the engine. The last lines of the log show the cause.",
    "StartupTimeout": "Increase rollout.startupTimeout if the log shows progress. Otherwise look for a slow disk, "
    "network or download.",
    "EngineFailed": "The kubelet restarts the container with back-off. The last lines of the log show the cause.",
    "CrashLoopBackOff": "The kubelet restarts the container with back-off. The last lines of the log show the cause.",
    "SidecarNotReady": "The pod gets no requests until all its containers are ready. See the container's log.",
    "EngineUnresponsive": "The pod gets no requests until it has recovered or was restarted.",
    "OutOfRotation": "The pod gets no requests until it has recovered or was restarted.",
}
TRANSIENT: Final[dict[str, str]] = {
    "Restarting": "",
    "ModelDownloading": "No pod is started before it ends. status.download shows the progress.",
    "DownloadSuspended": "Whoever suspended the Job, such as a queue of the cluster, resumes it.",
    "EngineRestarting": "It gets requests again when the new engine is ready.",
    "ModelLoading": "No action is needed unless this takes longer than rollout.startupTimeout.",
    "ProbePending": "The kubelet probes it every few seconds.",
    "GatePending": "The operator opens its own gate after it has polled the pod once.",
    "Starting": "`kubectl describe pod` shows details.",
}
_RANK: Final = {reason: rank for rank, reason in enumerate([*FAILURES, *TRANSIENT])}


@dataclass(frozen=True)
class Problem:
    """Why a pod does not serve.

    Attributes:
        reason: from this module, or the alert that closed the gate.
        advice: what to do in this case; empty for what the reason says.
        since: when it began, if it only takes time.
        overdue: it takes so long that waiting does not help.
    """

    reason: str
    detail: str
    pod: str = ""
    advice: str = ""
    since: str = ""
    overdue: bool = False

    @property
    def is_failure(self) -> bool:
        """Whether the problem will not go away by itself."""
        return self.overdue or self.reason not in TRANSIENT

    @property
    def remedy(self) -> str:
        """What to do."""
        return self.advice or {**FAILURES, **TRANSIENT}.get(self.reason, FAILURES["OutOfRotation"])

    @property
    def rank(self) -> int:
        """The smaller, the more specific is the reason."""
        if self.overdue:
            return _RANK["OutOfRotation"]
        return _RANK.get(self.reason, _RANK["EngineUnresponsive"]) if self.is_failure else _RANK[self.reason]


@dataclass(frozen=True)
class EngineReport:
    """What a pod's metrics say about its engine.

    Attributes:
        restarting_since: since when the server says that it restarts its engine; empty if it does
            not.
        renewed: it has just done so, and the kubelet may not have probed it since.
        alert: the alert by which the engine answers no requests; empty if it may.
        kept: why the pod stays in rotation all the same; empty if it does not.
    """

    restarting_since: str = ""
    renewed: bool = False
    alert: str = ""
    kept: str = ""


def answers(pod: Mapping[str, Any], engine: EngineReport | None = None) -> bool:
    """Whether the pod gets requests and, as far as is known, answers them."""
    return is_ready(pod) and (engine is None or not engine.alert)


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether the pod gets requests."""
    return not pod["metadata"].get("deletionTimestamp") and condition_of(pod, "Ready").get("status") == "True"


def is_active(pod: Mapping[str, Any]) -> bool:
    """Whether the pod is neither finished nor being deleted."""
    finished = pod.get("status", {}).get("phase") in ("Failed", "Succeeded")
    return not finished and not pod["metadata"].get("deletionTimestamp")


def worst(problems: Iterable[Problem]) -> Problem | None:
    """The problem with the most specific reason."""
    return min(problems, key=lambda problem: problem.rank, default=None)


def diagnose(
    pod: Mapping[str, Any],
    events: Sequence[Mapping[str, Any]] = (),
    outlook: str = "",
    engine: EngineReport | None = None,
) -> Problem | None:
    """Why the pod does not serve, or None if it does.

    `events` are the pod's Events, if its containers have not been created (see `is_held_up`).
    `outlook` says what remediation does next about it, and `engine` what its metrics say.
    """
    name, engine = pod["metadata"]["name"], engine or EngineReport()
    if answers(pod, engine):
        return None
    if is_ready(pod):
        return _unanswering(engine, name, outlook)
    scheduled = condition_of(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        text = scheduled.get("message") or scheduled.get("reason", "")
        return Problem(_unschedulable(text), text, name)
    for container in _containers(pod):
        problem = _waiting(pod, container) or _terminated(pod, container)
        if problem is not None:
            return problem
    return _not_ready(pod, events, outlook, engine)


def judged(problem: Problem, now: datetime, startup: timedelta | None) -> Problem:
    """The problem as a failure, if it takes longer than it may.

    A pod may wait for its images and volumes for as long as a start may take, `startup`. Nothing
    else would end that outside of a rollout. An engine may take as long to restart. A model that
    loads for too long ends by a probe.
    """
    began = parse_time(problem.since)
    patience = {"GatePending": GATE_PATIENCE, "Starting": startup, "EngineRestarting": startup}.get(problem.reason)
    if began is None or patience is None or now - began < patience:
        return problem
    advice = f"It has been so since {problem.since}, longer than rollout.startupTimeout. {problem.remedy}"
    if problem.reason == "GatePending":
        advice = (
            f"It has been so since {problem.since}. See the log of who opens the gate (the operator opens "
            f"{READINESS_GATE}), and whether it may patch the status of pods."
        )
    return replace(problem, overdue=True, advice=advice)


def _unschedulable(text: str) -> str:
    """The reason for what the scheduler says of a pod."""
    if _VOLUME_NOT_BOUND.search(text):
        return "VolumeNotBound"
    return "ResourceClaimMissing" if _CLAIM_MISSING.search(text) else "Unschedulable"


def is_held_up(pod: Mapping[str, Any]) -> bool:
    """Whether no container has been created in a pod that has a node, or whose claims are missing.

    Only its Events can say why.
    """
    scheduled = condition_of(pod, "PodScheduled").get("status")
    # The scheduler says nothing about a pod before it has its ResourceClaims.
    unclaimed = scheduled is None and bool((pod.get("spec") or {}).get("resourceClaims"))
    begun = any({"running", "terminated"} & (item.get("state") or {}).keys() for item in _containers(pod))
    return (scheduled == "True" or unclaimed) and not begun and is_active(pod)


def _containers(pod: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    status = pod.get("status", {})
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _role(pod: Mapping[str, Any], container: Mapping[str, Any]) -> str:
    """`server`, `init` or `sidecar`. An init container that restarts always is a sidecar."""
    if container["name"] == CONTAINER:
        return CONTAINER
    inits = (pod.get("spec") or {}).get("initContainers") or ()
    for init in inits:
        if init["name"] == container["name"]:
            return "sidecar" if init.get("restartPolicy") == "Always" else "init"
    return "sidecar"


def _waiting(pod: Mapping[str, Any], container: Mapping[str, Any]) -> Problem | None:
    name, place = pod["metadata"]["name"], f"container {container['name']}"
    added = _role(pod, container) != CONTAINER
    waiting = (container.get("state") or {}).get("waiting") or {}
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if reason in _IMAGE_REASONS:
        advice = "Check the image of this container in podTemplate, and engine.imagePullSecrets."
        return Problem("ImagePullError", f"{place}: {reason}: {message}", name, advice if added else "")
    if reason in _CONFIG_REASONS:
        return Problem("ContainerConfigError", f"{place}: {message or reason}", name)
    return None


def _terminated(pod: Mapping[str, Any], container: Mapping[str, Any]) -> Problem | None:
    """Why the container last terminated, until it is up again."""
    state = container.get("state") or {}
    if container.get("ready") or ("running" in state and container.get("started")):
        return None
    last = state.get("terminated") or (container.get("lastState") or {}).get("terminated")
    if last is None:
        return None
    name, role, code = pod["metadata"]["name"], _role(pod, container), last.get("exitCode", 0)
    since = condition_of(pod, "ContainersReady").get("lastTransitionTime", "")
    limit = missed_start(pod, container["name"], last, since)
    if code == 0 and limit is None:
        if role == "init":
            return None
        if not ends_again(container, last):
            return Problem("Restarting", "the container exited with code 0 and is restarted", name)
    how = f"exited with code {code} ({last.get('reason', 'Error')})"
    if limit is not None:
        how = f"was ended by the kubelet because it had not started within {limit} s"
    waiting, text = state.get("waiting") or {}, tail(last.get("message") or "")
    back_off = _back_off(waiting.get("message") or "", last.get("finishedAt"))
    detail = f"container {container['name']} {how}, restarts: {container.get('restartCount', 0)}{back_off}"
    reason, advice = _OTHERS.get(role, ""), ""
    if role == CONTAINER:
        looping = waiting.get("reason") == "CrashLoopBackOff"
        reason, advice = exit_reason(last, code, text, looping=looping, late=limit is not None)
    return Problem(reason, f"{detail}\n{text}" if text else detail, name, advice)


def _back_off(message: str, finished: str | None) -> str:
    """How long the kubelet waits before it starts a container again, and until when."""
    found, ended = _BACK_OFF.search(message), parse_time(finished)
    if found is None:
        return ""
    try:
        until = "" if ended is None else f" until {format_time(ended + parse_duration(found[1]))}"
    except ValueError:
        until = ""
    return f", {found[0]}{until}"


def _not_ready(
    pod: Mapping[str, Any], events: Sequence[Mapping[str, Any]], outlook: str, engine: EngineReport
) -> Problem:
    """A pod that is not ready although no container has failed."""
    name = pod["metadata"]["name"]
    server = next((item for item in _containers(pod) if item["name"] == CONTAINER), {})
    running = (server.get("state") or {}).get("running")
    if running is None:
        return _starting(pod, name, events)
    if not server.get("started"):
        since = running.get("startedAt", "")
        return Problem("ModelLoading", f"the model has been loading since {since}", name, since=since)
    if engine.restarting_since or engine.renewed:
        return _restarting(name, engine.restarting_since, outlook)
    gate = condition_of(pod, READINESS_GATE)
    if gate.get("status") == "False":
        reason, detail = gate.get("reason") or "OutOfRotation", gate.get("message") or "taken out of rotation"
        return Problem(reason[:MAX_REASON], detail, name, outlook)
    if not server.get("ready"):
        return _unprobed(pod, name, running.get("startedAt", ""))
    return _gated(pod, name)


def _unanswering(engine: EngineReport, name: str, outlook: str) -> Problem:
    """A pod that is ready, although an alert says that it answers no requests."""
    detail, advice = f"{engine.alert} is active, so it answers no requests", outlook
    if engine.kept:
        detail = f"{detail}; it stays in rotation, because {engine.kept}"
    return Problem(engine.alert, detail, name, advice or "What follows depends on remediation.mode and its rules.")


def _restarting(name: str, since: str, outlook: str) -> Problem:
    """A pod whose server restarts its engine, or has just done so. It is not sick."""
    detail = f"the server restarts its engine since {since}" if since else "the server has just restarted its engine"
    return Problem("EngineRestarting", detail, name, outlook, since)


def _unprobed(pod: Mapping[str, Any], name: str, started: str) -> Problem:
    """A pod whose server has started, but whose readiness probe does not succeed."""
    since = condition_of(pod, "ContainersReady").get("lastTransitionTime", "")
    if since and since <= started:  # it has not been ready since it started
        return Problem("ProbePending", "the server has started and waits for its first readiness probe", name)
    return Problem("EngineUnresponsive", "the readiness probe of the server fails", name)


def _starting(pod: Mapping[str, Any], name: str, events: Sequence[Mapping[str, Any]]) -> Problem:
    placed = condition_of(pod, "PodScheduled")
    since = placed.get("lastTransitionTime", "")
    for item in pod.get("status", {}).get("initContainerStatuses") or ():
        if "running" in (item.get("state") or {}) and _role(pod, item) == "init":
            return Problem("Starting", f"init container {item['name']} is running", name, since=since)
    scheduled = placed.get("status") == "True"
    reason, detail = explain(events, scheduled=scheduled) or ("Starting", "waiting for images and volumes")
    return Problem(reason, detail, name, since=since)


def _gated(pod: Mapping[str, Any], name: str) -> Problem:
    """A pod whose server is ready."""
    waiting = [item["name"] for item in _containers(pod) if not item.get("ready") and _role(pod, item) == "sidecar"]
    if waiting:
        return Problem("SidecarNotReady", f"the server is ready, container {waiting[0]} is not", name)
    gates = [gate["conditionType"] for gate in (pod.get("spec") or {}).get("readinessGates") or ()]
    others = [gate for gate in gates if gate != READINESS_GATE and condition_of(pod, gate).get("status") != "True"]
    own, containers = condition_of(pod, READINESS_GATE), condition_of(pod, "ContainersReady")
    if READINESS_GATE in gates and own.get("status") != "True":
        return _pending("the server is ready; its readiness gate is not open yet", name, own, containers)
    if others:
        detail = f"the server is ready; the readiness gate {others[0]} is not open"
        return _pending(detail, name, condition_of(pod, others[0]), containers)
    ready = condition_of(pod, "Ready")
    opened = max(item.get("lastTransitionTime", "") for item in (own, containers))
    withdrawn = not ready.get("reason") and ready.get("lastTransitionTime", "") > opened
    if containers.get("status") == "True" and withdrawn:
        # The kubelet gives a reason. Where it is gone, the node controller takes Ready without one.
        node = (pod.get("spec") or {}).get("nodeName", "")
        return Problem("NodeLost", f"its node {node} no longer reports to the control plane", name)
    return _pending("all its containers are ready; the kubelet has not counted it yet", name, own, containers)


def _pending(detail: str, name: str, *conditions: Mapping[str, Any]) -> Problem:
    """A pod that waits for a gate since the last of these conditions has changed."""
    since = max(condition.get("lastTransitionTime", "") for condition in conditions)
    return Problem("GatePending", detail, name, since=since)


def tail(text: str) -> str:
    """The last lines of a termination message, short enough for a condition."""
    lines = [line.rstrip() for line in text.strip().splitlines() if line.strip()]
    return "\n".join(lines[-_TAIL_LINES:])[-_TAIL_LENGTH:]


def condition_of(pod: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """A condition of a pod; empty if it is not set."""
    conditions = pod.get("status", {}).get("conditions") or ()
    return next((condition for condition in conditions if condition["type"] == kind), {})

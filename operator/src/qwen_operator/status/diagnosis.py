"""Finds out from a pod's status why it is not ready. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from qwen_operator.api.names import CONTAINER, READINESS_GATE

# The server's exit codes.
EXIT_ENGINE_DIED: Final = 70
EXIT_CONFIGURATION: Final = 78

_IMAGE_REASONS: Final = {
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
}
_CONFIG_REASONS: Final = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
_DOWNLOAD_FAILED: Final = re.compile(
    r"repository not found|gatedrepo|gated repo|RepositoryNotFound|LocalEntryNotFound|RevisionNotFound|"
    r"couldn't connect to|could not connect to|Max retries exceeded|Failed to resolve|"
    r"401 Client Error|403 Client Error|404 Client Error|429 Client Error|No space left on device",
    re.IGNORECASE,
)
_OUT_OF_MEMORY: Final = re.compile(r"out of memory|OutOfMemoryError|cannot allocate memory", re.IGNORECASE)
_TAIL_LINES: Final = 8
_TAIL_LENGTH: Final = 600

# All reasons with what to do, the most specific first: if pods differ, the first one is reported.
FAILURES: Final[dict[str, str]] = {
    "ImagePullError": "Check engine.image, the operator's default images and engine.imagePullSecrets.",
    "ContainerConfigError": "Check that the Secrets and ConfigMaps that the spec names exist.",
    "Unschedulable": "Free or add nodes, or reduce what gpu, resources and scheduling request.",
    "OutOfMemory": "Increase resources.limits.memory. On a GPU, reduce engine.gpuMemoryUtilization or "
    "engine.maxModelLen, or use more GPUs.",
    "ModelDownloadFailed": "Check model.source, its token Secret, the network and the free space of the cache.",
    "ModelLoadFailed": "Check model.source and the settings of the engine. The last lines of the log show the cause.",
    "EngineFailed": "The kubelet restarts the container with back-off. The last lines of the log show the cause.",
    "CrashLoopBackOff": "The kubelet restarts the container with back-off. The last lines of the log show the cause.",
    "EngineUnresponsive": "The pod gets no requests until it has recovered or was restarted.",
    "OutOfRotation": "The pod gets no requests until it has recovered or was restarted.",
}
TRANSIENT: Final[dict[str, str]] = {
    "Restarting": "",
    "ModelLoading": "No action is needed unless this takes longer than rollout.startupTimeout.",
    "GatePending": "The operator opens the readiness gate after it has polled the pod once.",
    "Starting": "Images are pulled and volumes are mounted. `kubectl describe pod` shows details.",
}
_RANK: Final = {reason: rank for rank, reason in enumerate([*FAILURES, *TRANSIENT])}


@dataclass(frozen=True)
class Problem:
    """Why a pod is not ready. `reason` is from this module, or the alert that closed the gate."""

    reason: str
    detail: str
    pod: str = ""

    @property
    def is_failure(self) -> bool:
        """Whether the problem will not go away by itself."""
        return self.reason not in TRANSIENT

    @property
    def remedy(self) -> str:
        """What to do."""
        return {**FAILURES, **TRANSIENT}.get(self.reason, FAILURES["OutOfRotation"])

    @property
    def rank(self) -> int:
        """The smaller, the more specific is the reason."""
        return _RANK.get(self.reason, _RANK["EngineUnresponsive"]) if self.is_failure else _RANK[self.reason]


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether the pod gets requests."""
    return not pod["metadata"].get("deletionTimestamp") and _condition(pod, "Ready").get("status") == "True"


def is_active(pod: Mapping[str, Any]) -> bool:
    """Whether the pod is neither finished nor being deleted."""
    finished = pod.get("status", {}).get("phase") in ("Failed", "Succeeded")
    return not finished and not pod["metadata"].get("deletionTimestamp")


def worst(problems: Iterable[Problem]) -> Problem | None:
    """The problem with the most specific reason."""
    return min(problems, key=lambda problem: problem.rank, default=None)


def diagnose(pod: Mapping[str, Any]) -> Problem | None:
    """Why the pod is not ready, or None if it is."""
    if is_ready(pod):
        return None
    name = pod["metadata"]["name"]
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return Problem("Unschedulable", scheduled.get("message") or scheduled.get("reason", ""), name)
    status = pod.get("status", {})
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        problem = _waiting(container, name) or _terminated(container, name)
        if problem is not None:
            return problem
    return _not_ready(pod, name)


def _waiting(container: Mapping[str, Any], pod: str) -> Problem | None:
    waiting = (container.get("state") or {}).get("waiting") or {}
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if reason in _IMAGE_REASONS:
        return Problem("ImagePullError", f"{reason}: {message}", pod)
    if reason in _CONFIG_REASONS:
        return Problem("ContainerConfigError", message or reason, pod)
    return None


def _terminated(container: Mapping[str, Any], pod: str) -> Problem | None:
    """Why the container last terminated, until it is up again."""
    state = container.get("state") or {}
    if container.get("ready") or ("running" in state and container.get("started")):
        return None
    last = state.get("terminated") or (container.get("lastState") or {}).get("terminated")
    if last is None:
        return None
    code = last.get("exitCode", 0)
    if code == 0:
        return Problem("Restarting", "the container exited with code 0 and is restarted", pod)
    text = tail(last.get("message") or "")
    looping = (state.get("waiting") or {}).get("reason") == "CrashLoopBackOff"
    restarts = container.get("restartCount", 0)
    detail = (
        f"container {container['name']} exited with code {code} ({last.get('reason', 'Error')}), restarts: {restarts}"
    )
    return Problem(_exit_reason(last, code, text, looping), f"{detail}\n{text}" if text else detail, pod)


def _exit_reason(last: Mapping[str, Any], code: int, text: str, looping: bool) -> str:
    if last.get("reason") == "OOMKilled" or _OUT_OF_MEMORY.search(text):
        return "OutOfMemory"
    if code == EXIT_CONFIGURATION:
        return "ModelDownloadFailed" if _DOWNLOAD_FAILED.search(text) else "ModelLoadFailed"
    if code == EXIT_ENGINE_DIED:
        return "EngineFailed"
    return "CrashLoopBackOff" if looping else "EngineFailed"


def _not_ready(pod: Mapping[str, Any], name: str) -> Problem:
    """A pod that is not ready although nothing has failed."""
    statuses = pod.get("status", {}).get("containerStatuses") or ()
    server = next((status for status in statuses if status["name"] == CONTAINER), None)
    running = ((server or {}).get("state") or {}).get("running")
    if server is None or running is None:
        return Problem("Starting", "waiting for images and volumes", name)
    if not server.get("started"):
        return Problem("ModelLoading", f"the model has been loading since {running.get('startedAt')}", name)
    gate = _condition(pod, READINESS_GATE)
    if gate.get("status") == "False":
        return Problem(gate.get("reason") or "OutOfRotation", gate.get("message") or "taken out of rotation", name)
    if not server.get("ready"):
        return Problem("EngineUnresponsive", "the readiness probe of the server fails", name)
    return Problem("GatePending", "the server is ready; its readiness gate is not open yet", name)


def tail(text: str) -> str:
    """The last lines of a termination message, short enough for a condition."""
    lines = [line.rstrip() for line in text.strip().splitlines() if line.strip()]
    return "\n".join(lines[-_TAIL_LINES:])[-_TAIL_LENGTH:]


def _condition(pod: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    conditions = pod.get("status", {}).get("conditions") or ()
    return next((condition for condition in conditions if condition["type"] == kind), {})

"""What is wrong with a pod, told from its status alone. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from qwen_operator.api.names import CONTAINER, READINESS_GATE

# The server's exit codes
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

# Every reason, the most telling first: when pods differ, the first one is reported. The text is the remedy.
FAILURES: Final[dict[str, str]] = {
    "ImagePullError": "Check engine.image, the operator's default images and engine.imagePullSecrets.",
    "ContainerConfigError": "Check that the Secrets and ConfigMaps that the spec names exist.",
    "Unschedulable": "Free or add nodes, or ask for less in gpu, resources or scheduling.",
    "OutOfMemory": "Raise resources.limits.memory or, on a GPU, lower engine.gpuMemoryUtilization, engine.maxModelLen "
    "or use more GPUs.",
    "ModelDownloadFailed": "Check model.source, its token Secret, the network and the space of the cache.",
    "ModelLoadFailed": "Check model.source and the engine's settings against the last lines of the log.",
    "EngineFailed": "The container is restarted with growing pauses; the last lines of the log tell the cause.",
    "CrashLoopBackOff": "The container is restarted with growing pauses; the last lines of the log tell the cause.",
    "EngineUnresponsive": "The pod gets no requests until it has proved its health or was restarted.",
    "OutOfRotation": "The pod gets no requests until it has proved its health or was restarted.",
}
TRANSIENT: Final[dict[str, str]] = {
    "Restarting": "",
    "ModelLoading": "Nothing to do unless it exceeds rollout.startupTimeout.",
    "GatePending": "The operator opens the readiness gate once it has looked at the pod.",
    "Starting": "Images are pulled and volumes are mounted; `kubectl describe pod` tells more.",
}
_RANK: Final = {reason: rank for rank, reason in enumerate([*FAILURES, *TRANSIENT])}


@dataclass(frozen=True)
class Problem:
    """Why a pod is not ready: a reason of this module (or the alert that closed its gate) and what was seen."""

    reason: str
    detail: str
    pod: str = ""

    @property
    def is_failure(self) -> bool:
        """Whether waiting alone will not help."""
        return self.reason not in TRANSIENT

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return FAILURES.get(self.reason) or TRANSIENT.get(self.reason) or FAILURES["OutOfRotation"]

    @property
    def rank(self) -> int:
        """The smaller, the more it says about the cause."""
        return _RANK.get(self.reason, _RANK["EngineUnresponsive"]) if self.is_failure else _RANK[self.reason]


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether the pod gets requests."""
    return not pod["metadata"].get("deletionTimestamp") and _condition(pod, "Ready").get("status") == "True"


def is_active(pod: Mapping[str, Any]) -> bool:
    """Whether the pod counts: neither finished nor on its way out."""
    finished = pod.get("status", {}).get("phase") in ("Failed", "Succeeded")
    return not finished and not pod["metadata"].get("deletionTimestamp")


def worst(problems: Iterable[Problem]) -> Problem | None:
    """The problem that says most about the cause."""
    return min(problems, key=lambda problem: problem.rank, default=None)


def diagnose(pod: Mapping[str, Any]) -> Problem | None:
    """Why the pod is not ready, or None when it is."""
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
    """What ended the container last, as long as it has not come up again."""
    state = container.get("state") or {}
    if container.get("ready") or ("running" in state and container.get("started")):
        return None
    last = state.get("terminated") or (container.get("lastState") or {}).get("terminated")
    if last is None:
        return None
    code = last.get("exitCode", 0)
    if code == 0:
        return Problem("Restarting", "the container ended as asked and starts again", pod)
    text = tail(last.get("message") or "")
    looping = (state.get("waiting") or {}).get("reason") == "CrashLoopBackOff"
    restarts = container.get("restartCount", 0)
    detail = (
        f"container {container['name']} ended with code {code} ({last.get('reason', 'Error')}), restarts: {restarts}"
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
    """A pod in which nothing has failed."""
    statuses = pod.get("status", {}).get("containerStatuses") or ()
    server = next((status for status in statuses if status["name"] == CONTAINER), None)
    running = ((server or {}).get("state") or {}).get("running")
    if server is None or running is None:
        return Problem("Starting", "waiting for images and volumes", name)
    if not server.get("started"):
        return Problem("ModelLoading", f"the model is being loaded since {running.get('startedAt')}", name)
    gate = _condition(pod, READINESS_GATE)
    if gate.get("status") == "False":
        return Problem(gate.get("reason") or "OutOfRotation", gate.get("message") or "taken out of rotation", name)
    if not server.get("ready"):
        return Problem("EngineUnresponsive", "the server answers its readiness probe with a failure", name)
    return Problem("GatePending", "the server is ready; its readiness gate is not open yet", name)


def tail(text: str) -> str:
    """The last lines of a termination message, short enough for a condition."""
    lines = [line.rstrip() for line in text.strip().splitlines() if line.strip()]
    return "\n".join(lines[-_TAIL_LINES:])[-_TAIL_LENGTH:]


def _condition(pod: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    conditions = pod.get("status", {}).get("conditions") or ()
    return next((condition for condition in conditions if condition["type"] == kind), {})

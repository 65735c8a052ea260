"""The name of the model that a service answers to. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qwen_operator.api.names import CONTAINER, SERVED_NAME_FLAG
from qwen_operator.status.diagnosis import is_active, is_ready


def model_in_pods(wanted: str, pods: Sequence[Mapping[str, Any]]) -> str:
    """The name in the API. Until an update has replaced all pods that serve, it is the old one.

    Without a pod that is ready, those that are not count.
    """
    active = [pod for pod in pods if is_active(pod)]
    serving = [pod for pod in active if is_ready(pod)] or active
    oldest = sorted(serving, key=lambda pod: pod["metadata"].get("creationTimestamp") or "")
    return next((name for pod in oldest if (name := _named(pod)) not in ("", wanted)), wanted)


def _named(pod: Mapping[str, Any]) -> str:
    """The name with which a pod was started; empty if it is not known."""
    for container in (pod.get("spec") or {}).get("containers") or ():
        if container["name"] == CONTAINER:
            flags = (text for text in container.get("args") or () if text.startswith(SERVED_NAME_FLAG))
            return next((flag.removeprefix(SERVED_NAME_FLAG) for flag in flags), "")
    return ""

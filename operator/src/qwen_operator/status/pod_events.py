"""What the Events of a pod say about its start. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from qwen_operator.api.names import CLAIM_NOT_FOUND

# What the kubelet or a controller could not do, and the reason in our status.
_TROUBLE: Final = {
    "FailedMount": "VolumeNotMounted",
    "FailedAttachVolume": "VolumeNotMounted",
    "FailedMapVolume": "VolumeNotMounted",
    "FailedCreatePodSandBox": "SandboxFailed",
    "NetworkNotReady": "SandboxFailed",
    "FailedResourceClaimCreation": "ResourceClaimMissing",
    CLAIM_NOT_FOUND: "ResourceClaimMissing",
}
_UNSCHEDULED: Final = frozenset({"FailedResourceClaimCreation", CLAIM_NOT_FOUND})
"""What is over when a pod has a node, whatever an old Event says."""

_MISSING: Final = re.compile(
    r"(secret|configmap) \"[^\"]*\" not found|references? non-existent (secret|config)", re.IGNORECASE
)
_PULLING: Final = "Pulling"
_LATER: Final = {_PULLING, "Pulled", "Created", "Started"}
"""Volumes are mounted and the sandbox exists before the kubelet pulls an image."""


def explain(events: Sequence[Mapping[str, Any]], *, scheduled: bool) -> tuple[str, str] | None:
    """Reason and detail of a pod that has not started; None if its Events say nothing."""
    known = _LATER | (_TROUBLE.keys() - _UNSCHEDULED if scheduled else _TROUBLE.keys())
    last = last_of(events, known)
    if last is None:
        return None
    reason, message = last["reason"], last.get("message", "")
    if reason == _PULLING:
        return "Starting", f"an image is being pulled since {_time(last)}: {message}"
    if reason not in _TROUBLE:
        return None
    missing = reason == "FailedMount" and _MISSING.search(message)
    return "ContainerConfigError" if missing else _TROUBLE[reason], message or reason


def last_of(events: Sequence[Mapping[str, Any]], reasons: Collection[str]) -> Mapping[str, Any] | None:
    """The last of the Events with one of these reasons; None if there is none."""
    found = sorted((event for event in events if event.get("reason") in reasons), key=_time)
    return found[-1] if found else None


def _time(event: Mapping[str, Any]) -> str:
    """When it happened last, with whole seconds."""
    series = event.get("series") or {}
    times = (event.get("lastTimestamp"), series.get("lastObservedTime"), event.get("eventTime"))
    return max((str(time)[:19] + "Z" for time in times if time), default=str(event.get("firstTimestamp") or ""))

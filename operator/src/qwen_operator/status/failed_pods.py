"""Pods that ended before or instead of serving: rejected by their node, or evicted. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from qwen_operator.api import format_time
from qwen_operator.status.diagnosis import Problem

RECENT: Final = timedelta(minutes=10)
_EVICTED: Final = {"Evicted", "Terminated", "NodeShutdown", "Preempting", "NodeLost"}


def last_failed(pods: Iterable[Mapping[str, Any]], now: datetime) -> Problem | None:
    """Why the last pod failed, if that was within the last 10 minutes.

    Failed pods are kept for a long time. An older one says nothing about the present.
    """
    failed = [pod for pod in pods if pod.get("status", {}).get("phase") == "Failed" and pod["status"].get("reason")]
    last = max(failed, key=_end, default=None)
    if last is None or _end(last) < format_time(now.astimezone(UTC) - RECENT):
        return None
    status, name = last["status"], last["metadata"]["name"]
    reason = "Evicted" if status["reason"] in _EVICTED else "PodRejected"
    return Problem(reason, f"{status['reason']}: {status.get('message', '')}".rstrip(": "), name)


def _end(pod: Mapping[str, Any]) -> str:
    """The last time that is known of a pod. Times of the API can be compared as texts."""
    status, metadata = pod["status"], pod["metadata"]
    times = [metadata.get("creationTimestamp"), status.get("startTime")]
    times += [item.get("lastTransitionTime") for item in status.get("conditions") or ()]
    for item in status.get("containerStatuses") or ():
        times.append(((item.get("state") or {}).get("terminated") or {}).get("finishedAt"))
    return max((str(time) for time in times if time), default="")

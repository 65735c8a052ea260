"""How far the download of the model is, and why it fails. Pure; the clock is passed in."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal, get_args

from qwen_operator.api import format_time, parse_time
from qwen_operator.api.names import CONTAINER
from qwen_operator.api.objects import Object
from qwen_operator.api.status import DownloadPhase, DownloadStatus
from qwen_operator.planning.builders.download import RETRY_SECONDS
from qwen_operator.planning.download import Download, has_condition, is_over
from qwen_operator.status.diagnosis import Problem, diagnose, is_active, is_held_up
from qwen_operator.status.failed_pods import last_failed
from qwen_operator.status.pod_events import last_of

_Phase = Literal["Starting", "Downloading", "Verifying", "Complete", "Failed"]
# What the status says of a pod that says this, if it is not `Downloading`. The Job ends after it.
_SHOWN: Final[Mapping[str, DownloadPhase]] = {
    "Starting": "Pending",
    "Verifying": "Verifying",
    "Complete": "Verifying",
}
# Reasons that exits of the server have. In a Job, the model is not loaded.
_OF_THE_SERVER: Final = {"ModelLoadFailed", "EngineFailed", "CrashLoopBackOff"}
_REFUSED: Final = "FailedCreate"
_CREATED: Final = "SuccessfulCreate"
_MAX_BYTES: Final = 1 << 53
_MAX_MESSAGE: Final = 1024


@dataclass(frozen=True)
class Figures:
    """What the pod of a Job says about its download. Unknown figures are None."""

    phase: _Phase
    downloaded: int
    total: int | None = None
    rate: int | None = None
    seconds: int | None = None
    message: str = ""


def read_figures(text: str | bytes | None) -> Figures | None:
    """The figures in a response or a termination message; None if they are not valid."""
    try:
        given = json.loads(text or "")
        phase = given["phase"]
        if phase not in get_args(_Phase):
            return None
        downloaded = _count(given["downloadedBytes"])
        total, rate = _count(given.get("totalBytes")), _count(given.get("bytesPerSecond"))
        seconds, message = _count(given.get("secondsRemaining")), given.get("message")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    # JSON may hold what is no text.
    words = message.encode(errors="replace").decode() if isinstance(message, str) else ""
    return Figures(phase, downloaded or 0, total, rate, seconds, words)


def _count(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is not a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("the number is not finite")
    return min(_MAX_BYTES, max(0, round(value)))


@dataclass(frozen=True)
class Seen:
    """What is seen of a download.

    Attributes:
        job: the Job, None if there is none.
        pods: its pods.
        events: the Events of what is held up, by UID.
        figures: what the pod that runs has said last.
    """

    job: Object | None = None
    pods: Sequence[Object] = ()
    events: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    figures: Figures | None = None

    @property
    def held_up(self) -> Sequence[Object]:
        """The Job or its pods, if only their Events can say why nothing is downloaded."""
        if self.job is None or is_over(self.job) or has_condition(self.job, "Suspended"):
            return ()
        active = [pod for pod in self.pods if is_active(pod)]
        return [pod for pod in active if is_held_up(pod)] if active else [self.job]

    @property
    def last(self) -> Object | None:
        """The pod that was made last."""
        return max(self.pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")), default=None)


@dataclass(frozen=True)
class DownloadView:
    """What is known of a download.

    Attributes:
        status: what the status of the service says about it; None if no Job downloads.
        problem: why pods do not start because of it; None if they may.
    """

    status: DownloadStatus | None = None
    problem: Problem | None = None


def view_download(
    download: Download | None, seen: Seen, *, before: DownloadStatus | None, now: datetime
) -> DownloadView:
    """The view. `before` is what the status says now."""
    if download is None:
        return DownloadView()
    known = before if before is not None and before.id == download.id else None
    if download.done or _outlived(seen.last).get("exitCode") == 0:
        return DownloadView(_complete(download, seen, known))
    if download.failed and seen.job is not None:
        problem = _failure(seen.job, seen.last, now)
        return DownloadView(_status(download, "Failed", _last(known), problem.detail), problem)
    return _under_way(download, seen, known, now)


def _complete(download: Download, seen: Seen, known: DownloadStatus | None) -> DownloadStatus | None:
    """None if the pods have downloaded the model themselves."""
    if known is not None and known.phase == "Complete":
        return known
    if seen.job is None and known is None:
        return None
    return _status(download, "Complete", _final(seen.last) or _last(known), "")


def _failure(job: Mapping[str, Any], last: Mapping[str, Any] | None, now: datetime) -> Problem:
    """Why a Job has failed, and when the next one begins."""
    ended = next(item for item in job["status"]["conditions"] if item["type"] == "Failed")
    problem = None if last is None else _of_pod(last, (), now)
    if problem is None or not problem.is_failure:
        text = ended.get("message") or ended.get("reason") or "no cause is known"
        problem = Problem("ModelDownloadFailed", f"The Job {job['metadata']['name']} failed: {text}")
    began = parse_time(ended.get("lastTransitionTime"))
    if began is None:
        return problem
    again = format_time(began + timedelta(seconds=RETRY_SECONDS))
    advice = f"{problem.remedy} The next try begins at {again}, or when the spec changes."
    return Problem(problem.reason, problem.detail, problem.pod, advice)


def _under_way(download: Download, seen: Seen, known: DownloadStatus | None, now: datetime) -> DownloadView:
    """A download whose Job has not ended."""
    last, figures, said = seen.last, _last(known), seen.figures
    if final := _final(last):
        name = "" if last is None else last["metadata"]["name"]
        problem = Problem("ModelDownloading", f"the model {download.model} is there, and the Job is about to end", name)
        return DownloadView(_status(download, "Verifying", final, ""), problem)
    if not _is_running(last):
        problem = _held(download, seen, last, now)
        message = "" if problem.reason == "ModelDownloading" else problem.detail
        return DownloadView(_status(download, "Failed" if _outlived(last) else "Pending", figures, message), problem)
    if said is not None and said.phase != "Starting":
        figures = said
    phase: DownloadPhase = "Downloading" if said is None else _SHOWN.get(said.phase, "Downloading")
    message = "" if said is None else said.message
    return DownloadView(_status(download, phase, figures, message), _running(download, last, message))


def _running(download: Download, pod: Mapping[str, Any] | None, trouble: str) -> Problem:
    name, since = (pod or {}).get("metadata", {}).get("name", ""), (pod or {}).get("status", {}).get("startTime")
    detail = f"the model {download.model} has been downloading since {since or 'a moment ago'}"
    return Problem("ModelDownloading", f"{detail}; {trouble}" if trouble else detail, name)


def _held(download: Download, seen: Seen, last: Mapping[str, Any] | None, now: datetime) -> Problem:
    """Why the Job downloads nothing at the moment."""
    job = seen.job
    if job is not None and has_condition(job, "Suspended"):
        return Problem("DownloadSuspended", f"The Job {download.name}, which downloads {download.model}, is suspended")
    if job is not None and (last is None or not is_active(last)):
        refusal = last_of(seen.events.get(job["metadata"]["uid"], ()), (_REFUSED, _CREATED))
        if refusal is not None and refusal["reason"] == _REFUSED:
            return _refused(download, str(refusal.get("message", "")))
    if last is not None:
        problem = _of_pod(last, seen.events.get(last["metadata"]["uid"], ()), now)
        if problem is not None and problem.is_failure:
            return problem
    return Problem("ModelDownloading", f"The Job {download.name} is about to download {download.model}")


def _refused(download: Download, message: str) -> Problem:
    text = message.removeprefix("Error creating: ")
    advice = "Check quotas, limits and policies of the namespace, or set cache.download to Pods."
    return Problem("PodsRefused", f"Pods of the Job {download.name} cannot be created: {text}", advice=advice)


def _of_pod(pod: Mapping[str, Any], events: Sequence[Mapping[str, Any]], now: datetime) -> Problem | None:
    problem = last_failed([pod], now) or diagnose(pod, events)
    if problem is not None and problem.reason in _OF_THE_SERVER:
        return Problem("ModelDownloadFailed", problem.detail, problem.pod, problem.advice)
    return problem


def _state(pod: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The state of the container that downloads."""
    found: Mapping[str, Any] = {}
    for item in (pod or {}).get("status", {}).get("containerStatuses") or ():
        if item["name"] == CONTAINER:
            found = item.get("state") or {}
    return found


def _is_running(pod: Mapping[str, Any] | None) -> bool:
    return "running" in _state(pod)


def _outlived(pod: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """How the download has ended in a pod that goes on; empty if there is no such pod.

    The sidecar of a mesh, for instance, keeps the Job from ending.
    """
    others = len(((pod or {}).get("spec") or {}).get("containers") or ()) > 1
    goes_on = (pod or {}).get("status", {}).get("phase") == "Running"
    ended: Mapping[str, Any] = _state(pod).get("terminated") or {}
    return ended if others and goes_on else {}


def _final(pod: Mapping[str, Any] | None) -> Figures | None:
    """The figures of a pod that has downloaded everything."""
    ended = _state(pod).get("terminated") or {}
    return read_figures(ended.get("message")) if ended.get("exitCode") == 0 else None


def _last(known: DownloadStatus | None) -> Figures | None:
    """The bytes that are known to be there. Rates do not outlive their pod."""
    return None if known is None else Figures("Downloading", known.downloaded_bytes, known.total_bytes)


def _status(download: Download, phase: DownloadPhase, figures: Figures | None, message: str) -> DownloadStatus:
    found = figures or Figures("Downloading", 0)
    there, total = found.downloaded, found.total
    moving = phase == "Downloading"
    return DownloadStatus(
        id=download.id,
        model=download.model,
        phase=phase,
        progress="100%" if phase == "Complete" else f"{min(100, 100 * there // total)}%" if total else "",
        downloaded_bytes=there,
        total_bytes=total,
        bytes_per_second=found.rate if moving else None,
        seconds_remaining=found.seconds if moving else None,
        message=message[:_MAX_MESSAGE],
    )

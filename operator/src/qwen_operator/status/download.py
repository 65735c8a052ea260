"""How far the download of the model is, and why it fails. Pure; the clock is passed in."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, get_args

from qwen_operator.api import format_time, parse_time
from qwen_operator.api.names import CONTAINER
from qwen_operator.api.status import DownloadPhase, DownloadStatus
from qwen_operator.planning.builders.download import RETRY_SECONDS
from qwen_operator.planning.download import Download, has_ended
from qwen_operator.status.diagnosis import Problem, diagnose
from qwen_operator.status.failed_pods import last_failed

JOB_NAME_LABEL: Final = "batch.kubernetes.io/job-name"
_Phase = Literal["Downloading", "Verifying", "Complete", "Failed"]
# Reasons that exits of the server have. In a Job, the model is not loaded.
_OF_THE_SERVER: Final = {"ModelLoadFailed", "EngineFailed", "CrashLoopBackOff"}
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
    return Figures(phase, downloaded or 0, total, rate, seconds, message if isinstance(message, str) else "")


def _count(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TypeError(f"{value!r} is not a number")
    return min(_MAX_BYTES, max(0, round(value)))


@dataclass(frozen=True)
class DownloadView:
    """What is observed of a download.

    Attributes:
        status: what the status of the service says about it; None if no Job downloads.
        problem: why pods do not start because of it; None if they may.
    """

    status: DownloadStatus | None = None
    problem: Problem | None = None


def view_download(
    download: Download | None,
    job: Mapping[str, Any] | None,
    pods: Sequence[Mapping[str, Any]],
    figures: Figures | None,
    *,
    before: DownloadStatus | None,
    now: datetime,
) -> DownloadView:
    """The view.

    job: the Job of the download.
    pods: the pods of the Job.
    figures: what the pod that runs has said last.
    before: what the status says now.
    """
    if download is None:
        return DownloadView()
    known = before if before is not None and before.id == download.id else None
    last = max(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")), default=None)
    if download.done:
        return DownloadView(_complete(download, job, last, known))
    if job is not None and has_ended(job, "Failed"):
        problem = _failure(job, last, now)
        return DownloadView(_status(download, "Failed", _last(known), problem.detail), problem)
    running = last is not None and last.get("status", {}).get("phase") == "Running"
    problem = _waiting(download, last, running, now)
    if problem.is_failure or not running:
        message = problem.detail if problem.is_failure else ""
        return DownloadView(_status(download, "Pending", _last(known), message), problem)
    figures = figures or _last(known)
    verifying = figures is not None and figures.phase == "Verifying"
    message = "" if figures is None else figures.message
    return DownloadView(_status(download, "Verifying" if verifying else "Downloading", figures, message), problem)


def _complete(
    download: Download,
    job: Mapping[str, Any] | None,
    last: Mapping[str, Any] | None,
    known: DownloadStatus | None,
) -> DownloadStatus | None:
    """None if the pods have downloaded the model themselves."""
    if known is not None and known.phase == "Complete":
        return known
    if job is None and known is None:
        return None
    return _status(download, "Complete", read_figures(_termination(last).get("message")) or _last(known), "")


def _failure(job: Mapping[str, Any], last: Mapping[str, Any] | None, now: datetime) -> Problem:
    """Why a Job has failed, and when the next one begins."""
    ended = next(item for item in job["status"]["conditions"] if item["type"] == "Failed")
    problem = None if last is None else _of_pod(last, now)
    if problem is None or not problem.is_failure:
        problem = Problem("ModelDownloadFailed", ended.get("message") or "the Job failed", job["metadata"]["name"])
    began = parse_time(ended.get("lastTransitionTime"))
    if began is None:
        return problem
    again = format_time(began + timedelta(seconds=RETRY_SECONDS))
    advice = f"{problem.remedy} The next try begins at {again}, or when the spec changes."
    return Problem(problem.reason, problem.detail, problem.pod, advice)


def _waiting(download: Download, last: Mapping[str, Any] | None, running: bool, now: datetime) -> Problem:
    """Why pods do not start while the Job has not ended."""
    name = download.name if last is None else last["metadata"]["name"]
    if last is not None and not running:
        problem = _of_pod(last, now)
        if problem is not None and problem.is_failure:
            return problem
    since = (last or {}).get("status", {}).get("startTime") or ""
    model = download.model
    what = f"the model {model} has been downloading since {since}" if since else f"it is about to download {model}"
    return Problem("ModelDownloading", what, name)


def _of_pod(pod: Mapping[str, Any], now: datetime) -> Problem | None:
    problem = last_failed([pod], now) or diagnose(pod)
    if problem is not None and problem.reason in _OF_THE_SERVER:
        return Problem("ModelDownloadFailed", problem.detail, problem.pod, problem.advice)
    return problem


def _termination(pod: Mapping[str, Any] | None) -> Mapping[str, Any]:
    for item in (pod or {}).get("status", {}).get("containerStatuses") or ():
        if item["name"] == CONTAINER:
            return (item.get("state") or {}).get("terminated") or {}
    return {}


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
        progress="100%" if phase == "Complete" else f"{100 * there // total}%" if total else "",
        downloaded_bytes=there,
        total_bytes=total,
        bytes_per_second=found.rate if moving else None,
        seconds_remaining=found.seconds if moving else None,
        message=message[:_MAX_MESSAGE],
    )

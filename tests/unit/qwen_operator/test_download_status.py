"""What the status says about the download of a model, and why pods wait for it."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any, get_args

import pytest

from qwen_operator.api import ServiceStatus
from qwen_operator.api.names import selector_labels
from qwen_operator.api.status import DownloadStatus
from qwen_operator.status.conditions import ApplyError, Observed, evaluate
from qwen_operator.status.download import DownloadView, Figures, Seen, read_figures, view_download
from qwen_operator.status.transitions import status_patch, transitions
from qwen_server.download.progress import PROGRESS_PATH, Phase, Tracker
from tests.unit.qwen_operator.objects import NOW, READY_POD, Object, child, deployment, ended, live, planned, service
from tests.unit.qwen_operator.test_download import CACHED, download_of

SUBJECT = service(**CACHED)
NAME = download_of(SUBJECT).name
FAILED_AT = "2026-01-02T03:00:00Z"


def made(**conditions: str) -> Object:
    """The Job as the API server returns it, with these conditions."""
    job = download_of(SUBJECT).job
    found = [{"type": kind, "status": value} for kind, value in conditions.items()]
    return {**job, "metadata": {**job["metadata"], "uid": "job"}, "status": {"conditions": found}}


FAILED = ended(made(), "Failed", lastTransitionTime=FAILED_AT)


def job_pod(**status: Any) -> Object:
    metadata = {"name": "news-download-1", "uid": "u", "creationTimestamp": "2026-01-02T03:00:00Z"}
    scheduled = [{"type": "PodScheduled", "status": "True"}]
    return {"metadata": metadata, "status": {"phase": "Running", "conditions": scheduled, **status}}


def terminated(code: int, message: str) -> Object:
    state = {"terminated": {"exitCode": code, "reason": "Error" if code else "Completed", "message": message}}
    return job_pod(phase="Failed" if code else "Succeeded", containerStatuses=[{"name": "server", "state": state}])


def in_a_mesh(code: int, message: str) -> Object:
    """The same beside a sidecar, which goes on."""
    found = terminated(code, message)
    proxy = {"name": "proxy", "ready": True, "state": {"running": {}}}
    status = {**found["status"], "phase": "Running"}
    status["containerStatuses"] = [*status["containerStatuses"], proxy]
    return {**found, "spec": {"containers": [{"name": "server"}, {"name": "proxy"}]}, "status": status}


RUNNING = job_pod(
    startTime="2026-01-02T03:00:05Z",
    containerStatuses=[{"name": "server", "started": True, "ready": True, "state": {"running": {}}}],
)
ALL = json.dumps({"phase": "Complete", "downloadedBytes": 16_000, "totalBytes": 16_000, "bytesPerSecond": 9})


def view(
    *pods: Object,
    job: Object | None = None,
    figures: Figures | None = None,
    events: dict[str, list[Object]] | None = None,
    before: DownloadStatus | None = None,
) -> DownloadView:
    found = made() if job is None else job
    download = download_of(SUBJECT, jobs=[found])
    return view_download(download, Seen(found, pods, events or {}, figures), before=before, now=NOW)


def status_of(found: DownloadView, *pods: Object, **observed: Any) -> ServiceStatus:
    return evaluate(SUBJECT, Observed(pods=pods, selector=selector_labels("news"), download=found, **observed), NOW)


def reason(status: ServiceStatus, kind: str = "Ready") -> tuple[str, str]:
    found = status.condition(kind)
    assert found is not None
    return found.status, found.reason


def message(status: ServiceStatus, kind: str = "Ready") -> str:
    found = status.condition(kind)
    assert found is not None
    return found.message


def event(kind: str, text: str, at: str = "2026-01-02T03:00:10Z") -> Object:
    return {"reason": kind, "message": text, "lastTimestamp": at}


# Progress.


def test_the_progress_is_in_the_status() -> None:
    found = view(RUNNING, figures=Figures("Downloading", 4_000, 16_000, 100, 120, "the hub limits"))
    status = status_of(found)
    assert reason(status) == ("False", "ModelDownloading")
    assert reason(status, "Progressing") == ("True", "ModelDownloading")
    assert reason(status, "Degraded") == ("False", "AsExpected")
    assert message(status).startswith("Pod news-download-1: the model Qwen/Qwen3-8B@v1 has been downloading since ")
    assert "2026-01-02T03:00:05Z; the hub limits. " in message(status)
    assert status.to_dict()["download"] == {
        "id": download_of(SUBJECT).id,
        "model": "Qwen/Qwen3-8B@v1",
        "phase": "Downloading",
        "progress": "25%",
        "downloadedBytes": 4_000,
        "totalBytes": 16_000,
        "bytesPerSecond": 100,
        "secondsRemaining": 120,
        "message": "the hub limits",
    }


@pytest.mark.parametrize(
    ("said", "phase"),
    [
        (Figures("Starting", 0), "Pending"),
        (Figures("Downloading", 4_000), "Downloading"),
        (Figures("Verifying", 4_000), "Verifying"),
        (Figures("Complete", 4_000), "Verifying"),
        (Figures("Failed", 4_000), "Downloading"),
        (None, "Downloading"),
    ],
)
def test_the_phase_is_that_of_the_pod_as_long_as_the_job_runs(said: Figures | None, phase: str) -> None:
    before = view(RUNNING, figures=Figures("Downloading", 4_000, 16_000)).status
    found = view(RUNNING, figures=said, before=before).status
    assert found is not None
    assert (found.phase, found.downloaded_bytes) == (phase, 4_000)


def test_a_pod_that_says_nothing_keeps_the_bytes_that_are_known() -> None:
    before = view(RUNNING, figures=Figures("Downloading", 4_000, 16_000, 100, 120)).status
    found = view(RUNNING, before=before).status
    assert found is not None
    assert (found.phase, found.downloaded_bytes, found.bytes_per_second) == ("Downloading", 4_000, None)


def test_the_bytes_of_another_download_are_forgotten() -> None:
    before = DownloadStatus(id="another", model="x", phase="Downloading", downloaded_bytes=7, total_bytes=9)
    found = view(before=before).status
    assert found is not None
    assert (found.phase, found.downloaded_bytes, found.total_bytes, found.progress) == ("Pending", 0, None, "")


def test_figures_that_are_gone_are_gone_from_the_status() -> None:
    moving = status_of(view(RUNNING, figures=Figures("Downloading", 4_000, 16_000, 100, 120))).to_dict()
    checking = status_of(view(RUNNING, figures=Figures("Verifying", 16_000, 16_000))).to_dict()
    patch = status_patch(moving, checking)
    assert patch["download"]["bytesPerSecond"] is None
    assert patch["download"]["secondsRemaining"] is None
    assert patch["download"]["phase"] == "Verifying"
    without = evaluate(service(), Observed(), NOW).to_dict()
    assert status_patch(moving, without)["download"] is None


def test_a_complete_download_has_its_final_figures() -> None:
    found = view(terminated(0, ALL), job=ended(made()))
    assert found.problem is None
    assert found.status is not None
    assert (found.status.phase, found.status.progress, found.status.total_bytes) == ("Complete", "100%", 16_000)
    done = download_of(SUBJECT, jobs=[ended(made())])
    later = view_download(done, Seen(), before=found.status, now=NOW + timedelta(hours=1))
    assert later.status == found.status


def test_a_job_that_is_about_to_end_is_waited_for() -> None:
    found = view(terminated(0, ALL))
    assert found.status is not None
    assert (found.status.phase, found.status.downloaded_bytes) == ("Verifying", 16_000)
    assert reason(status_of(found)) == ("False", "ModelDownloading")
    assert "is about to end" in message(status_of(found))


def test_a_sidecar_that_goes_on_does_not_keep_the_pods_waiting() -> None:
    found = view(in_a_mesh(0, ALL))
    assert found.problem is None
    assert found.status is not None
    assert (found.status.phase, found.status.total_bytes) == ("Complete", 16_000)
    failed = view(in_a_mesh(78, "the model cannot be downloaded: the hub does not have it (HTTP 404)"))
    assert reason(status_of(failed)) == ("False", "ModelDownloadFailed")
    assert failed.status is not None
    assert failed.status.phase == "Failed"


def test_no_job_no_status() -> None:
    assert view_download(None, Seen(), before=None, now=NOW) == DownloadView()
    own = planned(SUBJECT, live_deployment=live(child(SUBJECT, "Deployment"))).download
    assert view_download(own, Seen(), before=None, now=NOW) == DownloadView()


# Why nothing arrives.


def test_a_job_without_a_pod_is_about_to_download() -> None:
    status = status_of(view())
    assert reason(status) == ("False", "ModelDownloading")
    assert message(status).startswith(f"The Job {NAME} is about to download Qwen/Qwen3-8B@v1. ")


def test_a_pod_that_cannot_run_says_why() -> None:
    scheduled = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}
    found = status_of(view(job_pod(phase="Pending", conditions=[scheduled])))
    assert reason(found) == ("False", "Unschedulable")
    assert reason(found, "Degraded") == ("True", "Unschedulable")
    assert found.download is not None
    assert found.download.phase == "Pending"
    assert "0/3 nodes" in found.download.message


def test_a_pod_whose_secret_is_missing_says_so() -> None:
    text = 'MountVolume.SetUp failed for volume "ca" : configmap "ca" not found'
    found = status_of(view(job_pod(phase="Pending"), events={"u": [event("FailedMount", text)]}))
    assert reason(found) == ("False", "ContainerConfigError")
    assert 'configmap "ca" not found' in message(found)


REFUSAL = event("FailedCreate", 'Error creating: pods "x" is forbidden: exceeded quota: team, used: pods=9')


@pytest.mark.parametrize("pods", [(), (terminated(75, "the hub cannot be reached"),)])
def test_pods_that_are_refused_are_told_as_those_of_a_deployment_are(pods: tuple[Object, ...]) -> None:
    found = status_of(view(*pods, events={"job": [REFUSAL]}))
    for kind, value in (("Ready", "False"), ("Available", "False"), ("Progressing", "False"), ("Degraded", "True")):
        assert reason(found, kind) == (value, "PodsRefused")
    text = f'Pods of the Job {NAME} cannot be created: pods "x" is forbidden: exceeded quota: team, used: pods=9. Check'
    assert message(found).startswith(text)
    assert found.reason == "PodsRefused"
    assert found.download is not None
    assert (found.download.phase, "exceeded quota" in found.download.message) == ("Pending", True)
    [(severity, item)] = transitions([], found.to_dict()["conditions"])
    assert (severity, item["reason"]) == ("Warning", "PodsRefused")


def test_a_refusal_is_over_when_a_pod_was_made() -> None:
    later = event("SuccessfulCreate", "Created pod: news-download-1", at="2026-01-02T03:00:20Z")
    assert reason(status_of(view(events={"job": [later, REFUSAL]}))) == ("False", "ModelDownloading")
    assert reason(status_of(view(RUNNING, events={"job": [REFUSAL]}))) == ("False", "ModelDownloading")


def test_a_suspended_job_is_no_failure() -> None:
    found = status_of(view(job=made(Suspended="True")))
    assert reason(found) == ("False", "DownloadSuspended")
    assert reason(found, "Progressing") == ("True", "DownloadSuspended")
    assert reason(found, "Degraded") == ("False", "AsExpected")
    assert message(found).startswith(f"The Job {NAME}, which downloads Qwen/Qwen3-8B@v1, is suspended. Whoever")
    assert reason(status_of(view(job=made(Suspended="False")))) == ("False", "ModelDownloading")


def test_a_refused_job_is_named() -> None:
    error = ApplyError("ApplyFailed", "Job news-download-1: image is required", "Job")
    found = status_of(view(), apply_errors=[error])
    assert reason(found) == ("False", "ApplyFailed")


def test_an_evicted_pod_of_a_job_is_named() -> None:
    pod = job_pod(phase="Failed", reason="Evicted", message="low on memory", startTime="2026-01-02T03:00:05Z")
    assert reason(status_of(view(pod))) == ("False", "Evicted")


def test_only_what_has_no_container_is_held_up() -> None:
    pending = job_pod(phase="Pending")
    assert Seen(made()).held_up == [made()]
    assert Seen(made(), [terminated(75, "")]).held_up == [made()]
    assert Seen(made(), [terminated(75, ""), pending]).held_up == [pending]
    assert list(Seen(made(), [RUNNING]).held_up) == []
    for job in (None, ended(made()), FAILED, made(Suspended="True")):
        assert list(Seen(job).held_up) == []


# Failures.


@pytest.mark.parametrize(
    ("code", "text", "advice"),
    [
        (78, "the model cannot be downloaded: the hub does not have it (HTTP 404)", "revision"),
        (78, "the model cannot be downloaded: the disk is full (No space left on device)", "size"),
        (75, "the model cannot be downloaded: the hub cannot be reached", "DNS"),
        (1, "Traceback", "model.source"),
    ],
)
def test_the_cause_of_a_failed_job_and_the_next_try(code: int, text: str, advice: str) -> None:
    status = status_of(view(terminated(code, text), job=FAILED), deployment=None)
    assert reason(status) == ("False", "ModelDownloadFailed")
    assert text in message(status)
    assert advice in message(status)
    assert "The next try begins at 2026-01-02T03:10:00Z" in message(status)
    assert reason(status, "Progressing") == ("False", "ModelDownloadFailed")
    assert reason(status, "Degraded") == ("True", "ModelDownloadFailed")
    assert status.download is not None
    assert (status.download.phase, status.download.progress) == ("Failed", "")


def test_a_job_without_pods_says_what_kubernetes_says() -> None:
    found = status_of(view(job=ended(made(), "Failed", message="it was active too long")))
    assert reason(found) == ("False", "ModelDownloadFailed")
    assert message(found).startswith(f"The Job {NAME} failed: it was active too long. ")


def test_old_pods_serve_while_the_new_model_fails() -> None:
    found = status_of(view(terminated(78, "HTTP 404"), job=FAILED), READY_POD, deployment=deployment())
    assert reason(found) == ("True", "Serving")
    assert reason(found, "Degraded") == ("True", "ModelDownloadFailed")


def test_a_download_is_progress_although_the_rollout_of_the_old_model_has_stalled() -> None:
    stalled: Object = {"conditions": [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]}
    found = status_of(view(RUNNING), deployment=deployment(**stalled))
    assert reason(found, "Progressing") == ("True", "ModelDownloading")


# What a pod says.


def test_the_operator_reads_whatever_the_server_reports() -> None:
    assert PROGRESS_PATH == "/progress"
    tracker = Tracker()
    for phase in get_args(Phase):
        tracker.phase = phase
        found = read_figures(json.dumps(tracker.report()))
        assert found is not None
        assert found.phase == phase


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "not JSON",
        "[]",
        '{"phase": "Downloading"}',
        '{"phase": "Lost", "downloadedBytes": 1}',
        '{"phase": "Downloading", "downloadedBytes": "1"}',
        '{"phase": "Downloading", "downloadedBytes": NaN}',
        '{"phase": ["Downloading"], "downloadedBytes": 1}',
    ],
)
def test_an_answer_that_is_not_valid_is_none(text: str | None) -> None:
    assert read_figures(text) is None


def test_figures_are_bounded() -> None:
    found = read_figures('{"phase": "Downloading", "downloadedBytes": -5, "totalBytes": 1e300, "message": 7}')
    assert found == Figures("Downloading", 0, 1 << 53)
    long = '{"phase": "Downloading", "downloadedBytes": 1' + "0" * 400 + "}"
    assert read_figures(long) == Figures("Downloading", 1 << 53)


def test_an_answer_that_is_nested_too_deep_is_none() -> None:
    assert read_figures('{"phase": ' + "[" * 100_000) is None


def test_whatever_a_pod_says_fits_into_the_status() -> None:
    said = {"phase": "Downloading", "downloadedBytes": 1 << 60, "totalBytes": 1, "message": "\ud800" + "x" * 9_999}
    status = view(RUNNING, figures=read_figures(json.dumps(said))).status
    assert status is not None
    assert status.progress == "100%"
    assert status.message == "?" + "x" * 1023

"""The Job that downloads a model: what it is, what waits for it, and what the status says."""

from __future__ import annotations

import json
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from qwen_operator.api import QwenService, ServiceStatus
from qwen_operator.api.names import selector_labels
from qwen_operator.api.status import DownloadStatus
from qwen_operator.downloads import ASK_SECONDS, Downloads
from qwen_operator.planning.builders.ownership import labels_select
from qwen_operator.planning.download import Download
from qwen_operator.planning.plan import Plan, Reference
from qwen_operator.status.conditions import ApplyError, Observed, evaluate
from qwen_operator.status.download import DownloadView, Figures, read_figures, view_download
from qwen_operator.status.transitions import status_patch
from qwen_server.config.command_line import load_settings
from tests.unit.qwen_operator.objects import (
    NOW,
    READY_POD,
    Object,
    child,
    deployment,
    ended,
    live,
    planned,
    service,
)

HUB: Object = {"source": {"builtin": None, "huggingFace": {"repo": "Qwen/Qwen3-8B", "revision": "v1"}}}
CACHED: Object = {"model": HUB, "cache": {"size": "50Gi"}}


def on_gpus(**spec: Any) -> QwenService:
    return service(**{**spec, "engine": {"device": "cuda", **spec.get("engine", {})}})


FULL = on_gpus(
    **CACHED,
    auth={"apiKeySecretRef": {"name": "keys"}},
    engine={
        "env": [{"name": "HF_ENDPOINT", "value": "http://mirror"}, {"name": "HF_HUB_OFFLINE", "value": "1"}],
        "imagePullSecrets": [{"name": "pull"}],
    },
    scheduling={"nodeSelector": {"pool": "gpus"}, "tolerations": [{"key": "team", "operator": "Exists"}]},
    metadata={"labels": {"team": "nlp"}},
    podTemplate={
        "spec": {
            "serviceAccountName": "models",
            "initContainers": [{"name": "wait", "image": "x"}],
            "containers": [{"name": "server", "volumeMounts": [{"name": "ca", "mountPath": "/ca"}]}, {"name": "proxy"}],
            "volumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        }
    },
)


def waiting(subject: QwenService, **changes: Any) -> Plan:
    """The plan before the Job has ended."""
    return planned(subject, **{"jobs": (), **changes})


def download_of(subject: QwenService, **changes: Any) -> Download:
    found = waiting(subject, **changes).download
    assert found is not None
    return found


def job_spec(subject: QwenService) -> Object:
    spec: Object = child(subject, "Job", jobs=())["spec"]
    return spec


def kinds(found: Plan) -> list[str]:
    return [obj["kind"] for obj in found.children]


def test_no_pod_is_made_before_the_model_is_there() -> None:
    found = waiting(on_gpus(**CACHED))
    assert "Deployment" not in kinds(found)
    assert kinds(found).index("Job") > kinds(found).index("PersistentVolumeClaim")
    after = waiting(on_gpus(**CACHED), jobs=[ended(download_of(on_gpus(**CACHED)).job)])
    assert "Deployment" in kinds(after)
    assert "Job" not in kinds(after)
    assert not [reference for reference in after.removed if reference.kind == "Job"]


@pytest.mark.parametrize(
    "subject",
    [
        service(),
        service(model=HUB),
        service(model=HUB, cache={"size": "1Gi", "download": "Pods"}),
        service(model=HUB, cache={"size": "1Gi", "accessModes": ["ReadWriteOncePod"]}),
        service(model={"source": {"builtin": None, "pvc": {"claimName": "m"}}}, cache={"size": "1Gi"}),
    ],
)
def test_the_pods_download_what_no_job_can_share(subject: QwenService) -> None:
    assert kinds(waiting(subject)).count("Job") == 0
    assert "Deployment" in kinds(waiting(subject))


def test_the_modes_of_an_existing_claim_count() -> None:
    subject = service(model=HUB, cache={"existingClaim": "models"})
    assert "Job" in kinds(waiting(subject, claims={"models": {"spec": {"accessModes": ["ReadWriteMany"]}}}))
    assert "Job" not in kinds(waiting(subject, claims={"models": {"spec": {"accessModes": ["ReadWriteOncePod"]}}}))


def test_pods_of_another_model_serve_on_until_the_new_one_is_there() -> None:
    before = child(service(model=HUB, cache={"size": "1Gi"}), "Deployment")
    new = {"source": {"builtin": None, "huggingFace": {"repo": "Qwen/Qwen3-14B"}}}
    subject = service(model=new, cache={"size": "1Gi"}, replicas=3)
    kept = child(subject, "Deployment", jobs=(), live_deployment=live(before))
    assert kept["spec"]["template"] == before["spec"]["template"]
    assert kept["spec"]["replicas"] == 3
    done = child(subject, "Deployment", live_deployment=live(before))
    assert "--model=Qwen/Qwen3-14B" in done["spec"]["template"]["spec"]["containers"][0]["args"]


def test_pods_that_have_the_model_do_not_wait_for_a_job() -> None:
    subject = service(**CACHED)
    running = live(child(subject, "Deployment"))
    changed = service(**CACHED, limits={"maxTokens": 1024})
    assert "Job" not in kinds(waiting(changed, live_deployment=running))
    assert "Deployment" in kinds(waiting(changed, live_deployment=running))
    moved = service(model=HUB, cache={"existingClaim": "other"})
    assert "Job" in kinds(waiting(moved, live_deployment=running))


def test_a_download_that_is_complete_is_remembered() -> None:
    subject = service(**CACHED)
    found = download_of(subject)
    done = DownloadStatus(id=found.id, model=found.model, phase="Complete").to_dict()
    assert "Deployment" in kinds(waiting(service(status={"download": done}, **CACHED)))
    other = {**done, "id": "another"}
    assert "Deployment" not in kinds(waiting(service(status={"download": other}, **CACHED)))


def test_jobs_of_an_older_spec_are_removed() -> None:
    old = download_of(service(**CACHED))
    subject = service(model=HUB, cache={"size": "50Gi"}, scheduling={"nodeSelector": {"pool": "b"}})
    found = waiting(subject, jobs=[old.job])
    assert Reference("batch/v1", "Job", old.name) in found.removed
    assert download_of(subject).name != old.name
    assert Reference("batch/v1", "Job", old.name) in waiting(service(), jobs=[old.job]).removed


def test_the_job_has_the_pods_place_account_and_secrets_but_no_gpu() -> None:
    pod = job_spec(FULL)["template"]["spec"]
    assert pod["serviceAccountName"] == "models"
    assert pod["imagePullSecrets"] == [{"name": "pull"}]
    assert pod["nodeSelector"] == {"pool": "gpus"}
    assert {"key": "team", "operator": "Exists"} in pod["tolerations"]
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["restartPolicy"] == "Never"
    assert not pod.keys() & {"initContainers", "readinessGates", "topologySpreadConstraints"}
    (container,) = pod["containers"]
    assert not [name for values in container["resources"].values() for name in values if "gpu" in name]
    assert container["image"] == "registry/server:cuda"
    variables = {item["name"]: item["value"] for item in container["env"]}
    assert variables["HF_HOME"] == "/cache/huggingface"
    assert variables["HF_ENDPOINT"] == "http://mirror"
    assert variables["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert "HF_HUB_OFFLINE" not in variables
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/cache", "/tmp", "/ca"}
    assert {volume["name"] for volume in pod["volumes"]} == {"cache", "tmp", "ca"}


def test_the_job_runs_near_the_pods_that_have_the_claim_and_where_gpus_are() -> None:
    affinity = job_spec(FULL)["template"]["spec"]["affinity"]
    (near,) = affinity["podAffinity"].values()
    assert near[-1]["podAffinityTerm"]["labelSelector"]["matchLabels"] == selector_labels("news")
    (preferred,) = affinity["nodeAffinity"].values()
    assert "nvidia.com/gpu.present" in str(preferred)
    own = {"weight": 9, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}}
    given = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [own]}}
    on_cpu = job_spec(service(**CACHED, scheduling={"affinity": given}))["template"]["spec"]["affinity"]
    assert on_cpu["nodeAffinity"] == given["nodeAffinity"]


def test_the_server_understands_the_arguments() -> None:
    first, *flags = job_spec(FULL)["template"]["spec"]["containers"][0]["args"]
    settings = load_settings(flags)
    assert (first, settings.model, settings.revision) == ("download", "Qwen/Qwen3-8B", "v1")


def test_its_pod_gets_no_requests_and_is_no_replica() -> None:
    metadata = job_spec(FULL)["template"]["metadata"]
    assert not labels_select(selector_labels("news"), {"metadata": metadata})
    assert "qwen-vllm.io/service" not in metadata["labels"]
    assert metadata["labels"]["app.kubernetes.io/managed-by"] == "qwen-operator"
    assert metadata["labels"]["team"] == "nlp"


def test_what_waiting_does_not_help_with_ends_the_job() -> None:
    spec = job_spec(FULL)
    assert spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [78]
    assert spec["ttlSecondsAfterFinished"] == 600


# The status.

SUBJECT = service(**CACHED)


def job_pod(**status: Any) -> Object:
    metadata = {"name": "news-download-1", "uid": "u", "creationTimestamp": "2026-01-02T03:00:00Z"}
    scheduled = [{"type": "PodScheduled", "status": "True"}]
    return {"metadata": metadata, "status": {"phase": "Running", "conditions": scheduled, **status}}


def terminated(code: int, message: str) -> Object:
    state = {"terminated": {"exitCode": code, "reason": "Error" if code else "Completed", "message": message}}
    return job_pod(phase="Failed" if code else "Succeeded", containerStatuses=[{"name": "server", "state": state}])


RUNNING = job_pod(
    startTime="2026-01-02T03:00:05Z",
    containerStatuses=[{"name": "server", "started": True, "ready": True, "state": {"running": {}}}],
)


def view(
    *pods: Object, job: Object | None = None, figures: Figures | None = None, before: DownloadStatus | None = None
) -> DownloadView:
    download = download_of(SUBJECT)
    return view_download(download, download.job if job is None else job, pods, figures, before=before, now=NOW)


def status_of(found: DownloadView, *pods: Object, **observed: Any) -> ServiceStatus:
    return evaluate(SUBJECT, Observed(pods=pods, selector=selector_labels("news"), download=found, **observed), NOW)


def reason(status: ServiceStatus, kind: str) -> tuple[str, str]:
    found = status.condition(kind)
    assert found is not None
    return found.status, found.reason


def test_the_progress_is_in_the_status() -> None:
    found = view(RUNNING, figures=Figures("Downloading", 4_000, 16_000, 100, 120, "the hub limits"))
    status = status_of(found)
    assert reason(status, "Ready") == ("False", "ModelDownloading")
    assert reason(status, "Progressing") == ("True", "ModelDownloading")
    assert reason(status, "Degraded") == ("False", "AsExpected")
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


def test_a_pod_that_says_nothing_keeps_the_bytes_that_are_known() -> None:
    before = view(RUNNING, figures=Figures("Downloading", 4_000, 16_000, 100, 120)).status
    found = view(RUNNING, before=before).status
    assert found is not None
    assert (found.phase, found.downloaded_bytes, found.bytes_per_second) == ("Downloading", 4_000, None)


def test_figures_that_are_gone_are_gone_from_the_status() -> None:
    moving = status_of(view(RUNNING, figures=Figures("Downloading", 4_000, 16_000, 100, 120))).to_dict()
    checking = status_of(view(RUNNING, figures=Figures("Verifying", 16_000, 16_000))).to_dict()
    patch = status_patch(moving, checking)
    assert patch["download"]["bytesPerSecond"] is None
    assert patch["download"]["secondsRemaining"] is None
    assert patch["download"]["phase"] == "Verifying"


def test_a_pod_that_cannot_run_says_why() -> None:
    scheduled = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}
    found = status_of(view(job_pod(phase="Pending", conditions=[scheduled])))
    assert reason(found, "Ready") == ("False", "Unschedulable")
    assert reason(found, "Degraded") == ("True", "Unschedulable")
    assert found.download is not None
    assert found.download.phase == "Pending"


@pytest.mark.parametrize(
    ("code", "text", "expected", "advice"),
    [
        (78, "the model cannot be downloaded: the hub does not have it (HTTP 404)", "ModelDownloadFailed", "revision"),
        (
            78,
            "the model cannot be downloaded: the disk is full (No space left on device)",
            "ModelDownloadFailed",
            "size",
        ),
        (75, "the model cannot be downloaded: the hub cannot be reached", "ModelDownloadFailed", "DNS"),
        (1, "Traceback", "ModelDownloadFailed", "model.source"),
    ],
)
def test_the_cause_of_a_failed_job_and_the_next_try(code: int, text: str, expected: str, advice: str) -> None:
    failed = ended(download_of(SUBJECT).job, "Failed", lastTransitionTime="2026-01-02T03:00:00Z")
    status = status_of(view(terminated(code, text), job=failed), deployment=None)
    ready = status.condition("Ready")
    assert ready is not None
    assert ready.reason == expected
    assert text in ready.message
    assert advice in ready.message
    assert "The next try begins at 2026-01-02T03:10:00Z" in ready.message
    assert reason(status, "Progressing") == ("False", expected)
    assert reason(status, "Degraded") == ("True", expected)
    assert status.download is not None
    assert (status.download.phase, status.download.progress) == ("Failed", "")


def test_a_job_without_pods_says_what_kubernetes_says() -> None:
    failed = ended(download_of(SUBJECT).job, "Failed", message="it was active too long")
    found = status_of(view(job=failed))
    assert reason(found, "Ready") == ("False", "ModelDownloadFailed")


def test_a_refused_job_is_named() -> None:
    error = ApplyError("ApplyFailed", "Job news-download-1: image is required", "Job")
    found = status_of(view(), apply_errors=[error])
    assert reason(found, "Ready") == ("False", "ApplyFailed")


def test_an_evicted_pod_of_a_job_is_named() -> None:
    pod = job_pod(phase="Failed", reason="Evicted", message="low on memory", startTime="2026-01-02T03:00:05Z")
    assert reason(status_of(view(pod)), "Ready") == ("False", "Evicted")


def test_old_pods_serve_while_the_new_model_fails() -> None:
    failed = ended(download_of(SUBJECT).job, "Failed", lastTransitionTime="2026-01-02T03:00:00Z")
    found = status_of(view(terminated(78, "HTTP 404"), job=failed), READY_POD, deployment=deployment())
    assert reason(found, "Ready") == ("True", "Serving")
    assert reason(found, "Degraded") == ("True", "ModelDownloadFailed")


def test_a_complete_download_has_its_final_figures() -> None:
    figures = {"phase": "Complete", "downloadedBytes": 16_000, "totalBytes": 16_000, "bytesPerSecond": 9}
    job = ended(download_of(SUBJECT).job)
    download = planned(SUBJECT, jobs=[job]).download
    pod = terminated(0, json.dumps(figures))
    found = view_download(download, job, [pod], None, before=None, now=NOW)
    assert found.problem is None
    assert found.status is not None
    assert (found.status.phase, found.status.progress, found.status.total_bytes) == ("Complete", "100%", 16_000)
    later = view_download(download, None, [], None, before=found.status, now=NOW + timedelta(hours=1))
    assert later.status == found.status


def test_no_job_no_status() -> None:
    assert view_download(None, None, [], None, before=None, now=NOW) == DownloadView()
    own = planned(SUBJECT, live_deployment=live(child(SUBJECT, "Deployment"))).download
    assert view_download(own, None, [], None, before=None, now=NOW) == DownloadView()


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


async def test_a_pod_is_asked_every_ten_seconds_and_less_often_if_it_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, asked, again = 1000.0, list[float](), list[float]()
    answer: bytes | None = b'{"phase": "Downloading", "downloadedBytes": 1}'

    async def ask(_: str) -> bytes | None:
        asked.append(now)
        return answer

    monkeypatch.setattr("qwen_operator.downloads.time", SimpleNamespace(monotonic=lambda: now))
    downloads = Downloads(ask, lambda _, seconds: again.append(seconds))
    pod = {**RUNNING, "status": {**RUNNING["status"], "podIP": "10.0.0.1"}}
    for _ in range(3):
        assert await downloads.of(("n", "news"), [pod]) == Figures("Downloading", 1)
    assert asked == [1000.0]
    assert again == [ASK_SECONDS] * 3
    now, answer = 1010.0, None
    assert await downloads.of(("n", "news"), [pod]) == Figures("Downloading", 1)
    assert again[-1] == 2 * ASK_SECONDS
    assert await downloads.of(("n", "news"), []) is None

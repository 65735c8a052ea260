"""The Job that downloads a model: what it is, when it is made, and what waits for it."""

from __future__ import annotations

from typing import Any

import pytest

from qwen_operator.api import QwenService
from qwen_operator.api.names import selector_labels
from qwen_operator.api.status import DownloadStatus
from qwen_operator.planning.builders.ownership import is_applied, is_ours, labels_select, stamped
from qwen_operator.planning.download import Download
from qwen_operator.planning.plan import Plan, Reference
from qwen_server.config.command_line import load_settings
from qwen_server.control.lifecycle import EXIT_CONFIGURATION
from tests.unit.qwen_operator.objects import UID, Object, child, ended, live, planned, pod_spec, service
from tests.unit.qwen_operator.test_ownership import applied

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


def test_a_job_goes_when_its_next_try_is_due() -> None:
    assert job_spec(FULL)["ttlSecondsAfterFinished"] == 600  # docs/operations.md says ten minutes


def test_its_pod_gets_no_requests_and_is_no_replica() -> None:
    metadata = job_spec(FULL)["template"]["metadata"]
    assert not labels_select(selector_labels("news"), {"metadata": metadata})
    assert "qwen-vllm.io/service" not in metadata["labels"]
    assert metadata["labels"]["app.kubernetes.io/managed-by"] == "qwen-operator"
    assert metadata["labels"]["team"] == "nlp"


def test_what_waiting_does_not_help_with_ends_the_job() -> None:
    spec = job_spec(FULL)
    assert spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [EXIT_CONFIGURATION]
    assert spec["ttlSecondsAfterFinished"] == 600


def test_its_pod_may_do_no_more_than_those_that_serve() -> None:
    loading, serving = job_spec(FULL)["template"]["spec"], pod_spec(FULL)
    for name in ("securityContext", "automountServiceAccountToken", "enableServiceLinks"):
        assert loading[name] == serving[name]
    assert loading["containers"][0]["securityContext"] == serving["containers"][0]["securityContext"]


def test_a_job_that_others_have_not_changed_is_not_applied_again() -> None:
    desired = stamped(child(FULL, "Job", jobs=()))
    assert is_applied(desired, applied(desired))


def test_a_job_has_an_owner_and_is_known_by_its_labels() -> None:
    job = child(FULL, "Job", jobs=())
    assert job["metadata"]["ownerReferences"][0]["uid"] == UID
    orphan = {**job, "metadata": {key: value for key, value in job["metadata"].items() if key != "ownerReferences"}}
    assert is_ours(orphan, FULL)


def test_a_job_that_has_failed_is_left_to_the_cluster_which_deletes_it() -> None:
    subject = service(**CACHED)
    found = waiting(subject, jobs=[ended(download_of(subject).job, "Failed")])
    assert not {"Job", "Deployment"} & set(kinds(found))
    assert found.download is not None
    assert (found.download.failed, found.download.done) == (True, False)
    assert not [reference for reference in found.removed if reference.kind == "Job"]


def test_a_job_that_goes_on_although_the_model_is_there_is_removed() -> None:
    subject = service(**CACHED)
    found = download_of(subject)
    done = {"download": DownloadStatus(id=found.id, model=found.model, phase="Complete").to_dict()}
    reference = Reference("batch/v1", "Job", found.name)
    assert reference in waiting(service(status=done, **CACHED), jobs=[found.job]).removed
    assert reference not in waiting(service(status=done, **CACHED), jobs=[ended(found.job)]).removed


def test_another_revision_is_another_download() -> None:
    old = service(**CACHED)
    newer = {"source": {"builtin": None, "huggingFace": {"repo": "Qwen/Qwen3-8B", "revision": "v2"}}}
    subject = service(model=newer, cache={"size": "50Gi"})
    found = waiting(subject, jobs=[download_of(old).job], live_deployment=live(child(old, "Deployment")))
    assert download_of(subject).id != download_of(old).id
    assert Reference("batch/v1", "Job", download_of(old).name) in found.removed
    assert [obj["metadata"]["name"] for obj in found.children if obj["kind"] == "Job"] == [download_of(subject).name]


def test_a_change_that_does_not_concern_the_download_leaves_its_job() -> None:
    changed = service(**CACHED, limits={"maxTokens": 1024}, replicas=3, probes={"liveness": {"periodSeconds": 20}})
    assert download_of(changed).name == download_of(service(**CACHED)).name


def test_an_autoscaler_is_no_trouble_before_there_are_pods() -> None:
    subject = service(**CACHED, autoscaling={"maxReplicas": 2})
    trouble = "FailedGetResourceMetric: no pods"
    *_, last = planned(subject, scaling_trouble=trouble).warnings
    assert last.reason == "AutoscalerNotActive"
    assert trouble not in str(waiting(subject, scaling_trouble=trouble).warnings)


@pytest.mark.parametrize("repository", ["huggingFace", "modelScope"])
def test_the_hub_is_that_of_the_pods(repository: str) -> None:
    source = {"builtin": None, repository: {"repo": "Qwen/Qwen3-8B"}}
    subject = service(model={"source": source}, cache={"size": "9Gi"})
    (container,) = job_spec(subject)["template"]["spec"]["containers"]
    names = {item["name"] for item in container["env"]}
    assert ("VLLM_USE_MODELSCOPE" in names) == (repository == "modelScope")
    assert ("HF_HOME" in names) == (repository == "huggingFace")

"""Conditions: Ready is true only while a pod serves, and every false one says what to do."""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any

import pytest

from qwen_operator.api import Condition, QwenService, RemediationStatus, ServiceStatus
from qwen_operator.api.names import selector_labels
from qwen_operator.planning.plan import PlanWarning
from qwen_operator.status.conditions import ApplyError, Observed, Suspension, evaluate
from qwen_operator.status.diagnosis import diagnose, is_held_up
from tests.unit.qwen_operator.objects import (
    NOW,
    READY_POD,
    Object,
    crashed,
    deployment,
    gpu_service,
    pod,
    service,
)

LOADING = pod(
    "news-2", server={"ready": False, "started": False, "state": {"running": {"startedAt": "2026-01-02T03:00:00Z"}}}
)
STALLED: Object = {"conditions": [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]}


def status_of(*pods: Object, subject: QwenService | None = None, replicas: int = 1, **observed: Any) -> ServiceStatus:
    observed.setdefault("deployment", deployment(replicas))
    observed.setdefault("selector", selector_labels("news"))
    subject = service(replicas=replicas) if subject is None else subject
    return evaluate(subject, Observed(pods=pods, **observed), NOW)


def condition(status: ServiceStatus, kind: str) -> Condition:
    found = status.condition(kind)
    assert found is not None
    return found


def ready(*pods: Object, **observed: Any) -> Condition:
    return condition(status_of(*pods, **observed), "Ready")


def test_a_service_that_serves_is_ready_complete_and_not_degraded() -> None:
    status = status_of(READY_POD)
    facts = {found.type: (found.status, found.reason) for found in status.conditions}
    assert facts == {
        "Ready": ("True", "Serving"),
        "Progressing": ("False", "Complete"),
        "Available": ("True", "MinimumReplicasAvailable"),
        "Degraded": ("False", "AsExpected"),
        "RemediationSuspended": ("False", "Active"),
        "HasWarnings": ("False", "None"),
    }
    assert (status.replicas, status.ready_replicas, status.reason) == (1, 1, "Serving")


def test_status_tells_clients_and_autoscalers_where_to_look() -> None:
    status = status_of(READY_POD, subject=gpu_service())
    assert status.url == "http://news.default.svc:8000"
    assert status.model == "qwen-news-classifier"
    assert status.selector == "app.kubernetes.io/name=qwen-server,qwen-vllm.io/service=news"
    assert status.observed_generation == 3
    assert status.gpus == 1


@pytest.mark.parametrize(
    ("unhealthy", "reason", "text"),
    [
        (
            pod(
                scheduled={
                    "status": "False",
                    "reason": "Unschedulable",
                    "message": "0/1 nodes: Insufficient nvidia.com/gpu",
                }
            ),
            "Unschedulable",
            "Insufficient nvidia.com/gpu",
        ),
        (
            pod(server={"state": {"waiting": {"reason": "ImagePullBackOff", "message": "x:1 not found"}}}),
            "ImagePullError",
            "x:1",
        ),
        (
            pod(
                server={
                    "state": {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "hf" not found'}}
                }
            ),
            "ContainerConfigError",
            '"hf"',
        ),
        (pod(server=crashed(137, reason="OOMKilled")), "OutOfMemory", "resources.limits.memory"),
        (
            pod(server=crashed(70, "torch.OutOfMemoryError: CUDA out of memory. Tried")),
            "OutOfMemory",
            "gpuMemoryUtilization",
        ),
        (
            pod(server=crashed(78, "ValueError: unknown architecture Foo")),
            "ModelLoadFailed",
            "unknown architecture Foo",
        ),
        (pod(server=crashed(78, "RepositoryNotFoundError: 401 Client Error")), "ModelDownloadFailed", "token"),
        (pod(server=crashed(70, "EngineCore died: SIGKILL")), "EngineFailed", "EngineCore died"),
        (pod(server=crashed(1, "ImportError: no module")), "CrashLoopBackOff", "ImportError"),
        (LOADING, "ModelLoading", "2026-01-02T03:00:00Z"),
        (pod(), "Starting", "images"),
        (pod(server={"ready": True, "started": True, "state": {"running": {}}}), "GatePending", "gate"),
        (
            pod(
                gate={"status": "False", "reason": "GenerationStalled", "message": "no token for 31 s"},
                server={"ready": True, "started": True, "state": {"running": {}}},
            ),
            "GenerationStalled",
            "no token for 31 s",
        ),
        (
            pod(server={"ready": False, "started": True, "state": {"running": {}}}),
            "EngineUnresponsive",
            "readiness probe",
        ),
        (
            pod(server={"ready": False, "state": {"terminated": {"exitCode": 0}}}),
            "Restarting",
            "exited with code 0",
        ),
    ],
)
def test_the_message_says_why_a_pod_is_not_ready(unhealthy: Object, reason: str, text: str) -> None:
    found = ready(unhealthy)
    assert (found.status, found.reason) == ("False", reason)
    assert text in found.message
    assert "news-" in found.message


SERVES: Object = {"ready": True, "started": True, "state": {"running": {"startedAt": "2026-01-02T03:00:00Z"}}}
T0, T1, T2 = "2026-01-02T02:59:00Z", "2026-01-02T03:01:00Z", "2026-01-02T03:02:00Z"


def at(status: str, time: str) -> Object:
    return {"status": status, "lastTransitionTime": time}


def gated(found: Object, *gates: str) -> Object:
    gates = gates or ("qwen-vllm.io/slo-ready",)
    spec = {"nodeName": "worker-1", "readinessGates": [{"conditionType": gate} for gate in gates]}
    return {**found, "spec": {**spec, **found.get("spec", {})}}


def with_sidecar(found: Object, status: Object, **spec: Any) -> Object:
    statuses = [*found["status"].get("containerStatuses", ()), {"name": "proxy", "restartCount": 1, **status}]
    return {**found, "spec": spec, "status": {**found["status"], "containerStatuses": statuses}}


def init_container(status: Object, **spec: Any) -> Object:
    found = pod(initContainerStatuses=[{"name": "setup", "restartCount": 1, **status}])
    return {**found, "spec": {"initContainers": [{"name": "setup", **spec}]}}


@pytest.mark.parametrize(
    ("unhealthy", "reason", "text"),
    [
        # The node controller withdraws Ready of a pod whose containers and gate are fine.
        (
            gated(pod(server=SERVES, gate=at("True", T1), containers=at("True", T1), ready=at("False", T2))),
            "NodeLost",
            "worker-1",
        ),
        (
            gated(pod(server=SERVES, gate=at("True", T2), containers=at("True", T1), ready=at("False", T1))),
            "GatePending",
            "the kubelet has not counted it yet",
        ),
        (
            gated(
                pod(
                    server=SERVES,
                    gate=at("True", T1),
                    containers=at("True", T1),
                    ready={**at("False", T2), "reason": "ReadinessGatesNotReady"},
                )
            ),
            "GatePending",
            "the kubelet has not counted it yet",
        ),
        (gated(pod(server=SERVES)), "GatePending", "its readiness gate is not open yet"),
        (
            gated(pod(server=SERVES, gate=at("True", T1)), "qwen-vllm.io/slo-ready", "target-health.example.org"),
            "GatePending",
            "target-health.example.org",
        ),
        (with_sidecar(pod(server=SERVES), {**SERVES, "ready": False}), "SidecarNotReady", "container proxy"),
        (with_sidecar(pod(server=SERVES), crashed(70, "port in use")), "SidecarFailed", "port in use"),
        (with_sidecar(pod(server=SERVES), crashed(137, reason="OOMKilled")), "SidecarFailed", "OOMKilled"),
        (init_container(crashed(78, "no such file")), "InitContainerFailed", "no such file"),
        (init_container(crashed(1, "no route"), restartPolicy="Always"), "SidecarFailed", "no route"),
        (init_container({"ready": False, "state": {"running": {}}}), "Starting", "init container setup is running"),
        (init_container({"ready": False, "state": {"terminated": {"exitCode": 0}}}), "Starting", "images"),
        (
            pod(server={**SERVES, "ready": False}, containers=at("False", T0)),
            "ProbePending",
            "first readiness probe",
        ),
        (pod(server={**SERVES, "ready": False}, containers=at("False", T1)), "EngineUnresponsive", "readiness probe"),
        (
            pod(scheduled={"status": "False", "message": "0/1: pod has unbound immediate PersistentVolumeClaims."}),
            "VolumeNotBound",
            "unbound",
        ),
        (
            pod(scheduled={"status": "False", "message": 'persistentvolumeclaim "weights" not found'}),
            "VolumeNotBound",
            '"weights"',
        ),
    ],
)
def test_the_reason_is_what_really_happened(unhealthy: Object, reason: str, text: str) -> None:
    found = ready(unhealthy)
    assert (found.status, found.reason) == ("False", reason)
    assert text in found.message


@pytest.mark.parametrize(
    ("log", "advice"),
    [
        ("huggingface_hub.errors.RepositoryNotFoundError: 404 Client Error: Not Found for url", "repository"),
        ("huggingface_hub.errors.RevisionNotFoundError: Invalid rev id: v2", "revision"),
        ("huggingface_hub.errors.GatedRepoError: 401 Client Error. Access to model x/y is restricted", "denies access"),
        ("requests.exceptions.HTTPError: 403 Client Error: Forbidden for url", "denies access"),
        ("OSError: [Errno 28] No space left on device", "cache.size"),
        (
            "urllib3: Max retries exceeded with url: (Caused by NameResolutionError(Failed to resolve",
            "cannot be reached",
        ),
        ("huggingface_hub.errors.LocalEntryNotFoundError: check your connection", "cannot be reached"),
        ("404 Client Error. Repository Not Found. For a private or gated repo, authenticate", "does not have it"),
        ("requests.exceptions.HTTPError: 429 Client Error: Too Many Requests for url", "limits the number"),
    ],
)
def test_the_causes_of_a_failed_download_are_told_apart(log: str, advice: str) -> None:
    found = ready(pod(server=crashed(78, log)))
    assert found.reason == "ModelDownloadFailed"
    assert advice in found.message


def test_memory_of_the_container_and_of_the_gpu_are_told_apart() -> None:
    container = ready(pod(server=crashed(137, reason="OOMKilled"))).message
    assert "resources.limits.memory" in container
    assert "gpuMemoryUtilization" not in container
    gpu = ready(pod(server=crashed(70, "torch.OutOfMemoryError: CUDA out of memory."))).message
    assert "gpuMemoryUtilization" in gpu
    assert "resources.limits.memory" not in gpu
    either = ready(pod(server=crashed(70, "RuntimeError: cannot allocate memory"))).message
    assert "gpuMemoryUtilization" in either
    assert "resources.limits.memory" in either


def test_loading_says_how_long_it_may_take() -> None:
    subject = service(rollout={"startupTimeout": "20m"})
    assert "may take until 2026-01-02T03:20:00Z" in ready(LOADING, subject=subject).message


def test_a_container_in_back_off_says_how_long() -> None:
    message = "back-off 2m40s restarting failed container=server pod=news-1_default(uid)"
    looping = {**crashed(1), "state": {"waiting": {"reason": "CrashLoopBackOff", "message": message}}}
    assert "back-off 2m40s" in ready(pod(server=looping)).message


OUT = pod(
    gate={"status": "False", "reason": "EngineUnresponsive", "message": "taken out of rotation for X (16 seconds)"},
    server={"ready": True, "started": True, "state": {"running": {}}},
)


def test_a_pod_out_of_rotation_says_what_is_next() -> None:
    outlook = {"uid-news-1": "It is restarted at 2026-01-02T03:05:00Z unless it recovers."}
    status = status_of(OUT, outlook=outlook)
    message = (
        "Pod news-1: taken out of rotation for X (16 seconds). "
        "It is restarted at 2026-01-02T03:05:00Z unless it recovers."
    )
    assert condition(status, "Ready").message == message
    assert condition(status, "Degraded").message == message
    assert "until it has recovered or was restarted" in ready(OUT).message


def test_a_container_in_back_off_says_until_when() -> None:
    message = "back-off 2m40s restarting failed container=server pod=news-1_default(uid)"
    last = {"exitCode": 1, "reason": "Error", "finishedAt": "2026-01-02T03:00:00Z"}
    state = {"waiting": {"reason": "CrashLoopBackOff", "message": message}}
    looping = {**crashed(1), "state": state, "lastState": {"terminated": last}}
    assert "back-off 2m40s until 2026-01-02T03:02:40Z" in ready(pod(server=looping)).message
    state["waiting"]["message"] = "back-off 1.5x restarting"
    assert "back-off 1.5x" in ready(pod(server=looping)).message


def test_a_missing_replacement_says_how_long_it_may_take() -> None:
    intent = {"podUID": "u", "pod": "news-7", "method": "Evict", "phase": "Waiting", "time": "2026-01-02T03:00:00Z"}
    subject = service(rollout={"startupTimeout": "20m"}, drain={"timeout": "1m"})
    memory = RemediationStatus.model_validate({"intents": [intent]})
    found = condition(status_of(READY_POD, subject=subject, remediation=memory), "Progressing")
    assert "news-7" in found.message
    assert "may take until 2026-01-02T03:21:00Z" in found.message


def test_a_child_that_is_fought_over_degrades_the_service_and_leaves_it_ready() -> None:
    error = ApplyError("Contested", "Deployment news was changed and was set back: ...", "Deployment")
    status = status_of(READY_POD, apply_errors=[error])
    assert condition(status, "Ready").status == "True"
    assert condition(status, "Degraded").reason == condition(status, "Progressing").reason == "Contested"


def test_a_pod_before_its_first_probe_is_not_degraded() -> None:
    status = status_of(pod(server={**SERVES, "ready": False}, containers=at("False", T0)))
    assert condition(status, "Degraded").status == "False"


def event(reason: str, message: str, time: str = T1, **fields: Any) -> Object:
    return {"reason": reason, "message": message, "lastTimestamp": time, **fields}


NO_SECRET = event("FailedMount", 'MountVolume.SetUp failed for volume "hf" : secret "hf" not found')


@pytest.mark.parametrize(
    ("events", "reason", "text"),
    [
        ([NO_SECRET], "ContainerConfigError", 'secret "hf" not found'),
        ([event("FailedMount", 'configmap "news-alerts" not found')], "ContainerConfigError", "news-alerts"),
        ([event("FailedMount", 'configmap "company-ca" not found')], "ContainerConfigError", "company-ca"),
        (
            [event("FailedMount", "configmap references non-existent config key: ca.pem")],
            "ContainerConfigError",
            "ca.pem",
        ),
        (
            [event("FailedMount", 'references non-existent secret key: "token"')],
            "ContainerConfigError",
            '"token"',
        ),
        ([event("FailedMount", "mount failed: exit status 32")], "VolumeNotMounted", "exit status 32"),
        ([event("FailedAttachVolume", "Multi-Attach error")], "VolumeNotMounted", "Multi-Attach"),
        ([event("FailedCreatePodSandBox", "cni plugin not initialized")], "SandboxFailed", "cni plugin"),
        ([NO_SECRET, event("Pulling", 'Pulling image "server:1"', T2)], "Starting", 'Pulling image "server:1"'),
        ([event("Pulled", "already present", T2), NO_SECRET], "Starting", "images"),
        ([event("Pulled", "already present", T0), NO_SECRET], "ContainerConfigError", '"hf"'),
        ([event("Scheduled", "assigned"), {"reason": "FailedMount", "eventTime": T1}], "VolumeNotMounted", "Mount"),
        ([], "Starting", "images and volumes"),
    ],
)
def test_events_say_why_a_pod_is_held_up(events: list[Object], reason: str, text: str) -> None:
    waiting = pod(scheduled=True, server={"state": {"waiting": {"reason": "ContainerCreating"}}})
    assert is_held_up(waiting)
    found = ready(waiting, events={"uid-news-1": events})
    assert found.reason == reason
    assert text in found.message


def test_a_pod_whose_claim_cannot_be_made_is_held_up_before_it_has_a_node() -> None:
    claimed = {**pod(), "spec": {"resourceClaims": [{"name": "gpu"}]}}
    refused = event("FailedResourceClaimCreation", 'PodResourceClaim gpu: resourceclaimtemplate "one-gpu" not found')
    assert is_held_up(claimed)
    found = diagnose(claimed, [refused])
    assert found is not None
    assert found.reason == "ResourceClaimMissing"
    assert "one-gpu" in found.detail
    assert not is_held_up(pod())
    assert not is_held_up({**pod(scheduled=False), "spec": claimed["spec"]})


def test_only_a_pod_that_has_a_node_and_no_container_is_held_up() -> None:
    assert not is_held_up(pod(scheduled=False))
    assert not is_held_up(LOADING)
    assert not is_held_up(pod(scheduled=True, server=crashed(1) | {"state": {"terminated": {"exitCode": 1}}}))
    assert is_held_up(pod(scheduled=True))


def failed(reason: str, message: str, time: str = "2026-01-02T03:03:00Z") -> Object:
    return pod("news-0", phase="Failed", reason=reason, message=message, startTime=time)


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (failed("UnexpectedAdmissionError", "Allocate failed due to no healthy devices"), "PodRejected"),
        (failed("OutOfcpu", "Node didn't have enough resource: cpu"), "PodRejected"),
        (failed("Evicted", "The node was low on resource: memory."), "Evicted"),
    ],
)
def test_a_rejected_or_evicted_pod_is_reported_until_the_next_one_runs(last: Object, reason: str) -> None:
    waiting = pod(scheduled=True)
    for pods in ([last], [last, waiting]):
        status = status_of(*pods)
        found = condition(status, "Ready")
        assert found.reason == reason
        assert last["status"]["message"] in found.message
        assert condition(status, "Degraded").reason == reason
    assert ready(last, LOADING).reason == "ModelLoading"
    assert ready(last, READY_POD).status == "True"
    assert condition(status_of(last, READY_POD), "Degraded").status == "False"


def test_a_pod_that_failed_long_ago_explains_nothing() -> None:
    old = failed("Evicted", "disk", "2026-01-01T00:00:00Z")
    assert ready(old, pod()).reason == "Starting"
    assert ready(failed("UnexpectedAdmissionError", "now"), old).reason == "PodRejected"


def test_a_crash_of_long_ago_explains_nothing() -> None:
    recovered = {**crashed(70, "old"), "started": True, "state": {"running": {}}}
    assert ready(pod(server=recovered)).reason == "EngineUnresponsive"


def test_first_failing_start_is_reported_before_the_back_off() -> None:
    running_again = {**crashed(78, "bad config"), "state": {"running": {"startedAt": "t"}}}
    assert ready(pod(server=running_again)).reason == "ModelLoadFailed"


def test_the_most_specific_problem_is_reported_in_any_order() -> None:
    unhealthy = pod("news-3", server=crashed(78, "bad config"))
    assert ready(LOADING, unhealthy).reason == ready(unhealthy, LOADING).reason == "ModelLoadFailed"


def test_loading_is_progress_and_no_degradation() -> None:
    status = status_of(LOADING, deployment=deployment(availableReplicas=0))
    assert condition(status, "Progressing").status == "True"
    assert condition(status, "Degraded").status == "False"
    assert status.reason == "ModelLoading"


def test_failed_update_keeps_ready_and_degrades() -> None:
    status = status_of(READY_POD, pod("news-2", server=crashed(78, "bad")), deployment=deployment(updatedReplicas=0))
    assert condition(status, "Ready").status == "True"
    assert condition(status, "Degraded").reason == "ModelLoadFailed"
    assert condition(status, "Progressing").status == "True"
    assert status.reason == "ModelLoadFailed"


def test_stalled_rollout_has_stopped_progressing_with_its_cause() -> None:
    status = status_of(READY_POD, pod("news-2", server=crashed(78, "bad config")), deployment=deployment(**STALLED))
    progressing = condition(status, "Progressing")
    assert (progressing.status, progressing.reason) == ("False", "RolloutStalled")
    assert "bad config" in progressing.message


def test_stalled_rollout_degrades_even_without_a_failing_pod() -> None:
    status = status_of(READY_POD, LOADING, deployment=deployment(**STALLED))
    assert condition(status, "Degraded").reason == "RolloutStalled"


def test_refused_pod_template_is_named_while_old_pods_serve() -> None:
    status = status_of(
        READY_POD, apply_errors=[ApplyError("InvalidPodTemplate", "spec.containers[1].image: Required", "Deployment")]
    )
    assert condition(status, "Ready").status == "True"
    assert condition(status, "Progressing").reason == "InvalidPodTemplate"
    assert "Required" in condition(status, "Degraded").message


def test_refused_pod_template_is_why_nothing_is_ready() -> None:
    error = ApplyError("InvalidPodTemplate", "spec.containers[1].image: Required", "Deployment")
    assert ready(deployment=None, apply_errors=[error]).reason == "InvalidPodTemplate"


TAKEN = ApplyError("NameTaken", "Service news exists and belongs to something else. Rename one of the two.", "Service")


def test_pods_behind_a_service_of_somebody_else_do_not_make_it_ready() -> None:
    status = status_of(READY_POD, selector=None, apply_errors=[TAKEN])
    found = condition(status, "Ready")
    assert (found.status, found.reason) == ("False", "NameTaken")
    assert "Service news exists" in found.message
    assert status.ready_replicas == 0
    assert status.reason == "NameTaken"
    assert condition(status, "Degraded").reason == "NameTaken"


def test_pods_of_a_deployment_of_somebody_else_do_not_make_it_ready() -> None:
    taken = ApplyError("NameTaken", "Deployment news exists and belongs to something else.", "Deployment")
    found = ready(READY_POD, deployment=None, apply_errors=[taken])
    assert (found.status, found.reason) == ("False", "NameTaken")


def test_pods_that_the_service_does_not_select_are_not_counted() -> None:
    other = copy.deepcopy(READY_POD)
    other["metadata"]["labels"]["app.kubernetes.io/name"] = "debugging"
    assert status_of(READY_POD, other).ready_replicas == 1
    found = ready(other)
    assert (found.status, found.reason) == ("False", "NotSelected")
    assert "news-1" in found.message


def test_an_error_of_a_child_that_serves_nobody_leaves_the_reason_of_the_pods() -> None:
    error = ApplyError("ApplyFailed", "NetworkPolicy news: forbidden", "NetworkPolicy")
    status = status_of(LOADING, apply_errors=[error])
    assert condition(status, "Ready").reason == "ModelLoading"
    assert condition(status, "Degraded").message == "NetworkPolicy news: forbidden"


def test_all_children_that_could_not_be_applied_are_named_the_service_first() -> None:
    budget = ApplyError("ApplyFailed", "PodDisruptionBudget news: refused.", "PodDisruptionBudget")
    found = condition(status_of(READY_POD, apply_errors=[budget, TAKEN]), "Degraded")
    assert found.reason == "NameTaken"
    assert "Service news exists" in found.message
    assert "PodDisruptionBudget news" in found.message


def test_pods_that_may_not_be_created_are_reported() -> None:
    refused = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"}
    status = status_of(deployment=deployment(availableReplicas=0, conditions=[refused]))
    assert condition(status, "Ready").reason == "PodsRefused"
    assert "exceeded quota" in condition(status, "Degraded").message


def test_scaled_to_zero_is_not_ready_and_not_degraded() -> None:
    status = status_of(replicas=0)
    assert condition(status, "Ready").reason == "ScaledToZero"
    assert condition(status, "Degraded").status == "False"


def test_pods_that_are_being_deleted_do_not_count() -> None:
    leaving = pod("news-9", ready=True)
    leaving["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:05Z"
    evicted = pod("news-8", ready=False, phase="Failed")
    status = status_of(leaving, evicted)
    assert (status.replicas, status.ready_replicas) == (0, 0)
    assert condition(status, "Ready").reason == "Starting"


def test_available_waits_for_min_ready_seconds() -> None:
    waiting = deployment(availableReplicas=0, conditions=[{"type": "Available", "status": "False"}])
    status = status_of(READY_POD, deployment=waiting)
    assert condition(status, "Ready").status == "True"
    assert condition(status, "Available").status == "False"
    assert condition(status, "Progressing").status == "True"


def test_warnings_have_a_condition_of_their_own() -> None:
    warnings = [PlanWarning("RolloutMeansDowntime", "one replica."), PlanWarning("GPUsIdle", "two of four.")]
    status = status_of(READY_POD, warnings=warnings)
    found = condition(status, "HasWarnings")
    assert (found.status, found.reason) == ("True", "RolloutMeansDowntime")
    assert "GPUsIdle: two of four." in found.message
    assert condition(status, "Degraded").status == "False"


def test_pending_update_is_seen_where_one_looks_for_rollouts() -> None:
    status = status_of(READY_POD, warnings=[PlanWarning("UpdatePending", "operator 2 would change the pods")])
    assert condition(status, "Progressing").reason == "UpdatePending"


def test_suspended_remediation_degrades() -> None:
    status = status_of(READY_POD, suspended=Suspension("BudgetExhausted", "3 restarts in 1h"))
    assert condition(status, "RemediationSuspended").status == "True"
    assert condition(status, "Degraded").reason == "BudgetExhausted"
    assert condition(status, "Ready").status == "True"


def test_missing_replacement_is_progress() -> None:
    intent = {"podUID": "u", "pod": "news-7", "method": "Evict", "phase": "Waiting", "time": "2026-01-02T03:00:00Z"}
    memory = RemediationStatus.model_validate({"intents": [intent]})
    status = status_of(READY_POD, remediation=memory)
    assert condition(status, "Progressing").reason == "ReplacementPending"
    assert status.remediation == memory


def test_what_remediation_remembers_is_kept() -> None:
    subject = service(status={"remediation": {"restartsInWindow": 2}})
    assert status_of(READY_POD, subject=subject).remediation.restarts_in_window == 2


def test_transition_time_stays_while_the_status_stays() -> None:
    before = status_of(READY_POD)
    subject = service(status=before.to_dict())
    later = evaluate(subject, Observed(deployment(), [LOADING], selector_labels("news")), NOW + timedelta(hours=1))
    assert condition(later, "Degraded").last_transition_time == NOW
    assert condition(later, "Ready").last_transition_time == NOW + timedelta(hours=1)


def test_an_unchanged_world_gives_an_unchanged_status() -> None:
    before = status_of(LOADING).to_dict()
    again = evaluate(
        service(status=before), Observed(deployment(), [LOADING], selector_labels("news")), NOW + timedelta(minutes=7)
    )
    assert again.to_dict() == before


def test_long_messages_keep_their_beginning_and_their_end() -> None:
    noise = "\n".join(f"line {number} " + "x" * 200 for number in range(50))
    found = ready(pod(server=crashed(78, noise + "\nValueError: the cause")))
    assert len(found.message) <= 1024
    assert "the cause" in found.message
    assert "exited with code 78" in found.message


def test_only_the_last_lines_of_the_log_are_kept() -> None:
    found = ready(pod(server=crashed(78, "\n".join(f"line {number}" for number in range(30)))))
    assert "line 29" in found.message
    assert "line 3\n" not in found.message


def test_pods_without_the_port_of_the_service_get_no_requests() -> None:
    renamed = copy.deepcopy(READY_POD)
    renamed["spec"] = {"containers": [{"name": "server", "ports": [{"containerPort": 8000, "name": "api"}]}]}
    found = ready(renamed, port="http")
    assert (found.status, found.reason) == ("False", "PortMissing")
    assert "news-1 has the port http" in found.message
    renamed["spec"]["containers"].append({"name": "proxy", "ports": [{"containerPort": 8000, "name": "http"}]})
    assert ready(renamed, port="http").status == "True"
    sidecar = {"name": "proxy", "restartPolicy": "Always", "ports": [{"containerPort": 8000, "name": "http"}]}
    renamed["spec"] = {"containers": [{"name": "server"}], "initContainers": [sidecar]}
    assert ready(renamed, port="http").status == "True"

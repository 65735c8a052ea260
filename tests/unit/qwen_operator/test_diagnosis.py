"""Why a pod is not ready, by the status of the pod: the reason, its message, and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.qwen_operator.objects import Object, crashed, pod, service
from tests.unit.qwen_operator.statuses import LOADING, SERVES, T0, T1, T2, at, condition, ready, status_of


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
        (
            pod(server=crashed(78, "the model cannot be served: it does not fit: it needs 15.3 GiB of weights")),
            "ModelTooLarge",
            "engine.maxModelLen or engine.tensorParallelSize",
        ),
        (
            pod(
                server=crashed(
                    78,
                    "To serve at least one request with the models's max seq len (40960), 5.62 GiB KV cache is needed, "
                    "which is larger than the available KV cache memory (3.1 GiB).",
                )
            ),
            "ModelTooLarge",
            "5.62 GiB",
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


def test_a_gate_that_somebody_closed_by_hand_says_so() -> None:
    closed = pod(gate={"status": "False"}, server=SERVES)
    assert ready(closed).reason == "OutOfRotation"
    closed = pod(gate={"status": "False", "reason": "Maintenance", "message": "a disk is replaced"}, server=SERVES)
    assert (ready(closed).reason, "a disk is replaced" in ready(closed).message) == ("Maintenance", True)


def test_an_image_that_is_missing_is_that_of_a_container() -> None:
    waiting = {"state": {"waiting": {"reason": "ErrImagePull", "message": "proxy:typo"}}}
    own, other = (ready(pod(containerStatuses=[{"name": name, **waiting}])).message for name in ("server", "proxy"))
    assert "container server: ErrImagePull: proxy:typo. Check engine.image," in own
    assert "container proxy: ErrImagePull: proxy:typo. Check the image of this container in podTemplate," in other


def test_a_container_in_back_off_says_until_when() -> None:
    message = "back-off 2m40s restarting failed container=server pod=news-1_default(uid)"
    last = {"exitCode": 1, "reason": "Error", "finishedAt": "2026-01-02T03:00:00Z"}
    state = {"waiting": {"reason": "CrashLoopBackOff", "message": message}}
    looping = {**crashed(1), "state": state, "lastState": {"terminated": last}}
    assert "back-off 2m40s until 2026-01-02T03:02:40Z" in ready(pod(server=looping)).message
    state["waiting"]["message"] = "back-off 1.5x restarting"
    assert "back-off 1.5x" in ready(pod(server=looping)).message


def test_a_crash_of_long_ago_explains_nothing() -> None:
    recovered = {**crashed(70, "old"), "started": True, "state": {"running": {}}}
    assert ready(pod(server=recovered)).reason == "EngineUnresponsive"


def test_first_failing_start_is_reported_before_the_back_off() -> None:
    running_again = {**crashed(78, "bad config"), "state": {"running": {"startedAt": "t"}}}
    assert ready(pod(server=running_again)).reason == "ModelLoadFailed"


def test_the_most_specific_problem_is_reported_in_any_order() -> None:
    unhealthy = pod("news-3", server=crashed(78, "bad config"))
    assert ready(LOADING, unhealthy).reason == ready(unhealthy, LOADING).reason == "ModelLoadFailed"


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

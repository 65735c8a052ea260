"""The Job that downloads the model into the cache, once, before any pod needs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from qwen_operator.api import QwenService
from qwen_operator.api.names import CONTAINER, DOWNLOAD_LABEL, PORT, PORT_NAME, label_value, selector_labels
from qwen_operator.api.objects import Object
from qwen_operator.planning.builders.common import child, stable_hash

RETRY_SECONDS: Final = 600
"""A Job is kept for so long after its end. Then one that has failed is made again."""

# The exit code of the server's image for what waiting does not help with.
_PERMANENT: Final = 78
_RETRIES: Final = 3
_EXIT_SECONDS: Final = 10
# It moves bytes and compares checksums.
_RESOURCES: Final[Object] = {
    "requests": {"cpu": "250m", "memory": "512Mi"},
    "limits": {"cpu": "4", "memory": "4Gi"},
}
_OF_THE_CONTAINER: Final = ("name", "image", "imagePullPolicy", "command", "envFrom", "securityContext")
# What a pod has only because it serves, or uses a GPU.
_NOT_OF_THE_POD: Final = {
    "containers", "volumes", "initContainers", "ephemeralContainers", "readinessGates", "topologySpreadConstraints",
    "schedulingGates", "resourceClaims", "resources", "hostname", "subdomain", "activeDeadlineSeconds",
}  # fmt: skip
_NOT_MOUNTED: Final = {"alerts", "podinfo", "api-keys", "admin-api-keys", "chat-template", "metrics-tokens", "shm"}
_GPUS: Final = "NVIDIA_VISIBLE_DEVICES"
# An offline server is meant to read the cache, and somebody has to fill it. Where NVIDIA's runtime
# is the default, an image built on CUDA sees all GPUs unless the Job sets the variable itself.
_NOT_IN_ENV: Final = {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", _GPUS}
# Labels of nodes with GPUs: NVIDIA's operator, GKE, Karpenter, AKS.
_GPU_NODES: Final = (
    "nvidia.com/gpu.present",
    "cloud.google.com/gke-accelerator",
    "karpenter.k8s.aws/instance-gpu-name",
    "kubernetes.azure.com/accelerator",
)
_WHERE: Final = {"VLLM_USE_MODELSCOPE", "HF_HOME", "HF_HUB_CACHE", "MODELSCOPE_CACHE"}


def build_download_job(service: QwenService, template: Object) -> Object:
    """The Job for the model of a pod template.

    A Job cannot be changed, so its name has a hash of its spec.
    """
    pod: Object = template["spec"]
    serving = selector_labels(service.name)
    common = {key: value for key, value in template["metadata"]["labels"].items() if key not in serving}
    labels = {**common, "app.kubernetes.io/name": "qwen-download", DOWNLOAD_LABEL: label_value(service.name)}
    annotations = template["metadata"].get("annotations")
    spec: Object = {
        "backoffLimit": _RETRIES,
        "ttlSecondsAfterFinished": RETRY_SECONDS,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [_PERMANENT]},
                },
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]
        },
        "template": {
            "metadata": {"labels": labels, **({"annotations": annotations} if annotations else {})},
            "spec": _pod_spec(service, pod),
        },
    }
    return child(service, "batch/v1", "Job", suffix=f"download-{stable_hash(spec)[:8]}", spec=spec)


def what_it_loads(template: Mapping[str, Any]) -> Sequence[str]:
    """The model that a pod template loads, where from, and the claim that it is kept on."""
    server = _server(template["spec"])
    variables = [f"{item['name']}={item.get('value')}" for item in server.get("env") or () if item["name"] in _WHERE]
    volumes = template["spec"].get("volumes") or ()
    caches = [item.get("persistentVolumeClaim") or {} for item in volumes if item["name"] == "cache"]
    return [*_model_flags(server), *sorted(variables), *(claim.get("claimName", "") for claim in caches)]


def _pod_spec(service: QwenService, pod: Object) -> Object:
    container = _container(_server(pod))
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    return {
        **{key: value for key, value in pod.items() if key not in _NOT_OF_THE_POD},
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _EXIT_SECONDS,
        "affinity": _affinity(service, pod.get("affinity") or {}),
        "containers": [container],
        "volumes": [volume for volume in pod.get("volumes") or () if volume["name"] in mounted],
    }


def _container(server: Object) -> Object:
    variables = [item for item in server.get("env") or () if item["name"] not in _NOT_IN_ENV]
    return {
        **{key: server[key] for key in _OF_THE_CONTAINER if key in server},
        "args": ["download", *_model_flags(server)],
        "env": [*variables, {"name": _GPUS, "value": "void"}],
        "ports": [{"name": PORT_NAME, "containerPort": PORT, "protocol": "TCP"}],
        "resources": _RESOURCES,
        "volumeMounts": [mount for mount in server.get("volumeMounts") or () if mount["name"] not in _NOT_MOUNTED],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _affinity(service: QwenService, given: Mapping[str, Any]) -> Object:
    """The affinity of the pods, and preferences because of the claim.

    One that only one node can mount is mounted where the pods run. A new one is often bound to the
    node or zone of its first pod, and has to be where GPUs are.
    """
    near = {"labelSelector": {"matchLabels": selector_labels(service.name)}, "topologyKey": "kubernetes.io/hostname"}
    gpus = [
        {"weight": 50, "preference": {"matchExpressions": [{"key": key, "operator": "Exists"}]}}
        for key in (_GPU_NODES if service.spec.gpu_count else ())
    ]
    nodes = _preferring(given.get("nodeAffinity"), gpus)
    pods = _preferring(given.get("podAffinity"), [{"weight": 100, "podAffinityTerm": near}])
    return {**given, **({"nodeAffinity": nodes} if nodes else {}), "podAffinity": pods}


def _preferring(given: Mapping[str, Any] | None, terms: Sequence[Object]) -> Object:
    """An affinity with further preferences."""
    field = "preferredDuringSchedulingIgnoredDuringExecution"
    return {**(given or {}), **({field: [*((given or {}).get(field) or ()), *terms]} if terms else {})}


def _server(pod: Mapping[str, Any]) -> Object:
    return next((item for item in pod["containers"] if item["name"] == CONTAINER), {})


def _model_flags(server: Mapping[str, Any]) -> list[str]:
    return [flag for flag in server.get("args") or () if flag.startswith(("--model=", "--revision="))]

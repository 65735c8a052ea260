"""The pod template."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from qwen_operator.api import QwenServiceSpec
from qwen_operator.api.gpu import GpuClaim
from qwen_operator.api.names import (
    CONTAINER,
    PORT,
    PORT_NAME,
    READINESS_GATE,
    child_labels,
    child_name,
    selector_labels,
)
from qwen_operator.api.objects import Object
from qwen_operator.api.operations import ProbeSpec
from qwen_operator.planning.builders.adapters import adapter_environment
from qwen_operator.planning.builders.arguments import (
    ADMIN_KEYS_FOLDER,
    ALERTS_FOLDER,
    API_KEYS_FOLDER,
    PODINFO_FOLDER,
    cpu_threads,
    server_arguments,
)
from qwen_operator.planning.builders.merge import merge
from qwen_operator.planning.builders.metricstokens import token_mounts, token_volumes
from qwen_operator.planning.builders.source import CACHE_PATH, resolve_source
from qwen_operator.planning.builders.template import template_mounts, template_volumes
from qwen_operator.planning.builders.trust import trust_environment, trust_mounts, trust_volumes

USER: Final = 65532
# A terminating pod gets new connections until its endpoint is removed everywhere. It still answers.
ENDPOINT_SECONDS: Final = 5
EXIT_SECONDS: Final = 25
# A pod that is up waits for its next startup probe. One each second would use up the 25 Events that
# the kubelet writes for a pod before it drops most. A timeout above the period would stretch the
# time to start, if a server accepts connections and answers nothing.
_PROBES: Final[dict[str, Object]] = {
    "startup": {"path": "/health/ready", "periodSeconds": 2, "timeoutSeconds": 2},
    "readiness": {"path": "/health/ready", "periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 3},
    "liveness": {
        "path": "/health/live",
        "periodSeconds": 10,
        "timeoutSeconds": 10,
        "failureThreshold": 6,
        # There is nothing to drain: a process that is stopped or hung would only use up the time.
        "terminationGracePeriodSeconds": EXIT_SECONDS,
    },
}


def pod_template(name: str, spec: QwenServiceSpec, image: str, pull_secrets: Sequence[str] = ()) -> Object:
    """The template of a service's pods, with `podTemplate` merged in.

    Selector labels always win. `pull_secrets` are for services that name none.
    """
    extra, common = spec.pod_template, spec.metadata
    metadata: Object = {"labels": {**common.labels, **extra.metadata.labels, **child_labels(name)}}
    annotations = {**common.annotations, **extra.metadata.annotations}
    if annotations:
        metadata["annotations"] = annotations
    return {"metadata": metadata, "spec": merge(_pod_spec(name, spec, image, pull_secrets), extra.spec)}


def _pod_spec(name: str, spec: QwenServiceSpec, image: str, pull_secrets: Sequence[str]) -> Object:
    pod: Object = {
        "automountServiceAccountToken": False,
        # A Service called `qwen` would otherwise set QWEN_PORT in the server's environment.
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": termination_seconds(spec),
        "containers": [_container(spec, image)],
        "volumes": _volumes(name, spec),
        **_scheduling(name, spec),
    }
    if spec.remediation.readiness_gate == "Enabled":
        pod["readinessGates"] = [{"conditionType": READINESS_GATE}]
    secrets = [secret.to_dict() for secret in spec.engine.image_pull_secrets]
    if secrets or pull_secrets:
        pod["imagePullSecrets"] = secrets or [{"name": name} for name in pull_secrets]
    if spec.gpu.resource_claims:
        fields = ("name", "resourceClaimName", "resourceClaimTemplateName")
        pod["resourceClaims"] = [_claim(claim, *fields) for claim in spec.gpu.resource_claims]
    return pod


def termination_seconds(spec: QwenServiceSpec) -> int:
    """The grace period: endpoints are removed, requests finish, processes exit."""
    return ENDPOINT_SECONDS + math.ceil(spec.drain.timeout.total_seconds()) + EXIT_SECONDS


def _container(spec: QwenServiceSpec, image: str) -> Object:
    return {
        "name": CONTAINER,
        "image": image,
        "imagePullPolicy": spec.engine.image_pull_policy,
        "args": server_arguments(spec),
        "env": _environment(spec),
        "ports": [{"name": PORT_NAME, "containerPort": PORT, "protocol": "TCP"}],
        "resources": _resources(spec),
        "startupProbe": _probe("startup", spec.probes.startup, spec.rollout.startup_timeout.total_seconds()),
        "readinessProbe": _probe("readiness", spec.probes.readiness),
        "livenessProbe": _probe("liveness", spec.probes.liveness),
        "lifecycle": {"preStop": {"sleep": {"seconds": ENDPOINT_SECONDS}}},
        "volumeMounts": _mounts(spec),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def _probe(kind: str, overrides: ProbeSpec, budget_seconds: float = 0) -> Object:
    """A probe with the service's overrides. The startup probe fails after `budget_seconds`."""
    numbers = {**_PROBES[kind], **overrides.to_dict()}
    path = numbers.pop("path")
    if "failureThreshold" not in numbers:
        numbers["failureThreshold"] = max(1, math.ceil(budget_seconds / numbers["periodSeconds"]))
    return {"httpGet": {"path": path, "port": PORT_NAME}, **numbers}


def _resources(spec: QwenServiceSpec) -> Object:
    requests, limits = dict(spec.resources.requests), dict(spec.resources.limits)
    claims = [_claim(claim, "name", "request") for claim in spec.gpu.resource_claims]
    if spec.gpu_count and not claims:
        requests[spec.gpu.resource_name] = limits[spec.gpu.resource_name] = str(spec.gpu_count)
    parts = (("requests", requests), ("limits", limits), ("claims", claims))
    return {key: value for key, value in parts if value}


def _claim(claim: GpuClaim, *fields: str) -> Object:
    """These fields of a claim, as far as they are set."""
    return {field: value for field, value in claim.to_dict().items() if field in fields}


def _environment(spec: QwenServiceSpec) -> list[Object]:
    environment: list[Object] = [
        {"name": "HOME", "value": "/tmp"},  # noqa: S108 - the only writable folder of the container
        # The name of a user that is not in /etc/passwd, as on OpenShift: libraries ask for one.
        {"name": "LOGNAME", "value": "qwen"},
        {"name": "USER", "value": "qwen"},
        {"name": "VLLM_NO_USAGE_STATS", "value": "1"},
    ]
    if spec.engine.device == "cpu":
        # vLLM would bind its threads to core 0, for which two pods on one node would compete.
        environment += [
            {"name": "OMP_NUM_THREADS", "value": str(cpu_threads(spec))},
            {"name": "VLLM_CPU_OMP_THREADS_BIND", "value": "nobind"},
        ]
    elif spec.cache is not None:
        # vLLM keeps compiled kernels there.
        environment.append({"name": "VLLM_CACHE_ROOT", "value": f"{CACHE_PATH}/vllm"})

    environment += trust_environment(spec)
    # By name: the source of the model comes after the adapters', and the user's variables win.
    merged: Object = {"env": [*environment, *adapter_environment(spec)]}
    for later in (resolve_source(spec).env, [item.to_dict() for item in spec.engine.env]):
        merged = merge(merged, {"env": later})
    return list(merged["env"])


def _volumes(name: str, spec: QwenServiceSpec) -> list[Object]:
    annotations = {"path": "annotations", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.annotations"}}
    volumes: list[Object] = [
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
        {"name": "alerts", "configMap": {"name": child_name(name, "alerts")}},
        {"name": "podinfo", "downwardAPI": {"items": [annotations]}},
    ]
    if spec.auth.api_key_secret_ref:
        volumes.append({"name": "api-keys", "secret": {"secretName": spec.auth.api_key_secret_ref.name}})
    if spec.auth.admin_key_secret_ref:
        volumes.append({"name": "admin-api-keys", "secret": {"secretName": spec.auth.admin_key_secret_ref.name}})
    if spec.cache is not None:
        claim = spec.cache.existing_claim or child_name(name, "cache")
        volumes.append({"name": "cache", "persistentVolumeClaim": {"claimName": claim}})
    tokens, trust, template = token_volumes(name, spec), trust_volumes(spec), template_volumes(spec)
    return [*volumes, *tokens, *trust, *template, *resolve_source(spec).volumes]


def _mounts(spec: QwenServiceSpec) -> list[Object]:
    mounts: list[Object] = [
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the pod's own emptyDir
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - likewise, in memory
        {"name": "alerts", "mountPath": ALERTS_FOLDER, "readOnly": True},
        {"name": "podinfo", "mountPath": PODINFO_FOLDER, "readOnly": True},
    ]
    if spec.auth.api_key_secret_ref:
        mounts.append({"name": "api-keys", "mountPath": API_KEYS_FOLDER, "readOnly": True})
    if spec.auth.admin_key_secret_ref:
        mounts.append({"name": "admin-api-keys", "mountPath": ADMIN_KEYS_FOLDER, "readOnly": True})
    if spec.cache is not None:
        mounts.append({"name": "cache", "mountPath": CACHE_PATH})
    return [*mounts, *token_mounts(spec), *trust_mounts(spec), *template_mounts(spec), *resolve_source(spec).mounts]


def _scheduling(name: str, spec: QwenServiceSpec) -> Object:
    given = spec.scheduling.to_dict()
    tolerations = given["tolerations"]
    if spec.gpu_count:
        # Nodes with GPUs usually have a taint with the name of the resource.
        tolerations = [
            {"key": spec.gpu.resource_name, "operator": "Exists", "effect": "NoSchedule"},
            *tolerations,
        ]
    scheduling = {**given, "tolerations": tolerations, "topologySpreadConstraints": _spread(name, spec)}
    return {key: value for key, value in scheduling.items() if value}


def _spread(name: str, spec: QwenServiceSpec) -> list[Object]:
    pods = {"matchLabels": selector_labels(name)}
    given = [constraint.to_dict() for constraint in spec.scheduling.topology_spread_constraints]
    if given:
        return [{"labelSelector": pods, **constraint} for constraint in given]
    return [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": pods,
            "matchLabelKeys": ["pod-template-hash"],  # do not count the old pods of a rollout
        }
        for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
    ]

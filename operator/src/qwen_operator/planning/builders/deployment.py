"""The Deployment that runs the replicas."""

from __future__ import annotations

import base64
import binascii
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from qwen_operator.api import QwenService, QwenServiceSpec
from qwen_operator.api.bounds import excess
from qwen_operator.api.names import (
    APPLIED_TEMPLATE_ANNOTATION,
    OPERATOR_VERSION_ANNOTATION,
    SPEC_HASH_ANNOTATION,
    TEMPLATE_HASH_ANNOTATION,
    selector_labels,
)
from qwen_operator.api.objects import Object
from qwen_operator.planning.builders.common import child, stable_hash
from qwen_operator.planning.builders.pod import pod_template

# The sections of the spec that affect pods. The others (replicas, alerts, ...) never restart a pod.
_POD_SECTIONS: Final = {
    "model", "engine", "gpu", "resources", "limits", "auth", "scheduling", "cache", "probes", "drain", "metadata",
    "pod_template",
}  # fmt: skip
_MAX_TEMPLATE: Final = 2 * 1024 * 1024
"""Bytes of the text of a pod template. No object of the API is larger."""
_IntOrPercent = int | str


def build_deployment(
    service: QwenService, image: str, operator_version: str, pull_secrets: Sequence[str] = ()
) -> Object:
    """The Deployment. Its annotations record what its pod template was built from."""
    spec = service.spec
    template = pod_template(service.name, spec, image, pull_secrets)
    surge, unavailable = rollout_numbers(spec)
    return child(
        service,
        "apps/v1",
        "Deployment",
        annotations={
            TEMPLATE_HASH_ANNOTATION: stable_hash(template),
            SPEC_HASH_ANNOTATION: spec_hash(spec),
            OPERATOR_VERSION_ANNOTATION: operator_version,
            APPLIED_TEMPLATE_ANNOTATION: pack(template),
        },
        spec={
            "replicas": spec.replicas,
            "selector": {"matchLabels": selector_labels(service.name)},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable},
            },
            "minReadySeconds": spec.rollout.min_ready_seconds,
            "progressDeadlineSeconds": progress_deadline(spec),
            "template": template,
        },
    )


def keep_template(desired: Object, live: Mapping[str, Any]) -> Object:
    """The desired Deployment with the pod template that was applied last, and the annotations that
    describe it.

    The live template may contain what others changed, so it is used only where none was recorded.
    """

    recorded = live["metadata"].get("annotations") or {}
    names = (TEMPLATE_HASH_ANNOTATION, SPEC_HASH_ANNOTATION, OPERATOR_VERSION_ANNOTATION)
    annotations = {**desired["metadata"]["annotations"], **{name: recorded[name] for name in names if name in recorded}}
    template = unpack(recorded.get(APPLIED_TEMPLATE_ANNOTATION, "")) or _live_template(live)
    return {
        **desired,
        "metadata": {
            **desired["metadata"],
            "annotations": {**annotations, APPLIED_TEMPLATE_ANNOTATION: pack(template)},
        },
        "spec": {**desired["spec"], "template": template},
    }


def pack(template: Object) -> str:
    """A pod template as the value of an annotation: compressed JSON."""
    text = json.dumps(template, sort_keys=True, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def unpack(value: str) -> Object | None:
    """The pod template in the value of an annotation; None if it cannot be read.

    Whoever may write the Deployment may write the annotation. Its text may be of any size, nested
    to any depth, and hold what is no text.
    """
    try:
        inflate = zlib.decompressobj()
        text = inflate.decompress(base64.b64decode(value, validate=True), _MAX_TEMPLATE)
        if not inflate.eof:
            return None
        template = json.loads(text)
        if excess(template) is not None:
            return None
        json.dumps(template, ensure_ascii=False).encode()
    except (binascii.Error, zlib.error, ValueError, RecursionError):
        return None
    return template if isinstance(template, dict) and isinstance(template.get("spec"), dict) else None


def _live_template(live: Mapping[str, Any]) -> Object:
    template = dict(live["spec"]["template"])
    template["metadata"] = {key: value for key, value in template["metadata"].items() if key != "creationTimestamp"}
    return template


def only_operator_changed(desired: Object, live: Mapping[str, Any]) -> bool:
    """Whether only the operator's version or its default images would change the pod template."""

    recorded = live["metadata"].get("annotations") or {}
    wanted = desired["metadata"]["annotations"]
    return bool(
        recorded.get(TEMPLATE_HASH_ANNOTATION)
        and changes_pods(desired, live)
        and recorded.get(SPEC_HASH_ANNOTATION) == wanted[SPEC_HASH_ANNOTATION]
    )


def changes_pods(desired: Object, live: Mapping[str, Any]) -> bool:
    """Whether the pod template differs from the one that was applied last."""
    recorded = live["metadata"].get("annotations") or {}
    return bool(recorded.get(TEMPLATE_HASH_ANNOTATION) != desired["metadata"]["annotations"][TEMPLATE_HASH_ANNOTATION])


def would_lose_young_pods(spec: QwenServiceSpec, live: Mapping[str, Any]) -> bool:
    """Whether one more change of the pods would delete pods that answer and are still needed.

    Kubernetes first replaces pods that do not count as available, also those that have been ready
    for less than minReadySeconds. While a rollout has not ended, a further one deletes such a pod
    at once, whatever maxUnavailable says, because its own pods are not there yet.
    """
    status = live.get("status") or {}
    ready, available = status.get("readyReplicas", 0), status.get("availableReplicas", 0)
    under_way = status.get("updatedReplicas", 0) < status.get("replicas", 0)
    replicas = live["spec"].get("replicas", 1)
    return bool(under_way and ready > available and available < replicas - _most_unavailable(spec, replicas))


def rolled_out(live: Mapping[str, Any]) -> bool:
    """Whether the pods of the current template have all been available once."""
    conditions = (live.get("status") or {}).get("conditions") or ()
    return any(item["type"] == "Progressing" and item.get("reason") == "NewReplicaSetAvailable" for item in conditions)


def spec_hash(spec: QwenServiceSpec) -> str:
    """A hash of what the spec says about pods.

    A new field with its default value does not change it.
    """
    written = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, include=_POD_SECTIONS)
    # Which adapters there are does not matter to the pods, only how much room there is for them.
    room = spec.lora_room
    if room is not None:
        written["lora"] = room.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    # A time that follows from the model is a default, too.
    given = "startup_timeout" in spec.rollout.model_fields_set
    return stable_hash(
        {
            **written,
            "startupTimeout": spec.rollout.startup_timeout.total_seconds() if given else None,
            "readinessGate": spec.remediation.readiness_gate,
        }
    )


def rollout_numbers(spec: QwenServiceSpec) -> tuple[_IntOrPercent, _IntOrPercent]:
    """(maxSurge, maxUnavailable). On GPUs a pod is deleted before its successor is created, because
    usually there is no spare GPU.
    """
    surge = spec.rollout.max_surge
    unavailable = spec.rollout.max_unavailable
    if surge is None:
        surge = 0 if spec.gpu_count and unavailable not in (0, "0%") else 1
    if unavailable is None:
        unavailable = 1 if surge in (0, "0%") else 0
    return surge, unavailable


def rollout_means_downtime(spec: QwenServiceSpec) -> bool:
    """Whether all replicas may be unavailable at once during a rollout."""
    if spec.replicas == 0:
        return False
    return _most_unavailable(spec, spec.replicas) >= spec.replicas


def _most_unavailable(spec: QwenServiceSpec, replicas: int) -> int:
    surge, unavailable = rollout_numbers(spec)
    gone = _scaled(unavailable, replicas, math.floor)
    # As Kubernetes does if both are 0.
    return 1 if gone == 0 and _scaled(surge, replicas, math.ceil) == 0 else gone


def _scaled(value: _IntOrPercent, replicas: int, rounding: Any) -> int:
    return value if isinstance(value, int) else int(rounding(int(value[:-1]) * replicas / 100))


def progress_deadline(spec: QwenServiceSpec) -> int:
    """Seconds after which a rollout without progress counts as stalled."""
    return math.ceil(
        spec.rollout.startup_timeout.total_seconds()
        + spec.rollout.min_ready_seconds
        + spec.drain.timeout.total_seconds()
    )

"""What is kept of an object of the API. Pure.

Whoever may create a pod, a Service or a PodDisruptionBudget may give it our labels and fill it up:
with annotations, with fields, and with the records of who set them, which are larger than what they
record. The cache keeps what this operator reads. Whatever else is to be read of a cached object
must be kept here first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from qwen_operator.api.metadata import RESERVED_LABELS, RESERVED_PREFIX
from qwen_operator.api.names import DOWNLOAD_LABEL, FIELD_MANAGER, JOB_NAME_LABEL, SERVED_NAME_FLAG
from qwen_operator.api.objects import Object
from qwen_operator.kube.resources import (
    CONFIG_MAPS,
    HTTP_ROUTES,
    JOBS,
    NETWORK_POLICIES,
    PODS,
    PROMETHEUS_RULES,
    QWEN_SERVICES,
    SERVICE_MONITORS,
    Resource,
)
from qwen_operator.kube.sharing import shared, shared_fields

MAX_LABELS: Final = 64
MAX_ANNOTATIONS: Final = 64
MAX_CONTAINERS: Final = 100
MAX_ARGUMENT: Final = 512
MAX_RECORDS: Final = 20
MAX_OWN_FIELDS: Final = 20_000
"""Fields of a record of who set them. The largest spec makes so many."""
MAX_OTHER_FIELDS: Final = 2_000

_UNRECORDED: Final = (PODS, QWEN_SERVICES)
_OUR_LABELS: Final = (*RESERVED_LABELS, DOWNLOAD_LABEL, JOB_NAME_LABEL)
_CONTENT: Final = ("data", "binaryData", "spec", "status")
# Of these we read who set their fields, and not what they are.
_WITHOUT_CONTENT: Final = (CONFIG_MAPS, NETWORK_POLICIES, HTTP_ROUTES, SERVICE_MONITORS, PROMETHEUS_RULES)
_POD_SPEC: Final = (
    "nodeName", "readinessGates", "resourceClaims", "restartPolicy", "terminationGracePeriodSeconds",
)  # fmt: skip
_CONTAINER: Final = ("name", "image", "ports", "restartPolicy", "resources")
_PROBE: Final = (
    "initialDelaySeconds", "periodSeconds", "timeoutSeconds", "failureThreshold", "terminationGracePeriodSeconds",
)  # fmt: skip
_STATUSES: Final = ("containerStatuses", "initContainerStatuses", "conditions")


def keeper(resource: Resource) -> Callable[[Object], Object]:
    """The function that returns what is kept of an object of a kind."""

    def keep(obj: Object) -> Object:
        kept: Object = shared(few(obj))
        return kept

    def few(obj: Object) -> Object:
        reduced = {**obj, "metadata": _metadata(resource, obj["metadata"])}
        if resource is PODS:
            return _pod(reduced)
        if resource in _WITHOUT_CONTENT:
            return {name: value for name, value in reduced.items() if name not in _CONTENT}
        if resource is JOBS:  # whose spec never changes, and has a pod template
            return {name: value for name, value in reduced.items() if name != "spec"}
        return reduced

    return keep


def _metadata(resource: Resource, metadata: Object) -> Object:
    kept = {name: value for name, value in metadata.items() if name != "managedFields"}
    if annotations := metadata.get("annotations"):
        kept["annotations"] = _some(annotations, _is_ours, MAX_ANNOTATIONS)
    if len(metadata.get("labels") or ()) > MAX_LABELS:
        ours = {name: value for name, value in metadata["labels"].items() if name in _OUR_LABELS}
        kept["labels"] = _some(metadata["labels"], _any, MAX_LABELS) | ours
    if resource not in _UNRECORDED and (records := _records(metadata.get("managedFields") or ())):
        kept["managedFields"] = records
    return kept


def _is_ours(name: str) -> bool:
    return name.startswith(RESERVED_PREFIX)


def _any(_: str) -> bool:
    return True


def _some(texts: Mapping[str, str], wanted: Callable[[str], bool], most: int) -> dict[str, str]:
    return dict(islice(((name, text) for name, text in texts.items() if wanted(name)), most))


def _records(records: Sequence[Object]) -> list[Object]:
    """The records of an object that we have applied, for the comparison with what we would apply.

    Those of others say who has changed it. Controllers record the status, which is not ours.
    """
    if not any(record.get("manager") == FIELD_MANAGER for record in records):
        return []
    found = (record for record in records if record.get("subresource") != "status" and _is_small(record))
    return [_shared(record) for record in islice(found, MAX_RECORDS)]


def _shared(record: Object) -> Object:
    fields = record.get("fieldsV1")
    return {**record, "fieldsV1": shared_fields(fields)} if isinstance(fields, dict) else record


def _is_small(record: Object) -> bool:
    most = MAX_OWN_FIELDS if record.get("manager") == FIELD_MANAGER else MAX_OTHER_FIELDS
    level: list[Any] = [record.get("fieldsV1")]
    count = 0
    while level and count <= most:
        level = [child for parent in level if isinstance(parent, dict) for child in parent.values()]
        count += len(level)
    return count <= most


def _pod(pod: Object) -> Object:
    """A pod without what only the kubelet needs."""
    kept = dict(pod)
    if spec := pod.get("spec"):
        kept["spec"] = _pod_spec(spec)
    if status := pod.get("status"):
        few = {name: status[name][:MAX_CONTAINERS] for name in _STATUSES if status.get(name)}
        kept["status"] = {**status, **few}
    return kept


def _pod_spec(spec: Object) -> Object:
    kept: Object = {name: spec[name] for name in _POD_SPEC if name in spec}
    for kind in ("containers", "initContainers"):
        if spec.get(kind):
            kept[kind] = [_container(container) for container in spec[kind][:MAX_CONTAINERS]]
    return kept


def _container(container: Object) -> Object:
    """A container with the times of its startup probe, and without how it is asked.

    Of its arguments, only the name of the model is kept.
    """
    kept: Object = {name: container[name] for name in _CONTAINER if name in container}
    if named := [text for text in container.get("args") or () if text.startswith(SERVED_NAME_FLAG)]:
        kept["args"] = [named[0][:MAX_ARGUMENT]]
    if probe := container.get("startupProbe"):
        kept["startupProbe"] = {name: probe[name] for name in _PROBE if name in probe}
    return kept

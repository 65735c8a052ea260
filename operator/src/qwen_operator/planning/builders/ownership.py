"""Which objects belong to a service, and whether they still are what was applied. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwen_operator.api.names import APPLIED_HASH_ANNOTATION, FIELD_MANAGER, child_labels
from qwen_operator.api.objects import Object, Owner, is_owned_by
from qwen_operator.api.qwenservice import KIND
from qwen_operator.planning.builders.common import stable_hash
from qwen_operator.planning.builders.list_items import ListItems


def is_ours(obj: Mapping[str, Any], service: Owner) -> bool:
    """Whether the service owns an object, or may adopt it: it has the service's labels and nothing
    else controls it.

    Owners are lost by `kubectl delete --cascade=orphan` and by some backups. A cache claim that is
    retained has none at any time.
    """
    if is_owned_by(obj, service.uid):
        return True
    metadata = obj["metadata"]
    controlled = any(owner.get("controller") for owner in metadata.get("ownerReferences") or ())
    return not controlled and child_labels(service.name).items() <= (metadata.get("labels") or {}).items()


def is_left_over(obj: Mapping[str, Any], service: Owner) -> bool:
    """Whether an object belongs to a deleted QwenService that had the service's name."""
    owners = obj["metadata"].get("ownerReferences") or ()
    named = (KIND, service.name, True)
    return any((owner["kind"], owner["name"], owner.get("controller")) == named for owner in owners)


def stamped(child: Object) -> Object:
    """A child with an annotation that holds its hash, by which a later process knows it again."""
    metadata = child["metadata"]
    annotations = {**metadata.get("annotations", {}), APPLIED_HASH_ANNOTATION: stable_hash(child)}
    return {**child, "metadata": {**metadata, "annotations": annotations}}


def is_applied(child: Object, live: Mapping[str, Any]) -> bool:
    """Whether an object still is what applying the stamped child made of it.

    The API server records who set each field. Whoever changes a field takes it from us, so nobody
    has touched a child whose fields are all ours. Fields that we do not set do not matter.
    """
    if applied_hash(live) != applied_hash(child):
        return False
    value = applied_value(child)
    return any(_owns(fields, value) for fields in applied_fields(live))


def applied_hash(obj: Mapping[str, Any]) -> str:
    """The hash of the child that an object was made from; empty if it was not stamped."""
    return str((obj["metadata"].get("annotations") or {}).get(APPLIED_HASH_ANNOTATION, ""))


def applied_value(child: Object) -> Object:
    """The part of a child whose fields the API server records."""
    metadata = {
        name: child["metadata"][name]
        for name in ("labels", "annotations", "ownerReferences")
        if name in child["metadata"]
    }
    body = {name: value for name, value in child.items() if name not in ("apiVersion", "kind", "metadata")}
    return {**body, "metadata": metadata}


def applied_fields(live: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The records (FieldsV1) of what we have applied, one for each version of the API."""
    return [
        entry.get("fieldsV1") or {}
        for entry in live["metadata"].get("managedFields") or ()
        if entry.get("manager") == FIELD_MANAGER and entry.get("operation") == "Apply"
    ]


def _owns(fields: Mapping[str, Any], value: Any) -> bool:
    """Whether a set of fields (FieldsV1) has all fields of a value."""
    if isinstance(value, Mapping):
        return all(
            f"f:{name}" in fields and _owns_below(fields[f"f:{name}"], part)
            for name, part in value.items()
            if part is not None and part not in ({}, [])
        )
    if isinstance(value, list):
        items = ListItems(fields)
        return all(any(_owns_below(fields[name], item) for name in items.names_of(item)) for item in value)
    return True


def _owns_below(fields: Mapping[str, Any], value: Any) -> bool:
    # Without further fields it is a single value, or a list or map that is set as a whole.
    return not fields or _owns(fields, value)


def labels_select(selector: Mapping[str, str] | None, pod: Mapping[str, Any]) -> bool:
    """Whether the selector of a Service selects a pod. None and an empty one select nothing."""
    return bool(selector) and (selector or {}).items() <= (pod["metadata"].get("labels") or {}).items()


def has_port(pod: Mapping[str, Any], name: str) -> bool:
    """Whether a container of a pod has the port of this name, so that a Service reaches it."""
    if not name:
        return True
    spec = pod.get("spec") or {}
    sidecars = [item for item in spec.get("initContainers") or () if item.get("restartPolicy") == "Always"]
    containers = [*(spec.get("containers") or ()), *sidecars]
    return any(port.get("name") == name for container in containers for port in container.get("ports") or ())

"""What all children have in common."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from qwen_operator.api import API_VERSION, KIND, QwenService
from qwen_operator.api.names import child_labels, child_name
from qwen_operator.api.objects import Object


def owner_reference(service: QwenService) -> Object:
    """The reference by which Kubernetes deletes a child together with its QwenService."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": service.name,
        "uid": service.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def child(
    service: QwenService,
    api_version: str,
    kind: str,
    *,
    suffix: str = "",
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    owned: bool = True,
    **body: Any,
) -> Object:
    """An object in the service's namespace, with name, labels and owner.

    `labels` and `annotations` are added to those that the spec gives to every child. `body` follows
    the metadata.
    """
    common = service.spec.metadata

    metadata: Object = {
        "name": child_name(service.name, suffix),
        "namespace": service.namespace,
        "labels": {**common.labels, **(labels or {}), **child_labels(service.name)},
    }
    if common.annotations or annotations:
        metadata["annotations"] = {**common.annotations, **(annotations or {})}
    if owned:
        metadata["ownerReferences"] = [owner_reference(service)]
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **body}


def stable_hash(value: Any) -> str:
    """Sixteen hexadecimal digits that are equal for equal JSON values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]

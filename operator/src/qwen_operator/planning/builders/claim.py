"""The PersistentVolumeClaim that keeps downloaded weights."""

from __future__ import annotations

from qwen_operator.api import QwenService
from qwen_operator.api.objects import Object
from qwen_operator.api.operations import CacheSpec
from qwen_operator.planning.builders.common import child


def build_cache_claim(service: QwenService, cache: CacheSpec) -> Object:
    """The claim.

    With `retain` it has no owner and outlives the QwenService: downloads are expensive.
    """

    spec: Object = {"accessModes": list(cache.access_modes), "resources": {"requests": {"storage": cache.size}}}
    if cache.storage_class_name:
        spec["storageClassName"] = cache.storage_class_name
    return child(service, "v1", "PersistentVolumeClaim", suffix="cache", owned=not cache.retain, spec=spec)

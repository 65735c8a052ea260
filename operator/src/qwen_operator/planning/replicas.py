"""The number of pods of a service whose spec leaves `replicas` out. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwen_operator.api import QwenService


def replicas_left_out(service: QwenService, live_deployment: Mapping[str, Any] | None) -> int | None:
    """The number to write into the spec; None if the spec has one.

    Who takes `replicas` out of a manifest leaves the number to an autoscaler. A busy service then
    keeps its pods, within the bounds of `autoscaling`. A new one starts with the lowest number.
    """
    if service.replicas_given:
        return None
    current = 1 if live_deployment is None else int(live_deployment["spec"].get("replicas", 1))
    scaling = service.spec.autoscaling
    if scaling is None:
        return current
    if live_deployment is None:
        return scaling.min_replicas
    return min(max(current, scaling.min_replicas), scaling.max_replicas)

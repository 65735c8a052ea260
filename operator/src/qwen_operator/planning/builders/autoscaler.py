"""The HorizontalPodAutoscaler."""

from __future__ import annotations

from typing import Final

from qwen_operator.api import API_VERSION, KIND, QwenService
from qwen_operator.api.objects import Object
from qwen_operator.api.operations import AutoscalingSpec
from qwen_operator.planning.builders.common import child

WAITING_METRIC: Final = "qwen_requests_waiting"


def build_autoscaler(service: QwenService, scaling: AutoscalingSpec) -> Object:
    """The autoscaler.

    It scales the QwenService: only the operator writes the Deployment's replicas.
    """

    target = {"type": "AverageValue", "averageValue": str(scaling.target.waiting_requests_per_replica)}
    window = round(scaling.scale_down_stabilization.total_seconds())
    return child(
        service,
        "autoscaling/v2",
        "HorizontalPodAutoscaler",
        spec={
            "scaleTargetRef": {"apiVersion": API_VERSION, "kind": KIND, "name": service.name},
            "minReplicas": scaling.min_replicas,
            "maxReplicas": scaling.max_replicas,
            "metrics": [{"type": "Pods", "pods": {"metric": {"name": WAITING_METRIC}, "target": target}}],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": window}},
        },
    )

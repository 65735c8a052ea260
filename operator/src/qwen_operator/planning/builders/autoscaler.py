"""The HorizontalPodAutoscaler, or KEDA's ScaledObject.

Both scale the QwenService: only the operator writes the Deployment's replicas.
"""

from __future__ import annotations

from typing import Final

from qwen_operator.api import API_VERSION, KIND, QwenService
from qwen_operator.api.names import child_name
from qwen_operator.api.objects import Object
from qwen_operator.api.scaling import AutoscalingSpec
from qwen_operator.planning.builders.common import child

WAITING_METRIC: Final = "qwen_requests_waiting"
RUNNING_METRIC: Final = "qwen_requests_running"
_NEVER_REACHED: Final = "1000000"
"""The target of a query that only says whether the service is needed: one replica is enough."""


def build_autoscaler(service: QwenService, scaling: AutoscalingSpec) -> Object:
    """The HorizontalPodAutoscaler."""
    target = {"type": "AverageValue", "averageValue": str(scaling.target.waiting_requests_per_replica)}
    return child(
        service,
        "autoscaling/v2",
        "HorizontalPodAutoscaler",
        spec={
            "scaleTargetRef": _target(service),
            "minReplicas": scaling.min_replicas,
            "maxReplicas": scaling.max_replicas,
            "metrics": [{"type": "Pods", "pods": {"metric": {"name": WAITING_METRIC}, "target": target}}],
            "behavior": _behavior(scaling),
        },
    )


def build_scaled_object(service: QwenService, scaling: AutoscalingSpec) -> Object:
    """The ScaledObject, from which KEDA makes a HorizontalPodAutoscaler of its own.

    With `minReplicas` 0, KEDA removes the last replica when no request runs and none waits, and the
    query of the spec has been 0 for as long as the load must be low.
    """
    pods = f'namespace="{service.namespace}",service="{child_name(service.name)}"'
    queries = [(f"sum({WAITING_METRIC}{{{pods}}})", str(scaling.target.waiting_requests_per_replica))]
    if scaling.activation_query is not None:
        queries.append((f"sum({RUNNING_METRIC}{{{pods}}})", _NEVER_REACHED))
        queries.append((scaling.activation_query, _NEVER_REACHED))
    return child(
        service,
        "keda.sh/v1alpha1",
        "ScaledObject",
        spec={
            "scaleTargetRef": _target(service),
            "minReplicaCount": scaling.min_replicas,
            "maxReplicaCount": scaling.max_replicas,
            "cooldownPeriod": _window(scaling),
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior(scaling)}},
            "triggers": [
                {
                    "type": "prometheus",
                    "metadata": {
                        "serverAddress": scaling.prometheus_address,
                        "query": query,
                        "threshold": threshold,
                    },
                }
                for query, threshold in queries
            ],
        },
    )


def _target(service: QwenService) -> Object:
    return {"apiVersion": API_VERSION, "kind": KIND, "name": service.name}


def _behavior(scaling: AutoscalingSpec) -> Object:
    return {"scaleDown": {"stabilizationWindowSeconds": _window(scaling)}}


def _window(scaling: AutoscalingSpec) -> int:
    return round(scaling.scale_down_stabilization.total_seconds())

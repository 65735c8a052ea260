"""Statuses that are computed from pods, for the tests of conditions and their reasons."""

from __future__ import annotations

from typing import Any

from qwen_operator.api import Condition, QwenService, ServiceStatus
from qwen_operator.api.names import selector_labels
from qwen_operator.status.conditions import Observed, evaluate
from tests.unit.qwen_operator.objects import NOW, Object, deployment, pod, service

LOADING = pod(
    "news-2", server={"ready": False, "started": False, "state": {"running": {"startedAt": "2026-01-02T03:00:00Z"}}}
)
SERVES: Object = {"ready": True, "started": True, "state": {"running": {"startedAt": "2026-01-02T03:00:00Z"}}}
T0, T1, T2 = "2026-01-02T02:59:00Z", "2026-01-02T03:01:00Z", "2026-01-02T03:02:00Z"


def status_of(*pods: Object, subject: QwenService | None = None, replicas: int = 1, **observed: Any) -> ServiceStatus:
    """The status of a service with these pods, whose Deployment is in its desired state."""
    observed.setdefault("deployment", deployment(replicas))
    observed.setdefault("selector", selector_labels("news"))
    subject = service(replicas=replicas) if subject is None else subject
    return evaluate(subject, Observed(pods=pods, **observed), NOW)


def condition(status: ServiceStatus, kind: str) -> Condition:
    """The condition of this type, which must exist."""
    found = status.condition(kind)
    assert found is not None
    return found


def ready(*pods: Object, **observed: Any) -> Condition:
    """The condition Ready of the same service."""
    return condition(status_of(*pods, **observed), "Ready")


def at(status: str, time: str) -> Object:
    """A condition of a pod since a time."""
    return {"status": status, "lastTransitionTime": time}

"""The PodDisruptionBudget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from qwen_operator.api import QwenService
from qwen_operator.api.names import child_labels, child_name, selector_labels
from qwen_operator.api.objects import Object, is_owned_by
from qwen_operator.planning.builders.common import child
from qwen_operator.planning.builders.ownership import is_ours
from qwen_operator.planning.builders.selectors import selects


def build_disruption_budget(service: QwenService) -> Object:
    """The budget: one pod at a time. Pods that are not ready never block a node drain."""
    return child(
        service,
        "policy/v1",
        "PodDisruptionBudget",
        spec={
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": selector_labels(service.name)},
        },
    )


def budgets_of_others(service: QwenService, budgets: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of budgets of others that select the service's pods.

    Two budgets would block all evictions.
    """

    spec = service.spec
    labels = {**spec.metadata.labels, **spec.pod_template.metadata.labels, **child_labels(service.name)}

    def is_own(budget: Mapping[str, Any]) -> bool:
        named = budget["metadata"]["name"] == child_name(service.name)
        return is_owned_by(budget, service.uid) or (named and is_ours(budget, service))

    return [
        budget["metadata"]["name"]
        for budget in budgets
        if not is_own(budget) and selects(budget.get("spec", {}).get("selector"), labels)
    ]

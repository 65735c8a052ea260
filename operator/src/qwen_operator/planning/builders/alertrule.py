"""One alert of Prometheus about a service."""

from __future__ import annotations

from typing import Final

from qwen_operator.api import QwenService
from qwen_operator.api.objects import Object

PREFIX: Final = "Qwen"
"""Begins the names of alerts in Prometheus, where those of many products meet."""


def alert_rule(
    service: QwenService,
    name: str,
    expression: str,
    *,
    severity: str,
    summary: str,
    description: str,
    runbook: str,
    lasts: str = "",
    labels: dict[str, str] | None = None,
) -> Object:
    """The rule of an alert that becomes active when its expression has held for `lasts`.

    The expression must keep the label `namespace`: the Prometheus Operator and many routes of
    Alertmanager look at it, besides `severity`.
    """
    rule: Object = {"alert": name, "expr": expression}
    if lasts:
        rule["for"] = lasts
    return {
        **rule,
        "labels": {"severity": severity, **(labels or {}), "qwenservice": service.name},
        "annotations": {"summary": summary, "description": description, "runbook_url": runbook},
    }

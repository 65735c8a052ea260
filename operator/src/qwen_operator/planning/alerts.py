"""The alerts of one service: the catalogue with the overrides of the spec."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from qwen_operator.api import AlertSpec, RemediationRule
from qwen_operator.api.catalogue import CATALOGUE, Action, ActionRule, Alert, Device


def effective_alerts(
    device: Device, overrides: Iterable[AlertSpec] = (), rules: Iterable[RemediationRule] = ()
) -> tuple[Alert, ...]:
    """The catalogue for a device with the service's overrides, in the catalogue's order.

    Rules for an alert replace all of its default actions. An alert that is off has no actions.
    """

    by_name: Mapping[str, AlertSpec] = {override.name: override for override in overrides}
    actions: dict[str, list[ActionRule]] = {}
    for rule in rules:
        actions.setdefault(rule.alert, []).append(ActionRule(Action(rule.action), rule.for_seconds))
    merged = []
    for default in CATALOGUE:
        alert = default.on(device)
        override = by_name.get(alert.name)
        if override is not None:
            alert = replace(
                alert,
                threshold=alert.threshold if override.threshold is None else override.threshold,
                for_seconds=alert.for_seconds if override.for_seconds is None else override.for_seconds,
                severity=override.severity or alert.severity,
                enabled=override.enabled,
            )
        if alert.name in actions:
            alert = replace(alert, actions=tuple(actions[alert.name]))
        merged.append(alert if alert.active else replace(alert, actions=()))
    return tuple(merged)

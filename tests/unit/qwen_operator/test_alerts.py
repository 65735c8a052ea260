"""The alert catalogue and how a service's overrides change it."""

from __future__ import annotations

from typing import Any

import pytest

from qwen_operator.api.catalogue import CATALOGUE, NAMES, Action, Alert, AlertClass
from qwen_operator.planning.alerts import effective_alerts
from tests.unit.qwen_operator.objects import service


def alert(name: str, device: Any = "cuda", **spec: Any) -> Alert:
    parsed = service(**spec).spec
    return next(
        found for found in effective_alerts(device, parsed.alerts, parsed.remediation.rules) if found.name == name
    )


def test_names_are_unique() -> None:
    assert len(set(NAMES)) == len(CATALOGUE)


@pytest.mark.parametrize(("device", "seconds"), [("cuda", 15), ("cpu", 60)])
def test_the_threshold_for_a_hang_is_higher_on_a_cpu(device: str, seconds: float) -> None:
    assert alert("EngineUnresponsive", device).threshold == seconds


def test_saturation_never_does_more_than_an_event() -> None:
    for found in CATALOGUE:
        if found.alert_class is AlertClass.SATURATION:
            assert {rule.action for rule in found.actions} <= {Action.EVENT}


def test_only_death_errors_without_work_hardware_and_outliers_restart() -> None:
    restarting = {found.name for found in CATALOGUE if any(rule.action is Action.RESTART for rule in found.actions)}
    assert restarting == {"EngineUnresponsive", "GenerationStalled", "EngineDead", "GPUUnhealthy", "HighErrorRate"}


def test_threshold_is_overridden_and_the_rest_kept() -> None:
    changed = alert("HighTTFT", alerts=[{"name": "HighTTFT", "threshold": 2}])
    assert (changed.threshold, changed.for_seconds, changed.severity) == (2, 60, "warning")


def test_zero_is_a_threshold() -> None:
    assert alert("HighTTFT", alerts=[{"name": "HighTTFT", "threshold": 0, "for": "0s"}]).threshold == 0


def test_alert_without_threshold_is_off_until_one_is_given() -> None:
    assert not alert("LowThroughput").active
    assert alert("LowThroughput", alerts=[{"name": "LowThroughput", "threshold": 10}]).active


def test_disabled_alert_leads_to_nothing() -> None:
    off = alert("EngineUnresponsive", alerts=[{"name": "EngineUnresponsive", "enabled": False}])
    assert not off.active
    assert off.actions == ()


def test_rules_replace_the_default_actions() -> None:
    rules = {"rules": [{"alert": "HighErrorRate", "action": "Unready", "for": "10s"}]}
    (rule,) = alert("HighErrorRate", remediation=rules).actions
    assert (rule.action, rule.for_seconds) == (Action.UNREADY, 10)


def test_restart_waits_a_minute_by_default() -> None:
    rules = {"rules": [{"alert": "HighErrorRate", "action": "Restart"}]}
    assert alert("HighErrorRate", remediation=rules).actions[0].for_seconds == 60

"""spec.alerts and spec.remediation."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field

from qwen_operator.api.base import (
    ApiObject,
    Duration,
    IntOrPercent,
    ValidationRule,
    duration_field,
    from_to,
    map_list,
    section,
)
from qwen_operator.api.catalogue import CATALOGUE, SATURATION_NAMES, Severity
from qwen_operator.api.status import MAX_RESTART_TIMES

AlertName = Literal[
    "EngineUnresponsive",
    "GenerationStalled",
    "EngineDead",
    "GPUUnhealthy",
    "HighErrorRate",
    "QueueSaturated",
    "HighTTFT",
    "HighLatency",
    "LowThroughput",
    "KVCacheSaturated",
    "GPUMemoryHigh",
    "GPUTemperatureHigh",
]


def _seconds(value: timedelta | None) -> float | None:
    return None if value is None else value.total_seconds()


_PERCENTAGES = [alert.name for alert in CATALOGUE if alert.unit == "percent"]
_HANGS = ["EngineUnresponsive", "GenerationStalled"]


class AlertSpec(ApiObject):
    """Overrides of one alert of the catalogue.

    Fields that are not set keep the catalogue's value.
    """

    checks = (
        ValidationRule(
            f"!has(self.threshold) || self.threshold <= 100.0 || !(self.name in {_PERCENTAGES})",
            "threshold must be at most 100 for a percentage",
            lambda alert: alert.threshold is None or alert.threshold <= 100 or alert.name not in _PERCENTAGES,
            "threshold",
        ),
        ValidationRule(
            f"!has(self.threshold) || self.threshold >= 1.0 || !(self.name in {_HANGS})",
            "threshold must be at least 1 second: a healthy engine is idle for moments between its steps",
            lambda alert: alert.threshold is None or alert.threshold >= 1 or alert.name not in _HANGS,
            "threshold",
        ),
    )

    name: AlertName = Field(description="Name of the alert.")
    threshold: float | None = Field(default=None, ge=0, description="Threshold, in the unit of the catalogue.")
    for_: Duration | None = Field(
        default=None, alias="for", description="How long the threshold must be exceeded before the alert fires."
    )
    severity: Severity | None = Field(default=None, description="Severity of the alert.")
    enabled: bool = Field(default=True, description="Whether the alert is evaluated.")

    @property
    def for_seconds(self) -> float | None:
        """`for` in seconds."""
        return _seconds(self.for_)


# The status remembers the times of that many restarts.
_COUNTED = ValidationRule(
    f"type(self) == string || self <= {MAX_RESTART_TIMES}",
    f"must be at most {MAX_RESTART_TIMES}, or a percentage",
    lambda value: isinstance(value, str) or value <= MAX_RESTART_TIMES,
)


class RestartBudget(ApiObject):
    """How many restarts remediation may perform."""

    max_restarts: Annotated[IntOrPercent, _COUNTED] | None = Field(
        default=None,
        description="Restarts per window, as a number or a percentage of the replicas. Defaults to the larger of 3 and "
        "10 %, at most 20.",
    )
    window: Annotated[Duration, from_to("1m", "720h")] = duration_field("1h", "Rolling window of the budget.")


class Backoff(ApiObject):
    """The delay between two restarts. It doubles with each restart."""

    checks = (
        ValidationRule(
            "duration(self.max) >= duration(self.base)",
            "max must be at least base",
            lambda backoff: backoff.max >= backoff.base,
            "max",
        ),
    )

    base: Annotated[Duration, from_to("0s", "24h")] = duration_field("30s", "First delay.")
    max: Annotated[Duration, from_to("0s", "24h")] = duration_field("10m", "Maximum delay.")


class RemediationRule(ApiObject):
    """What happens while an alert is active.

    Rules for an alert replace all of its default actions.
    """

    checks = (
        ValidationRule(
            f"!(self.action in ['Unready', 'Restart']) || !(self.alert in {list(SATURATION_NAMES)})",
            "action must be None or Event for a saturation alert: a restart would make the overload worse",
            lambda rule: rule.action not in ("Unready", "Restart") or rule.alert not in SATURATION_NAMES,
            "action",
        ),
        ValidationRule(
            "self.action != 'Unready' || self.alert != 'EngineDead'",
            "action must not be Unready for EngineDead: a pod whose engine died is out of rotation",
            lambda rule: rule.action != "Unready" or rule.alert != "EngineDead",
            "action",
        ),
    )

    alert: AlertName = Field(description="Name of the alert.")
    action: Literal["None", "Event", "Unready", "Restart"] = Field(
        description="None: do nothing. Event: write an Event. Unready: take the pod out of rotation. Restart: restart "
        "it, too."
    )
    for_: Duration | None = Field(
        default=None,
        alias="for",
        description="How long the alert must be active. For Restart, counted from when the pod was taken out of "
        "rotation. Defaults to two polls, and to 60s for Restart.",
    )

    @property
    def for_seconds(self) -> float | None:
        """`for` in seconds."""
        if self.for_ is None and self.action == "Restart":
            return 60.0
        return _seconds(self.for_)


class RemediationSpec(ApiObject):
    """What the operator does about unhealthy replicas."""

    mode: Literal["Enforce", "DryRun", "Off"] = Field(
        default="Enforce",
        description='Enforce: act. DryRun: only report the actions. "Off": do nothing; it needs its quotes, because '
        "YAML reads the bare word as false.",
    )
    readiness_gate: Literal["Enabled", "Disabled"] = Field(
        default="Enabled",
        description="Whether the pods have the readiness gate qwen-vllm.io/slo-ready, by which the operator takes them "
        "out of rotation. A change restarts the pods.",
    )
    poll_interval: Annotated[Duration, from_to("100ms", "10m")] = duration_field(
        "2s", "How often the operator reads the metrics of each pod. Less than a second counts as a second."
    )
    min_ready_replicas: IntOrPercent = Field(
        default=1,
        description="Minimum of ready pods that remediation preserves, as a number or a percentage of the replicas "
        "(rounded up).",
    )
    recover_after: Annotated[Duration, from_to("0s", "1h")] = duration_field(
        "30s", "How long a pod must be healthy before it gets traffic again."
    )
    restart_method: Literal["Auto", "Engine", "InPlace", "Evict"] = Field(
        default="Auto",
        description="Engine: the server restarts its engine and goes on with its requests; if it cannot, as InPlace. "
        "InPlace: restart the container on its node and GPU. Evict: replace the pod. Auto: Engine first, then InPlace, "
        "then Evict.",
    )
    restart_budget: RestartBudget = section(RestartBudget, "How many restarts remediation may perform.")
    backoff: Backoff = section(Backoff, "Delay between two restarts. It doubles with each restart.")
    rules: list[RemediationRule] = map_list(
        ["alert", "action"], "Actions that replace those of the catalogue, by alert and action.", 48
    )

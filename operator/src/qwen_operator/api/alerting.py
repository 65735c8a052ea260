"""spec.alerts and spec.remediation."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import Field

from qwen_operator.api.base import ApiObject, Duration, IntOrPercent, ValidationRule, duration_field, map_list, section
from qwen_operator.api.catalogue import SATURATION_NAMES, Severity

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


class AlertSpec(ApiObject):
    """Overrides of one alert of the catalogue; what is absent keeps the catalogue's value."""

    name: AlertName = Field(description="The alert.")
    threshold: float | None = Field(default=None, ge=0, description="Its threshold, in the unit of the catalogue.")
    for_: Duration | None = Field(default=None, alias="for", description="How long the threshold must be crossed.")
    severity: Severity | None = Field(default=None, description="How urgent it is.")
    enabled: bool = Field(default=True, description="Whether it is evaluated at all.")

    @property
    def for_seconds(self) -> float | None:
        """`for` in seconds."""
        return _seconds(self.for_)


class RestartBudget(ApiObject):
    """How many restarts remediation may make."""

    max_restarts: IntOrPercent | None = Field(
        default=None,
        description="Restarts in the window, a number or a percentage of the replicas; absent: the larger of 3 and "
        "10 %, at most 20.",
    )
    window: Duration = duration_field("1h", "The rolling window.")


class Backoff(ApiObject):
    """The pause between two restarts, doubled each time."""

    checks = (
        ValidationRule(
            "duration(self.max) >= duration(self.base)",
            "max must be at least base",
            lambda backoff: backoff.max >= backoff.base,
            "max",
        ),
    )

    base: Duration = duration_field("30s", "The first pause.")
    max: Duration = duration_field("10m", "The longest pause.")


class RemediationRule(ApiObject):
    """What is done while an alert is active. Rules that name an alert replace all of its default actions."""

    checks = (
        ValidationRule(
            f"!(self.action in ['Unready', 'Restart']) || !(self.alert in {list(SATURATION_NAMES)})",
            "action must be None or Event for an alert of saturation: a restart would make overload worse",
            lambda rule: rule.action not in ("Unready", "Restart") or rule.alert not in SATURATION_NAMES,
            "action",
        ),
    )

    alert: AlertName = Field(description="The alert.")
    action: Literal["None", "Event", "Unready", "Restart"] = Field(
        description="None: nothing; Event: an Event; Unready: the pod gets no traffic; Restart: it is restarted too."
    )
    for_: Duration | None = Field(
        default=None,
        alias="for",
        description="How long the alert must be seen; for Restart counted from when the pod was taken out. Absent: two "
        "polls, and 60s for Restart.",
    )

    @property
    def for_seconds(self) -> float | None:
        """`for` in seconds."""
        if self.for_ is None and self.action == "Restart":
            return 60.0
        return _seconds(self.for_)


class RemediationSpec(ApiObject):
    """What the operator does about sick replicas."""

    mode: Literal["Enforce", "DryRun", "Off"] = Field(
        default="Enforce", description="Enforce: act; DryRun: only report what would be done; Off: neither."
    )
    readiness_gate: Literal["Enabled", "Disabled"] = Field(
        default="Enabled",
        description="Whether the pods carry the gate qwen-vllm.io/slo-ready, through which the operator takes them out "
        "of rotation. A change restarts the pods.",
    )
    poll_interval: Duration = duration_field("2s", "How often each pod's metrics are read.")
    min_ready_replicas: IntOrPercent = Field(
        default=1,
        description="Pods, or percent of the replicas (rounded up), that remediation never goes below.",
    )
    recover_after: Duration = duration_field("30s", "How long a pod must prove its health until it gets traffic again.")
    restart_method: Literal["Auto", "InPlace", "Evict"] = Field(
        default="Auto",
        description="InPlace restarts the container on its GPU, Evict replaces the pod; Auto: first the one, then the "
        "other.",
    )
    restart_budget: RestartBudget = section(RestartBudget, "How many restarts remediation may make.")
    backoff: Backoff = section(Backoff, "The pause between two restarts, doubled each time.")
    rules: list[RemediationRule] = map_list(
        ["alert", "action"], "Other actions than the catalogue's; by alert and action.", 48
    )

"""The catalogue of alerts: what each one means, its default threshold and what remediation does about it.

The server evaluates the same catalogue (a test compares the two). `spec.alerts` overrides thresholds,
`spec.remediation.rules` overrides actions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, Literal

Severity = Literal["critical", "warning", "info"]
Device = Literal["cuda", "cpu"]


class AlertClass(StrEnum):
    """What kind of trouble an alert stands for; it decides what may be done about it."""

    ZERO_WORK = "ZeroWork"
    BROKEN_HARDWARE = "BrokenHardware"
    RELATIVE = "Relative"
    DEATH = "Death"
    SATURATION = "Saturation"


class Action(StrEnum):
    """What remediation does while an alert is active."""

    NONE = "None"
    EVENT = "Event"
    UNREADY = "Unready"
    RESTART = "Restart"


@dataclass(frozen=True)
class ActionRule:
    """One action and how many seconds of the operator's own observations it takes.

    `for_seconds` of None means two polls in a row; of a Restart it counts from the moment the pod was taken out.
    """

    action: Action
    for_seconds: float | None = None


@dataclass(frozen=True)
class Alert:
    """One alert with its thresholds. A threshold of None means that the alert is off until one is given."""

    name: str
    threshold: float | None
    unit: str
    for_seconds: float
    severity: Severity
    alert_class: AlertClass
    summary: str
    actions: tuple[ActionRule, ...] = (ActionRule(Action.EVENT),)
    threshold_on_cpu: float | None = None
    enabled: bool = True

    def on(self, device: Device) -> Alert:
        """The alert with its threshold for a device."""
        if device == "cpu" and self.threshold_on_cpu is not None:
            return replace(self, threshold=self.threshold_on_cpu, threshold_on_cpu=None)
        return replace(self, threshold_on_cpu=None)

    @property
    def active(self) -> bool:
        """Whether the alert is evaluated at all."""
        return self.enabled and self.threshold is not None


_TAKE_OUT: Final = (ActionRule(Action.UNREADY), ActionRule(Action.RESTART, 60.0))
_RELATIVE: Final = (ActionRule(Action.UNREADY), ActionRule(Action.RESTART, 120.0))

CATALOGUE: Final[tuple[Alert, ...]] = (
    Alert(
        "EngineUnresponsive", 15.0, "seconds", 0.0, "critical", AlertClass.ZERO_WORK,
        "The engine has work and makes no step, or does not answer a ping", _TAKE_OUT, threshold_on_cpu=60.0,
    ),
    Alert(
        "GenerationStalled", 30.0, "seconds", 0.0, "critical", AlertClass.ZERO_WORK,
        "The engine makes steps but neither reads a prompt nor produces a token", _TAKE_OUT,
    ),
    Alert(
        "EngineDead", 0.0, "count", 0.0, "critical", AlertClass.DEATH,
        "The engine's process has ended; the kubelet restarts the container",
    ),
    Alert(
        "GPUUnhealthy", 0.0, "count", 0.0, "critical", AlertClass.BROKEN_HARDWARE,
        "A GPU reports an error that only a reset or a replacement cures", _TAKE_OUT,
    ),
    Alert(
        "HighErrorRate", 5.0, "percent", 0.0, "critical", AlertClass.RELATIVE,
        "Of at least 20 requests in a minute too many failed", _RELATIVE,
    ),
    Alert(
        "QueueSaturated", 90.0, "percent", 30.0, "warning", AlertClass.SATURATION,
        "The queue is almost full; more replicas are needed",
    ),
    Alert(
        "HighTTFT", 5.0, "seconds", 60.0, "warning", AlertClass.SATURATION,
        "The first token takes too long for one request in twenty",
    ),
    Alert(
        "HighLatency", None, "seconds", 60.0, "warning", AlertClass.SATURATION,
        "Whole answers take too long for one request in twenty",
    ),
    Alert(
        "LowThroughput", None, "tokens/sec", 60.0, "warning", AlertClass.SATURATION,
        "Fewer tokens a second than wanted while requests are waiting",
    ),
    Alert(
        "KVCacheSaturated", 95.0, "percent", 60.0, "warning", AlertClass.SATURATION,
        "The KV cache is almost full; requests will be preempted",
    ),
    Alert(
        "GPUMemoryHigh", 98.0, "percent", 60.0, "info", AlertClass.SATURATION,
        "GPU memory is almost full (vLLM allocates it up front)",
    ),
    Alert(
        "GPUTemperatureHigh", 90.0, "celsius", 60.0, "warning", AlertClass.SATURATION,
        "A GPU is hot and will slow down",
    ),
)  # fmt: skip
NAMES: Final = tuple(alert.name for alert in CATALOGUE)
SATURATION_NAMES: Final = tuple(alert.name for alert in CATALOGUE if alert.alert_class is AlertClass.SATURATION)

"""The catalogue of alerts: their meaning, default thresholds and default actions.

The server evaluates the same catalogue (a test compares the two). `spec.alerts` overrides
thresholds, `spec.remediation.rules` overrides actions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, Literal

Severity = Literal["critical", "warning", "info"]
Device = Literal["cuda", "cpu"]


class AlertClass(StrEnum):
    """The kind of problem that an alert reports. It limits what remediation may do."""

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
    """One action and for how many seconds the operator must observe the alert before it acts.

    `for_seconds` of None means two consecutive polls. For Restart it counts from the moment when
    the pod was taken out of rotation.
    """

    action: Action
    for_seconds: float | None = None


@dataclass(frozen=True)
class Alert:
    """One alert with its thresholds. With a threshold of None it is off until the spec sets one."""

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
        "The engine has work but makes no step, or does not answer a ping", _TAKE_OUT, threshold_on_cpu=60.0,
    ),
    Alert(
        "GenerationStalled", 30.0, "seconds", 0.0, "critical", AlertClass.ZERO_WORK,
        "The engine makes steps but neither reads a prompt nor produces a token", _TAKE_OUT,
    ),
    Alert(
        "EngineDead", 0.0, "count", 0.0, "critical", AlertClass.DEATH,
        "The engine process has exited. The kubelet restarts the container",
        (ActionRule(Action.EVENT), ActionRule(Action.RESTART)),
    ),
    Alert(
        "GPUUnhealthy", 0.0, "count", 0.0, "critical", AlertClass.BROKEN_HARDWARE,
        "A GPU reports an error that requires a reset or a replacement", _TAKE_OUT,
    ),
    Alert(
        "HighErrorRate", 5.0, "percent", 0.0, "critical", AlertClass.RELATIVE,
        "Too many of at least 20 requests in a minute failed", _RELATIVE,
    ),
    Alert(
        "QueueSaturated", 90.0, "percent", 30.0, "warning", AlertClass.SATURATION,
        "The queue is almost full. More replicas are needed",
    ),
    Alert(
        "HighTTFT", 5.0, "seconds", 60.0, "warning", AlertClass.SATURATION,
        "The 95th percentile of the time to the first token is too high",
    ),
    Alert(
        "HighLatency", None, "seconds", 60.0, "warning", AlertClass.SATURATION,
        "The 95th percentile of the request latency is too high",
    ),
    Alert(
        "LowThroughput", None, "tokens/sec", 60.0, "warning", AlertClass.SATURATION,
        "Throughput is too low while requests are waiting",
    ),
    Alert(
        "KVCacheSaturated", 95.0, "percent", 60.0, "warning", AlertClass.SATURATION,
        "The KV cache is almost full. Requests will be preempted",
    ),
    Alert(
        "GPUMemoryHigh", 98.0, "percent", 60.0, "info", AlertClass.SATURATION,
        "GPU memory is almost full (vLLM allocates it at startup)",
    ),
    Alert(
        "GPUTemperatureHigh", 90.0, "celsius", 60.0, "warning", AlertClass.SATURATION,
        "A GPU is hot and will throttle",

    ),
)  # fmt: skip
NAMES: Final = tuple(alert.name for alert in CATALOGUE)
SATURATION_NAMES: Final = tuple(alert.name for alert in CATALOGUE if alert.alert_class is AlertClass.SATURATION)

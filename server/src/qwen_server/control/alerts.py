"""The alert catalogue and its evaluation, as pure functions with the clock passed in.

A rule compares one signal with its threshold. Its alert becomes active when the comparison has held
for `for_seconds` without a break, and ends at the first evaluation at which it does not hold. A
JSON file overrides the defaults and is reloaded when it changes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

Severity = Literal["critical", "warning", "info"]
Device = Literal["cuda", "cpu"]

_log = logging.getLogger(__name__)
_SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "info")
_COMPARISONS = {
    ">": lambda value, threshold: value > threshold,
    ">=": lambda value, threshold: value >= threshold,
    "<": lambda value, threshold: value < threshold,
}
_MAX_FILE_BYTES = 1 << 20
_MAX_NUMBER = 1e15  # an integer with hundreds of digits is valid JSON, but does not fit a float

# While one of these is active, the engine answers no requests, so new ones are refused.
ZERO_WORK = frozenset({"EngineUnresponsive", "GenerationStalled"})


@dataclass(frozen=True, slots=True)
class AlertRule:
    """The rule of one alert. Without a threshold it is off.

    `message` may contain {value} and {threshold}.
    """

    name: str
    threshold: float | None
    unit: str
    for_seconds: float
    severity: Severity
    message: str
    comparison: Literal[">", ">=", "<"] = ">"
    enabled: bool = True

    @property
    def on(self) -> bool:
        return self.enabled and self.threshold is not None

    def holds(self, value: float | None) -> bool:
        """Whether the signal is beyond the threshold. Unknown values (None, NaN) never are."""
        if value is None or self.threshold is None or not self.on:
            return False
        return bool(_COMPARISONS[self.comparison](value, self.threshold))


# On CUDA the longest regular step, a full prefill chunk on a slow GPU, takes about a second, so 15
# s without a step is a hang. On a CPU steps of many seconds are normal, and the engine must also
# have used no CPU time.
HUNG_SECONDS: Mapping[Device, float] = {"cuda": 15.0, "cpu": 60.0}

# The first uses of some kernels compile them, which takes longer than a step.
YOUNG_SECONDS = 300.0
_HUNG_SECONDS_YOUNG = 60.0


def while_young(rules: Sequence[AlertRule], device: Device, ready_seconds: float) -> tuple[AlertRule, ...]:
    """Returns the rules of an engine that has been ready for `ready_seconds`.

    In its first five minutes, EngineUnresponsive waits for 60 s, unless the alerts file has set
    another threshold than the default.
    """
    if ready_seconds >= YOUNG_SECONDS:
        return tuple(rules)
    return tuple(
        replace(rule, threshold=max(_HUNG_SECONDS_YOUNG, HUNG_SECONDS[device]))
        if rule.name == "EngineUnresponsive" and rule.threshold == HUNG_SECONDS[device]
        else rule
        for rule in rules
    )


def catalogue(device: Device) -> tuple[AlertRule, ...]:
    """Returns the built-in rules. Only EngineUnresponsive depends on the device.

    Critical alerts become active at once (`for` 0), because their signals already cover a period of
    time and do not flap. Warnings must hold for some time first: they lead to scaling at most,
    which takes minutes, and bursts are normal.
    """
    return (
        AlertRule(
            "EngineUnresponsive",
            HUNG_SECONDS[device],
            "seconds",
            0,
            "critical",
            "the engine has not answered for {value} s",
        ),
        # Each step of a healthy scheduler produces a token or processes a prompt. Some do neither,
        # while requests are preempted or wait for a grammar; 30 s allows for many of those. The
        # signal is measured at steps, so a long step is not a stall.
        AlertRule(
            "GenerationStalled", 30, "seconds", 0, "critical", "the engine steps, but made no token for {value} s"
        ),
        # A fact, not a measurement, so there is nothing to wait for.
        AlertRule("EngineDead", 0, "count", 0, "critical", "the engine's processes have ended"),
        # Only faults for which the driver asks for a reset or a repair count (see gpu.py), so one
        # is enough.
        AlertRule(
            "GPUUnhealthy", 0, "count", 0, "critical", "{value} GPU(s) report faults that need a reset or a repair"
        ),
        # The signal needs at least 20 requests in the minute, or a single failure in a quiet minute
        # would be 100 %. A healthy engine fails no request. 5 % is more than one of 20, so one bad
        # prompt is not enough.
        AlertRule("HighErrorRate", 5, "percent", 0, "critical", "{value} % of the last minute's requests failed"),
        # An almost full queue is about to refuse requests. A burst that drains within 30 s, the
        # default queue timeout, does no harm.
        AlertRule("QueueSaturated", 90, "percent", 30, "warning", "the queue is {value} % full", ">="),
        # Users leave or retry when the first token takes longer. A healthy replica is well below a
        # second.
        AlertRule(
            "HighTTFT", 5, "seconds", 60, "warning", "the 95th percentile of the time to first token is {value} s"
        ),
        # What is slow depends on the model and the requests, so both are off until a threshold is
        # set.
        AlertRule("HighLatency", None, "seconds", 60, "warning", "the 95th percentile of the latency is {value} s"),
        AlertRule("LowThroughput", None, "tokens/sec", 60, "warning", "decoding yields {value} tokens/s", "<"),
        # When the cache is full, vLLM preempts requests and computes them again. Cached prefixes
        # that no request uses do not count as usage.
        AlertRule("KVCacheSaturated", 95, "percent", 60, "warning", "the KV cache is {value} % full"),
        # By default vLLM allocates 90 % permanently. 98 % leaves almost nothing for CUDA itself or
        # for other processes.
        AlertRule("GPUMemoryHigh", 98, "percent", 60, "info", "{value} % of the GPU memory is in use"),
        # Data center GPUs throttle from about this temperature and shut down a few degrees above
        # it.
        AlertRule("GPUTemperatureHigh", 90, "celsius", 60, "warning", "the hottest GPU is at {value} C", ">="),
    )


@dataclass(frozen=True, slots=True)
class ActiveAlert:
    """An active alert. It was activated at `since` (seconds of the clock) and `since_utc` (UTC)."""

    rule: AlertRule
    value: float
    since: float
    since_utc: datetime

    def as_json(self) -> dict[str, Any]:
        value = round(self.value, 4)
        message = self.rule.message.format(value=f"{value:g}", threshold=self.rule.threshold)
        return {
            "name": self.rule.name,
            "severity": self.rule.severity,
            "message": message,
            "value": value,
            "threshold": self.rule.threshold,
            "unit": self.rule.unit,
            "since": self.since_utc.isoformat(timespec="microseconds"),
        }


@dataclass(frozen=True, slots=True)
class AlertState:
    """The active alerts, and since when the comparison of each rule has held (`pending`)."""

    pending: Mapping[str, float]
    active: tuple[ActiveAlert, ...] = ()

    def fires(self, name: str) -> bool:
        return any(alert.rule.name == name for alert in self.active)

    @property
    def zero_work(self) -> bool:
        """Whether a zero-work alert is active."""
        return any(alert.rule.name in ZERO_WORK for alert in self.active)

    def has(self, *severities: Severity) -> bool:
        return any(alert.rule.severity in severities for alert in self.active)


NOTHING = AlertState(pending={})


def evaluate(
    rules: Sequence[AlertRule],
    signals: Mapping[str, float | None],
    before: AlertState,
    now: float,
    wall: datetime,
) -> AlertState:
    """Returns the state that follows from `before` and the signals (by rule name) read at `now`."""
    known = {alert.rule.name: alert for alert in before.active}
    pending: dict[str, float] = {}
    active: list[ActiveAlert] = []
    for rule in rules:
        value = signals.get(rule.name)
        if value is None or not rule.holds(value):
            continue
        pending[rule.name] = since = before.pending.get(rule.name, now)
        if now - since < rule.for_seconds:
            continue
        earlier = known.get(rule.name)
        active.append(
            ActiveAlert(rule, value, earlier.since, earlier.since_utc)
            if earlier is not None
            else ActiveAlert(rule, value, now, wall)
        )
    return AlertState(pending, tuple(active))


def override(rules: Sequence[AlertRule], document: object) -> tuple[AlertRule, ...]:
    """Returns the rules with the overrides in a parsed alerts file. Unknown names are ignored.

    Raises ValueError with the position of the error.
    """
    entries = document.get("alerts") if isinstance(document, dict) else None
    _require(isinstance(entries, list), 'expected an object with a list "alerts"')
    changed = {rule.name: rule for rule in rules}
    for index, entry in enumerate(entries or ()):
        named = isinstance(entry, dict) and isinstance(entry.get("name"), str)
        _require(named, f"alerts[{index}]: expected an object with a name")
        rule = changed.get(entry["name"])
        if rule is None:
            _log.warning("alerts file: ignoring unknown alert %.64r", entry["name"])
            continue
        changed[rule.name] = _override_one(rule, entry, f"alerts[{index}]")
    return tuple(changed.values())


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise ValueError(text)


def _override_one(rule: AlertRule, entry: Mapping[str, Any], place: str) -> AlertRule:
    threshold = _number(entry, "threshold", place)
    for_seconds = _number(entry, "for", place)
    severity = entry.get("severity")
    enabled = entry.get("enabled")
    if severity is not None and severity not in _SEVERITIES:
        raise ValueError(f"{place}.severity: expected one of {', '.join(_SEVERITIES)}")
    if enabled is not None and not isinstance(enabled, bool):
        raise ValueError(f"{place}.enabled: expected true or false")
    return replace(
        rule,
        threshold=rule.threshold if threshold is None else threshold,
        for_seconds=rule.for_seconds if for_seconds is None else for_seconds,
        severity=rule.severity if severity is None else severity,
        enabled=rule.enabled if enabled is None else enabled,
    )


def _number(entry: Mapping[str, Any], key: str, place: str) -> float | None:
    value = entry.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_NUMBER:
        raise ValueError(f"{place}.{key}: expected a number from 0 to {_MAX_NUMBER:g}")
    return float(value)


class AlertsFile:
    """The current rules: the defaults with the overrides of a file, which `poll` reloads."""

    def __init__(self, path: Path | None, defaults: Sequence[AlertRule]) -> None:
        self._path = path
        self._defaults = tuple(defaults)
        self._seen: tuple[int, int, int] | None = None
        self.rules = self._defaults

    def poll(self) -> None:
        """Reloads the file if it has changed.

        An invalid file is logged once and changes nothing.
        """
        if self._path is None:
            return
        seen = self._signature(self._path)
        if seen == self._seen:
            return
        self._seen = seen
        if seen is None:
            self.rules = self._defaults
            return
        try:
            _require(seen[2] <= _MAX_FILE_BYTES, f"larger than {_MAX_FILE_BYTES} bytes")
            self.rules = override(self._defaults, json.loads(self._path.read_bytes()))
            _log.info("read alert rules from %s", self._path)
        except (OSError, ValueError, RecursionError) as error:
            _log.error("invalid alert rules in %s, keeping the previous ones: %s", self._path, error)

    @staticmethod
    def _signature(path: Path) -> tuple[int, int, int] | None:
        try:
            stat = path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino, stat.st_size

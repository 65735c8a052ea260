"""The alert catalogue and its evaluation: pure, with the clock passed in.

A rule compares one signal with its threshold. It becomes active when the comparison held without a break for
`for_seconds`, and ends with the first evaluation at which it does not. The defaults can be overridden from a JSON file
that is read again whenever it changes.
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
_MAX_NUMBER = 1e15  # an integer of hundreds of digits is valid JSON, but no float

# While one of these is active the engine answers nobody, so new requests are refused at the door.
ZERO_WORK = frozenset({"EngineUnresponsive", "GenerationStalled"})


@dataclass(frozen=True, slots=True)
class AlertRule:
    """One alert. A rule without a threshold is off. `message` may name {value} and {threshold}."""

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
        """Whether the signal is beyond the threshold; an unknown one (None, NaN) is not."""
        if value is None or self.threshold is None or not self.on:
            return False
        return bool(_COMPARISONS[self.comparison](value, self.threshold))


# Hung for 15 s on CUDA: the longest honest step (a full chunk of prefill on a slow GPU) takes about a second. On a CPU
# steps of many seconds are normal, and standing CPU time must confirm the hang, so 60 s.
HUNG_SECONDS: Mapping[Device, float] = {"cuda": 15.0, "cpu": 60.0}


def catalogue(device: Device) -> tuple[AlertRule, ...]:
    """The built-in rules. Only EngineUnresponsive depends on the device.

    The critical ones act at once (`for` 0): each is measured over a time of its own, so that no flicker can raise it.
    The warnings last a minute first: they lead to no action but scaling, which needs minutes, and bursts are normal.
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
        # Each step of a working scheduler brings a token or fills the cache; 30 s leave room for many that do not,
        # while requests are preempted or wait for a grammar. Judged at steps, so that a long one is no stall.
        AlertRule(
            "GenerationStalled", 30, "seconds", 0, "critical", "the engine steps, but no token came for {value} s"
        ),
        # A fact, not a measure: there is nothing to wait for.
        AlertRule("EngineDead", 0, "count", 0, "critical", "the engine's processes have ended"),
        # Only faults that the driver itself says need a reset or a repair count (see gpu.py): one is enough.
        AlertRule(
            "GPUUnhealthy", 0, "count", 0, "critical", "{value} GPU(s) report faults that need a reset or a repair"
        ),
        # At least 20 requests in the minute, or a single failure in a quiet one would be 100 %. A healthy engine fails
        # none; 5 % are two of 20, and more than a poisonous prompt that one client tries again brings.
        AlertRule("HighErrorRate", 5, "percent", 0, "critical", "{value} % of the last minute's requests failed"),
        # A line that is nearly full is about to refuse. A burst that is served within 30 s, the default deadline in the
        # line, hurts nobody.
        AlertRule("QueueSaturated", 90, "percent", 30, "warning", "the waiting line is {value} % full", ">="),
        # What people wait for before they leave or try again; a healthy replica is well below a second.
        AlertRule(
            "HighTTFT", 5, "seconds", 60, "warning", "the 95th percentile of the time to first token is {value} s"
        ),
        # What is long or slow depends on the model and on what is asked for: off until a threshold is given.
        AlertRule("HighLatency", None, "seconds", 60, "warning", "the 95th percentile of the latency is {value} s"),
        AlertRule("LowThroughput", None, "tokens/sec", 60, "warning", "decoding makes {value} tokens a second", "<"),
        # Above it vLLM preempts requests and computes them again. A prefix cache alone does not count as usage.
        AlertRule("KVCacheSaturated", 95, "percent", 60, "warning", "the KV cache is {value} % full"),
        # vLLM takes 90 % by default, for ever; 98 % leave next to nothing to CUDA's own needs or to neighbours.
        AlertRule("GPUMemoryHigh", 98, "percent", 60, "info", "{value} % of the GPU memory is taken"),
        # Data center GPUs slow themselves down from about here on, and switch off a few degrees above.
        AlertRule("GPUTemperatureHigh", 90, "celsius", 60, "warning", "the hottest GPU is at {value} C", ">="),
    )


@dataclass(frozen=True, slots=True)
class ActiveAlert:
    """An alert that fires. `since` is the clock's reading at its activation, `since_utc` the wall clock's."""

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
    """Since when each rule's comparison holds, and what fires."""

    pending: Mapping[str, float]
    active: tuple[ActiveAlert, ...] = ()

    def fires(self, name: str) -> bool:
        return any(alert.rule.name == name for alert in self.active)

    @property
    def zero_work(self) -> bool:
        """Whether the engine does no work at all."""
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
    """The state that follows from `before` and the signals (by rule name) read at `now`."""
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
    """The rules with the changes of an alerts file. Unknown names are ignored. Raises ValueError with the place."""
    entries = document.get("alerts") if isinstance(document, dict) else None
    _require(isinstance(entries, list), 'expected an object with a list "alerts"')
    changed = {rule.name: rule for rule in rules}
    for index, entry in enumerate(entries or ()):
        named = isinstance(entry, dict) and isinstance(entry.get("name"), str)
        _require(named, f"alerts[{index}]: expected an object with a name")
        rule = changed.get(entry["name"])
        if rule is None:
            _log.warning("alerts file: there is no alert called %.64r", entry["name"])
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
    """The rules in force: the built-in ones, with the changes of a file, which is polled."""

    def __init__(self, path: Path | None, defaults: Sequence[AlertRule]) -> None:
        self._path = path
        self._defaults = tuple(defaults)
        self._seen: tuple[int, int, int] | None = None
        self.rules = self._defaults

    def poll(self) -> None:
        """Reads the file again if it has changed. A broken one is logged once and changes nothing."""
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
            _log.info("alert rules read from %s", self._path)
        except (OSError, ValueError, RecursionError) as error:
            _log.error("alert rules in %s are broken, keeping the earlier ones: %s", self._path, error)

    @staticmethod
    def _signature(path: Path) -> tuple[int, int, int] | None:
        try:
            stat = path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino, stat.st_size

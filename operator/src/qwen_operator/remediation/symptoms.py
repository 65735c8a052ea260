"""What a pod's own metrics say about an alert, in a few words. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC
from typing import Any, Final

from qwen_operator.api import format_time, parse_time
from qwen_operator.remediation.values import Evidence

_UNIT: Final = re.compile(r"[A-Za-z%/]{1,20}")
_LONG: Final = 1e9


def symptom(evidence: Evidence | None, alert: str) -> str:
    """Value, threshold and begin of an alert: `16.2 seconds, threshold 15, since <time>`.

    A pod may report anything. What does not have the right form is left out; the result is empty if
    nothing is left.
    """
    found = _reported(evidence, alert)
    value, threshold = _number(found.get("value")), _number(found.get("threshold"))
    unit, begun = found.get("unit"), _begin(found.get("since"))
    parts = []
    if value:
        parts.append(f"{value} {unit}" if isinstance(unit, str) and _UNIT.fullmatch(unit) else value)
    if threshold:
        parts.append(f"threshold {threshold}")
    if begun:
        parts.append(f"since {begun}")
    return ", ".join(parts)


def in_brackets(text: str) -> str:
    """The text in brackets after a blank; empty for an empty one."""
    return f" ({text})" if text else ""


def _reported(evidence: Evidence | None, alert: str) -> Mapping[str, Any]:
    alerts = None if evidence is None else evidence.raw.get("alerts")
    for item in alerts if isinstance(alerts, list) else ():
        if isinstance(item, dict) and item.get("name") == alert:
            return item
    return {}


def _begin(since: Any) -> str:
    """When an alert began; empty if it is no time. The server writes UTC without an offset."""
    moment = parse_time(since) if isinstance(since, str) else None
    if moment is None:
        return ""
    try:
        return format_time(moment if moment.tzinfo is None else moment.astimezone(UTC))
    except OverflowError:  # the first and the last day of the calendar may not exist in UTC
        return ""


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return ""
    try:
        number = float(value)
    except OverflowError:
        return ""
    if not math.isfinite(number):
        return ""
    return f"{number:g}" if abs(number) >= _LONG else f"{number:.2f}".rstrip("0").rstrip(".")

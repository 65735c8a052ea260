"""The difference between two statuses, and which changes are worth an Event. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from qwen_operator.api import ServiceStatus
from qwen_operator.api.objects import EventType, Object
from qwen_operator.status.diagnosis import TRANSIENT

_FIELDS: Final = frozenset(field.alias or name for name, field in ServiceStatus.model_fields.items())
_GOOD_WHEN_FALSE: Final = ("Degraded", "RemediationSuspended")
_CALM: Final = {*TRANSIENT, "MinimumReplicasUnavailable", "ScaledToZero", "Complete", "UpdatePending"}
"""Reasons of conditions that are not good, but nothing has failed."""


def status_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> Object:
    """The merge patch from one status to another; empty if nothing changes.

    Remediation writes its own part. Fields that this version does not know are left as they are.
    """
    keys = ((old.keys() & _FIELDS) | new.keys()) - {"remediation"}
    return {key: _change(old.get(key), new.get(key)) for key in sorted(keys) if old.get(key) != new.get(key)}


def _change(old: Any, new: Any) -> Any:
    """A value in a merge patch, which would keep the fields of an object that are gone."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return new
    return {**dict.fromkeys(old.keys() - new.keys()), **new}


def transitions(
    old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]
) -> list[tuple[EventType, Mapping[str, Any]]]:
    """The conditions whose change is worth an Event, with the type of the Event.

    Conditions that change for the same reason make one Event, about the first that is bad. What
    only takes time is not a warning.
    """
    before = {item["type"]: (item["status"], item["reason"]) for item in old}
    worth_an_event: dict[str, tuple[EventType, Mapping[str, Any]]] = {}
    for item in new:
        kind, status, reason = item["type"], item["status"], item["reason"]
        good = (status == "False") == (kind in _GOOD_WHEN_FALSE)
        at_rest = good and kind not in before and kind in _GOOD_WHEN_FALSE
        # Each warning in HasWarnings gets an Event of its own.
        if kind == "HasWarnings" or before.get(kind) == (status, reason) or at_rest:
            continue
        calm = good or (reason in _CALM and kind != "Degraded")
        severity: EventType = "Normal" if calm else "Warning"
        known = worth_an_event.get(reason)
        if known is None or (known[0] == "Normal" and severity == "Warning"):
            worth_an_event[reason] = (severity, item)
    return list(worth_an_event.values())

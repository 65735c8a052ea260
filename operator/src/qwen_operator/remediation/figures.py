"""What remediation counts for each service.

Prometheus sees an increase only between two values, so a series that begins with 1 hides the first
event. Therefore every series that an alert looks at exists from the service's first round on.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from qwen_operator.api.catalogue import NAMES
from qwen_operator.api.objects import Key
from qwen_operator.api.series import labels_of
from qwen_operator.process.operator_metrics import (
    ACTIONS,
    DEATHS,
    PODS_OUT,
    PODS_RESTARTING,
    RESTARTS,
    SUSPENDED,
)
from qwen_operator.remediation.policy import Policy

_STEPS: Final = (
    ("Unready", "TakenOutOfRotation"),
    ("Ready", "BackInRotation"),
    ("Engine", "EngineRestarted"),
    ("InPlace", "RestartedInPlace"),
    ("Evict", "Evicted"),
)
"""Action and reason of the steps that change a pod."""


@cache
def _steps_of(alert: str) -> tuple[tuple[str, str, str], ...]:
    """The labels of the steps that an alert may cause: the same objects for all services."""
    return tuple((alert, action, reason) for action, reason in _STEPS)


def prepare(key: Key, policy: Policy) -> None:
    """Lets the counters of a service begin with 0."""
    service = labels_of(key)
    RESTARTS.begin(service)
    DEATHS.begin(service)
    ACTIONS.begin(service, [series for alert in filter(policy.takes_out, policy.alerts) for series in _steps_of(alert)])


def forget(key: Key) -> None:
    """Removes the series of a service that was deleted."""
    for metric in (PODS_OUT, PODS_RESTARTING, SUSPENDED, RESTARTS, DEATHS, ACTIONS):
        metric.forget(labels_of(key))


def show(key: Key, *, out: int, restarting: int, suspended: bool, died: int) -> None:
    """Shows the result of a round: pods out of rotation, and how many engines died.

    `restarting` are those of the pods out of rotation whose restart is in progress.
    """
    service = labels_of(key)
    PODS_OUT.set(service, out)
    PODS_RESTARTING.set(service, restarting)
    SUSPENDED.set(service, suspended)
    DEATHS.inc(service, died)


def show_suspension(key: Key, *, suspended: bool) -> None:
    """Shows whether remediation is suspended, outside of a decision."""
    SUSPENDED.set(labels_of(key), suspended)


def count_step(key: Key, alert: str, action: str, reason: str) -> None:
    """Counts a step of remediation, or one that a dry run reports.

    A gate that was closed by hand names any alert. Only those that exist become a series.
    """
    ACTIONS.inc(labels_of(key), 1, alert if alert in NAMES else "", action, reason)


def count_restart(key: Key) -> None:
    """Counts the restart of a pod."""
    RESTARTS.inc(labels_of(key))

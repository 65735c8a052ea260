"""What remediation counts for each service.

Prometheus sees an increase only between two values, so a series that begins with 1 hides the first
event. Therefore every series that an alert looks at exists from the service's first round on.
"""

from __future__ import annotations

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


def prepare(key: Key, policy: Policy) -> None:
    """Lets the counters of a service begin with 0."""
    labels = labels_of(key)
    RESTARTS.labels(*labels)
    DEATHS.labels(*labels)
    for alert in filter(policy.takes_out, policy.alerts):
        for action, reason in _STEPS:
            ACTIONS.labels(*labels, alert, action, reason)


def forget(key: Key) -> None:
    """Removes the series of a service that was deleted."""
    labels = labels_of(key)
    for metric in (PODS_OUT, PODS_RESTARTING, SUSPENDED, RESTARTS, DEATHS):
        metric.remove(*labels)
    ACTIONS.remove_by_labels({"namespace": key[0], "qwenservice": key[1]})


def show(key: Key, *, out: int, restarting: int, suspended: bool, died: int) -> None:
    """Shows the result of a round: pods out of rotation, and how many engines died.

    `restarting` are those of the pods out of rotation whose restart is in progress.
    """
    labels = labels_of(key)
    PODS_OUT.labels(*labels).set(out)
    PODS_RESTARTING.labels(*labels).set(restarting)
    SUSPENDED.labels(*labels).set(suspended)
    DEATHS.labels(*labels).inc(died)


def show_suspension(key: Key, *, suspended: bool) -> None:
    """Shows whether remediation is suspended, outside of a decision."""
    SUSPENDED.labels(*labels_of(key)).set(suspended)


def count_step(key: Key, alert: str, action: str, reason: str) -> None:
    """Counts a step of remediation, or one that a dry run reports.

    A gate that was closed by hand names any alert. Only those that exist become a series.
    """
    ACTIONS.labels(*labels_of(key), alert if alert in NAMES else "", action, reason).inc()


def count_restart(key: Key) -> None:
    """Counts the restart of a pod."""
    RESTARTS.labels(*labels_of(key)).inc()

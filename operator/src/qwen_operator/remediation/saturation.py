"""A service that gets more requests than it can serve. Pure.

Remediation does nothing about it: with a pod less it would be worse. But the condition HasWarnings
says it while it lasts, because the Events of the pods only say when it began.
"""

from __future__ import annotations

from typing import Final

from qwen_operator.api import ServiceStatus
from qwen_operator.planning.plan_warnings import PlanWarning
from qwen_operator.remediation.state import State

WARNING: Final = PlanWarning(
    "QueueSaturated",
    "The queues of more than half of the pods are almost full. Requests that find no room are refused with 503. Add "
    "replicas or set autoscaling. Nothing is restarted for this: it would make it worse.",
)


def is_saturated(state: State) -> bool:
    """Whether more than half of the pods that can be read have the alert, each in two polls."""
    streaks = [state.memory[pod.uid].streaks.get(WARNING.reason) for pod in state.members if state.current(pod)]
    return 2 * sum(streak is not None and streak.polls >= 2 for streak in streaks) > len(streaks)


def is_reported(status: ServiceStatus) -> bool:
    """Whether the status says it, perhaps that of an earlier process."""
    condition = status.condition("HasWarnings")
    return condition is not None and condition.status == "True" and f"{WARNING.reason}: " in condition.message

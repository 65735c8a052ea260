"""The ledger, `status.remediation`: restart budget, back-off, intents and history. Pure.

Times are whole seconds, rounded up, so that a window never ends early.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from qwen_operator.api import (
    MAX_EVIDENCE,
    MAX_HISTORY,
    MAX_RESTART_TIMES,
    HistoryEntry,
    RemediationStatus,
    RestartIntent,
)
from qwen_operator.remediation.policy import Policy


def whole_second(moment: datetime) -> datetime:
    """The time, rounded up to a whole second."""
    floor = moment.replace(microsecond=0)
    return floor if floor == moment else floor + timedelta(seconds=1)


def restarts_in_window(ledger: RemediationStatus, policy: Policy, now: datetime) -> list[datetime]:
    """The restarts that count against the budget. A time in the future counts as now."""
    start = now - timedelta(seconds=policy.window)
    return sorted(clamped for time in ledger.restart_times if (clamped := min(time, whole_second(now))) > start)


def budget_left(ledger: RemediationStatus, policy: Policy, now: datetime) -> int:
    """How many more restarts may begin now."""
    return max(0, policy.max_restarts - len(restarts_in_window(ledger, policy, now)))


def backoff_left(ledger: RemediationStatus, policy: Policy, now: datetime) -> float:
    """Seconds until a restart may begin, at most the maximum back-off (the clock may change)."""

    if ledger.backoff_until is None:
        return 0.0
    return min(policy.backoff_max, max(0.0, (ledger.backoff_until - now).total_seconds()))


def begin(ledger: RemediationStatus, intent: RestartIntent, policy: Policy, now: datetime) -> RemediationStatus:
    """The ledger with a new intent, which counts against the budget."""
    times = [*restarts_in_window(ledger, policy, now), intent.time]
    pause = min(policy.backoff_max, policy.backoff_base * 2.0 ** min(len(times) - 1, 30))
    return ledger.model_copy(
        update={
            "intents": [*ledger.intents, intent],
            "restart_times": times[-MAX_RESTART_TIMES:],
            "restarts_in_window": len(times),
            "last_restart_time": intent.time,
            "backoff_until": whole_second(intent.time + timedelta(seconds=pause)),
        }
    )


def progress(ledger: RemediationStatus, intent: RestartIntent) -> RemediationStatus:
    """The ledger with the new state of an intent."""
    intents = [intent if _same(old, intent) else old for old in ledger.intents]
    return ledger.model_copy(update={"intents": intents})


def finish(
    ledger: RemediationStatus, intent: RestartIntent, policy: Policy, now: datetime, *, refund: bool = False
) -> RemediationStatus:
    """The ledger without an intent. With a refund its restart no longer counts."""
    times = restarts_in_window(ledger, policy, now)
    if refund and intent.time in times:
        times.remove(intent.time)
    return ledger.model_copy(
        update={
            "intents": [old for old in ledger.intents if not _same(old, intent)],
            "restart_times": times,
            "restarts_in_window": len(times),
        }
    )


def reset(ledger: RemediationStatus, value: str) -> RemediationStatus:
    """The ledger with a reset budget. `value` is that of the annotation."""
    return ledger.model_copy(
        update={"handled_reset": value, "restart_times": [], "restarts_in_window": 0, "backoff_until": None}
    )


def remember(ledger: RemediationStatus, entries: Sequence[HistoryEntry]) -> RemediationStatus:
    """The ledger with new history entries. Long texts are cut, and the oldest entries dropped."""

    short = [
        entry.model_copy(
            update={
                "message": entry.message[:1024],
                "metrics": entry.metrics[:MAX_EVIDENCE],
                "termination_message": entry.termination_message[-MAX_EVIDENCE:],
            }
        )
        for entry in entries
    ]
    return ledger.model_copy(update={"history": [*ledger.history, *short][-MAX_HISTORY:]})


def _same(one: RestartIntent, other: RestartIntent) -> bool:
    return one.pod_uid == other.pod_uid and one.time == other.time

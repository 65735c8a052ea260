"""The ledger, `status.remediation`: restart budget, back-off, intents and history. Pure.

Times are whole seconds, rounded up, so that a window never ends early.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from qwen_operator.api import (
    MAX_EVIDENCE,
    MAX_HISTORY,
    MAX_REPLACED,
    MAX_RESTART_TIMES,
    HardwareReplacement,
    HistoryEntry,
    RemediationStatus,
    RestartIntent,
)
from qwen_operator.remediation.policy import Policy

_METHODS: Final = ("Engine", "InPlace", "Evict")
_NOT_MADE: Final = ("Blocked", "Cancelled")
"""How the history calls the end of a restart that was refused or cancelled."""


def whole_second(moment: datetime) -> datetime:
    """The time, rounded up to a whole second."""
    floor = moment.replace(microsecond=0)
    return floor if floor == moment else floor + timedelta(seconds=1)


def restarts_in_window(ledger: RemediationStatus, policy: Policy, now: datetime) -> list[datetime]:
    """The restarts that count against the budget. A time in the future counts as now."""
    start = now - timedelta(seconds=policy.window)
    return sorted(time for at in ledger.restart_times if (time := min(at, whole_second(now))) > start)


def budget_left(ledger: RemediationStatus, policy: Policy, now: datetime) -> int:
    """How many more restarts may begin now."""
    return max(0, policy.max_restarts - len(restarts_in_window(ledger, policy, now)))


def free_at(ledger: RemediationStatus, policy: Policy, now: datetime) -> datetime | None:
    """When an exhausted budget allows the next restart; None if it allows one now, or never."""
    times = restarts_in_window(ledger, policy, now)
    if not policy.max_restarts or len(times) < policy.max_restarts:
        return None
    return times[-policy.max_restarts] + timedelta(seconds=policy.window)


def backoff_left(ledger: RemediationStatus, policy: Policy, now: datetime) -> float:
    """Seconds until `backoffUntil`. One that is too far away is from a clock that was ahead."""
    left = 0.0 if ledger.backoff_until is None else (ledger.backoff_until - now).total_seconds()
    return left if 0.0 < left <= policy.backoff_max + 1.0 else 0.0


def paused_until(ledger: RemediationStatus, policy: Policy, pod_uid: str, now: datetime) -> datetime | None:
    """Until when a restart of the pod must wait; None if it may begin now.

    After a restart, all pods wait for the back-off. After one that was refused or cancelled, only
    its own pod waits.
    """
    backoff = ledger.backoff_until if backoff_left(ledger, policy, now) else None
    ended = not_made(ledger, pod_uid)
    if ended is not None and ended.action == "Blocked":
        return backoff
    ends = []
    if backoff is not None and ledger.restart_times:
        pause = timedelta(seconds=_pause(policy, len(ledger.restart_times)))
        ends.append(min(backoff, whole_second(max(ledger.restart_times) + pause)))
    if ended is not None and ended.time <= now:
        ends.append(whole_second(ended.time + timedelta(seconds=policy.backoff_base)))
    return max((end for end in ends if end > now), default=None)


def not_made(ledger: RemediationStatus, pod_uid: str) -> HistoryEntry | None:
    """The end of the pod's last restart, if it was refused or cancelled."""
    own = [entry for entry in ledger.history if entry.pod_uid == pod_uid and not entry.dry_run]
    return own[-1] if own and own[-1].action in _NOT_MADE else None


def tried(ledger: RemediationStatus, method: str, pod_uid: str, since: datetime) -> bool:
    """Whether the pod was restarted by a method. Refused and cancelled restarts do not count."""
    made, begun = False, ""
    for entry in ledger.history:
        if entry.pod_uid != pod_uid or entry.dry_run or entry.time <= since:
            continue
        if entry.action in _METHODS:
            made, begun = made or begun == method, entry.action
        elif entry.action in _NOT_MADE:
            begun = ""
    return made or begun == method


def future_times(
    ledger: RemediationStatus, known: Mapping[datetime, datetime], now: datetime
) -> dict[datetime, datetime]:
    """The times in the ledger that are in the future, and when that was first noticed.

    The clock that wrote them was ahead. They count as the moment when they were noticed, so that
    they end at some time.
    """
    times = {*ledger.restart_times, *(intent.time for intent in ledger.intents), ledger.last_restart_time}
    return {time: known.get(time, now) for time in times if time is not None and (time in known or time > now)}


def clamped(ledger: RemediationStatus, ahead: Mapping[datetime, datetime], policy: Policy) -> RemediationStatus:
    """The ledger with the times from `future_times` instead of those in the future."""
    until, last = ledger.backoff_until, ledger.last_restart_time
    if until is not None and last is not None and last in ahead:
        pause = min(policy.backoff_max, (until - last).total_seconds())
        until = ahead[last] + timedelta(seconds=pause)
    times = [ahead.get(time, time) for time in ledger.restart_times]
    return ledger.model_copy(update={"restart_times": times, "backoff_until": until})


def begin(
    ledger: RemediationStatus,
    intent: RestartIntent,
    policy: Policy,
    counted: Sequence[datetime],
    hardware: HardwareReplacement | None = None,
) -> RemediationStatus:
    """The ledger with a new intent, which counts against the budget.

    `counted` are the earlier times in the ledger that still count, `hardware` is what the pod
    leaves behind, if it is replaced for that.
    """
    times = [*counted, intent.time]
    replaced = [*ledger.replaced, hardware] if hardware is not None else ledger.replaced
    return ledger.model_copy(
        update={
            "intents": [*ledger.intents, intent],
            "restart_times": times[-MAX_RESTART_TIMES:],
            "restarts_in_window": len(times),
            "last_restart_time": intent.time,
            "backoff_until": whole_second(intent.time + timedelta(seconds=_pause(policy, len(times)))),
            "replaced": replaced[-MAX_REPLACED:],
        }
    )


def progress(ledger: RemediationStatus, intent: RestartIntent) -> RemediationStatus:
    """The ledger with the new state of an intent."""
    intents = [intent if _same(old, intent) else old for old in ledger.intents]
    return ledger.model_copy(update={"intents": intents})


def finish(ledger: RemediationStatus, intent: RestartIntent, *, refund: bool = False) -> RemediationStatus:
    """The ledger without an intent. With a refund it is as if its restart had never begun."""
    times, replaced = list(ledger.restart_times), ledger.replaced
    count, last, backoff = ledger.restarts_in_window, ledger.last_restart_time, ledger.backoff_until
    if refund and intent.time in times:
        times.remove(intent.time)
        count = max(0, count - 1)
        replaced = [item for item in replaced if (item.pod, item.time) != (intent.pod, intent.time)]
        if last == intent.time:
            # It could begin because the back-off before it was over.
            last, backoff = max(times, default=None), None
    return ledger.model_copy(
        update={
            "intents": [old for old in ledger.intents if not _same(old, intent)],
            "restart_times": times,
            "restarts_in_window": count,
            "last_restart_time": last,
            "backoff_until": backoff,
            "replaced": replaced,
        }
    )


def blocked(ledger: RemediationStatus, intent: RestartIntent, entry: HistoryEntry, policy: Policy) -> RemediationStatus:
    """The ledger after a restart was refused, most often an eviction. It is refunded.

    All attempts share one entry in the history, with the time of the first one. The next attempt
    waits for as long as the restart has been refused.
    """
    freed = finish(ledger, intent, refund=True)
    own = [item for item in freed.history if item.pod_uid == intent.pod_uid and not item.dry_run]
    # The entry of this attempt also stands for the decision that it follows from.
    decision = own.pop() if own and own[-1].action in _METHODS else None
    history = [item for item in freed.history if item is not decision]
    first = own[-1] if own and own[-1].action == entry.action else None
    since = intent.time if first is None else min(first.time, intent.time)
    pause = min(policy.backoff_max, max(policy.backoff_base, (intent.time - since).total_seconds()))
    until = whole_second(intent.time + timedelta(seconds=pause))
    freed = freed.model_copy(update={"history": history, "backoff_until": until})
    if first is None:
        return remember(freed, [entry.model_copy(update={"time": since})])
    kept = [entry.model_copy(update={"time": since}) if item is first else item for item in history]
    return freed.model_copy(update={"history": kept})


def reset(ledger: RemediationStatus, value: str) -> RemediationStatus:
    """The ledger with a reset budget. `value` is that of the annotation."""
    return ledger.model_copy(
        update={
            "handled_reset": value,
            "restart_times": [],
            "restarts_in_window": 0,
            "backoff_until": None,
            "replaced": [],
        }
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


def _pause(policy: Policy, restarts: int) -> float:
    """Seconds between the last of so many restarts and the next one."""
    return min(policy.backoff_max, policy.backoff_base * 2.0 ** min(restarts - 1, 30))


def _same(one: RestartIntent, other: RestartIntent) -> bool:
    return one.pod_uid == other.pod_uid and one.time == other.time

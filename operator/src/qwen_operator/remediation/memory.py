"""What is remembered about each pod between rounds, and how a round updates it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from qwen_operator.api import RestartIntent
from qwen_operator.api.catalogue import AlertClass
from qwen_operator.remediation.copies import replace
from qwen_operator.remediation.policy import AlertPolicy, Policy
from qwen_operator.remediation.values import Evidence, Gate, Instant, Pod, Round
from qwen_operator.status.conditions import Suspension
from qwen_operator.status.diagnosis import EXIT_ENGINE_DIED

MAX_FAILED_PROOFS: Final = 2
"""Consecutive failed test generations after which a pod without an alert counts as unhealthy."""
REPEAT_SECONDS: Final = 600.0
"""A pod that is taken out twice within so many seconds is restarted at once."""
_YOUNG_SECONDS: Final = 10.0
"""A process of this age may have begun before the restart of its container was heard of."""
_SECOND_POLL: Final = 0.6
"""After this part of the poll interval, an alert that was seen once is looked at again."""
_SOONEST: Final = 0.2
"""Seconds until the next poll at least, also if a pod may leave rotation sooner."""
_PROBE_LOST = 30.0
"""A test generation without a result after so many seconds counts as lost."""
_ENDPOINT_OUT = 5.0
"""Seconds after which a pod with a closed gate gets no new connections."""


@dataclass(frozen=True)
class Streak:
    """An uninterrupted alert, from its begin to the last poll that showed it.

    Attributes:
        polls: how many polls showed it. Those in quick succession count as one.
        since: when it began, see `_streaks`.
        first_seen: the time of the first poll that showed it.
        at: the time of the last one; `counted_at` is that of the last one that counts.
    """

    polls: int
    since: float
    first_seen: float
    at: float
    counted_at: float

    @property
    def seconds(self) -> float:
        """For how long it is known to have been active."""
        return self.at - self.since


@dataclass(frozen=True)
class Latch:
    """A pod that is, or should be, out of rotation.

    Attributes:
        since: when the pod was first to be taken out; the `for` of Restart counts from here.
        held_back: the pod stays in rotation, for lack of a gate or because of minReadyReplicas.
        repeated: the pod was out of rotation shortly before.
        renewed: the container was restarted since, so the engine is a new one.
        released: why the pod may return; its gate is being opened.
    """

    alert: str
    since: float
    held_back: bool = False
    repeated: bool = False
    renewed: bool = False
    released: str = ""


@dataclass(frozen=True)
class PodMemory:
    """What is remembered about a pod between rounds, but not across restarts of the operator.

    Attributes:
        fresh: whether the last round had fresh evidence, asked for within the last three polls;
            `fresh_at` is when the last one that differed from the one before was asked for.
        unread_since: since when a ready pod has given no new metrics that can be read.
        last_active: when fresh evidence last had an alert, for the alerts of the last three polls.
        quiet_since, quiet_polls: since when, and in how many polls, fresh evidence shows no alert
            that takes a pod out.
        proofs: when the consecutive successful test generations were requested.
        failures: the number of consecutive failed test generations.
        probing_since: since when a test generation is in progress.
        idle_polls: consecutive polls without a request, some time after the gate closed.
        running: whether its containers were ready in the last round.
        restarts_seen: the restart count in the last round.
        engine_restarts, engine_restarts_left: what the server said last of the restarts of its
            engine, see `Evidence`.
        restarting: whether the server restarts its engine, and has for no longer than a start may
            take; `restarting_since` is since when it says so, and `engine_back` when that ended.
        latest: the latest evidence; `lost` is the last one of the process before, which is gone.
        deaths: how often the engine died since its container was last ready; `dying_since` is when
            it first did.
        kills: how often the container was killed for lack of memory. Another node does not help
            then, so these are no deaths.
        notified: the reasons of the Events that were written: alerts, and MetricsUnreadable.
        reported_until: when an alert that was reported was last active, or was first seen to have
            ended.
        would_leave: whether a dry run has reported that the pod would be taken out.
        would_restart: the restart that a dry run has reported.
    """

    first_seen: float
    uptime: float | None = None
    fresh: bool = False
    fresh_at: float | None = None
    unread_since: float | None = None
    streaks: Mapping[str, Streak] = field(default_factory=dict)
    last_active: Mapping[str, float] = field(default_factory=dict)
    quiet_since: float | None = None
    quiet_polls: int = 0
    latch: Latch | None = None
    last_latch: float | None = None
    proofs: tuple[float, ...] = ()
    failures: int = 0
    probing_since: float | None = None
    closed_since: float | None = None
    idle_polls: int = 0
    running: bool = True
    restarts_seen: int | None = None
    engine_restarts: int | None = None
    engine_restarts_left: int = 0
    restarting: bool = False
    restarting_since: float | None = None
    engine_back: float | None = None
    latest: Evidence | None = field(default=None, compare=False)
    lost: Evidence | None = field(default=None, compare=False)
    deaths: int = 0
    kills: int = 0
    dying_since: float | None = None
    notified: frozenset[str] = frozenset()
    reported_until: Mapping[str, float] = field(default_factory=dict)
    would_leave: bool = False
    would_restart: RestartIntent | None = None


@dataclass(frozen=True)
class Memory:
    """What is remembered about a service between rounds.

    Attributes:
        pods: by UID.
        start: the time of the first round. Later, only the monotonic clock counts, so that a wall
            clock that jumps neither ends a restart nor refills the budget.
        ahead: times in the ledger that were in the future, and when that was noticed. They count as
            that moment.
        suspended: why remediation was suspended, and when it last was.
        saturated_at: when the queues of most pods were last full; None if that is over.
    """

    pods: Mapping[str, PodMemory] = field(default_factory=dict)
    start: Instant | None = None
    ahead: Mapping[datetime, datetime] = field(default_factory=dict)
    suspended: tuple[Suspension, float] | None = None
    saturated_at: float | None = None

    def steady(self, now: Instant) -> Instant:
        """The time, by a wall clock that advances with the monotonic one."""
        if self.start is None:
            return now
        return Instant(now.mono, self.start.wall + timedelta(seconds=now.mono - self.start.mono))


def observe(memory: Memory, seen: Round, policy: Policy, now: Instant) -> dict[str, PodMemory]:
    """The memory of the pods after a round. Pods that no longer exist are dropped."""
    return {
        pod.uid: _pod(memory.pods.get(pod.uid) or PodMemory(first_seen=now.mono), pod, seen, policy, now)
        for pod in seen.pods
        if not pod.deleting
    }


def _pod(old: PodMemory, pod: Pod, seen: Round, policy: Policy, now: Instant) -> PodMemory:
    # An alert may have been turned off since, also while the pod gave no answer.
    streaks = {alert: streak for alert, streak in old.streaks.items() if alert in policy.alerts}
    memory = _deaths(_gate(replace(old, streaks=streaks), pod, policy, now), pod, now)
    evidence = seen.evidence.get(pod.uid)
    asked = now if evidence is None or evidence.asked_at is None else replace(now, mono=evidence.asked_at)
    advanced = evidence is not None and evidence.uptime != memory.uptime
    fresh = advanced and now.mono - asked.mono <= policy.current_for
    unread = pod.uid in seen.evidence and not advanced and pod.ready and pod.node_ready
    since = memory.unread_since if memory.unread_since is not None else now.mono
    memory = replace(memory, fresh=fresh, unread_since=since if unread else None)
    if evidence is not None and advanced:
        memory = _fresh(memory, evidence, policy, asked)
    return _proof(memory, seen.proofs.get(pod.uid), now)


def _gate(memory: PodMemory, pod: Pod, policy: Policy, now: Instant) -> PodMemory:
    closed = pod.gate is Gate.CLOSED
    latch = memory.latch
    if latch is None and closed and policy.mode == "Enforce":
        # An earlier process closed the gate. The pod stays out until it has recovered.
        age = max(0.0, (now.wall - pod.closed_since).total_seconds()) if pod.closed_since else 0.0
        latch = Latch(alert=pod.closed_for, since=now.mono - age)
    elif latch is not None and latch.held_back and closed:
        latch = replace(latch, held_back=False)
    elif latch is not None and latch.released and not closed:
        latch = None
    closed_since = (memory.closed_since if memory.closed_since is not None else now.mono) if closed else None
    return replace(memory, latch=latch, closed_since=closed_since, idle_polls=memory.idle_polls if closed else 0)


def _deaths(memory: PodMemory, pod: Pod, now: Instant) -> PodMemory:
    """Counts deaths of the engine and kills, starting at 0 when the operator starts."""
    more = 0 if memory.restarts_seen is None else max(0, pod.restarts - memory.restarts_seen)
    died = more if pod.exit_code == EXIT_ENGINE_DIED else 0
    deaths = 0 if pod.running and not died else memory.deaths + died
    kills = memory.kills + (more if pod.out_of_memory and not died else 0)
    since = None if not deaths else memory.dying_since if memory.dying_since is not None else now.mono
    # A new container has a new engine, also if nothing of it can be read yet.
    memory = replace(memory, running=pod.running, restarts_seen=pod.restarts, restarting=memory.restarting and not more)
    return replace(memory, deaths=deaths, kills=kills, dying_since=since)


def died_since(before: PodMemory, after: PodMemory) -> int:
    """How often the engine died, or was killed with its container, between two rounds."""
    return max(0, after.deaths - before.deaths) + after.kills - before.kills


def last_words(before: PodMemory) -> Evidence | None:
    """What a container said last that has died since. The next one may have answered already."""
    latest = before.latest
    return before.lost if latest is not None and latest.uptime < _YOUNG_SECONDS and before.lost else latest


def _fresh(memory: PodMemory, evidence: Evidence, policy: Policy, now: Instant) -> PodMemory:
    restarted = memory.uptime is not None and evidence.uptime < memory.uptime
    known = memory.engine_restarts
    renewed = known is not None and evidence.engine_restarts > known
    begun = memory.restarting_since if memory.restarting_since is not None and not restarted else now.mono
    lasts = evidence.restarting and now.mono - begun <= policy.startup
    back = memory.restarting_since is not None or renewed
    memory = replace(
        memory,
        engine_restarts=evidence.engine_restarts,
        engine_restarts_left=evidence.engine_restarts_left,
        restarting=lasts,
        restarting_since=begun if evidence.restarting else None,
        engine_back=None if evidence.restarting else now.mono if back else memory.engine_back,
        latest=evidence,
        lost=memory.latest if restarted else memory.lost,
    )
    if restarted or renewed:
        # A new container or engine starts from zero: all durations count from now.
        latch = None if memory.latch is None else replace(memory.latch, since=now.mono, repeated=False, renewed=True)
        memory = replace(memory, latch=latch, streaks={}, proofs=(), failures=0, probing_since=None)
        memory = replace(memory, fresh_at=None, quiet_since=None, quiet_polls=0, last_active={})
    streaks = _streaks(memory, evidence, policy, now)
    # Also of a pod that restarts its engine: what it has in common with others is systemic.
    memory = replace(memory, last_active=_last_active(memory, streaks, policy, now))
    if lasts:
        # It is neither sick nor dead, and no proof of health either.
        memory = replace(memory, streaks={}, proofs=(), failures=0, quiet_since=None, quiet_polls=0)
        return replace(memory, uptime=evidence.uptime, fresh_at=now.mono, idle_polls=0)
    if evidence.restarting and not memory.running:
        memory = replace(memory, proofs=(), failures=MAX_FAILED_PROOFS)  # nothing can be asked for
    unhealthy = any(policy.takes_out(alert) for alert in streaks)
    out_long_enough = memory.closed_since is not None and now.mono - memory.closed_since >= _ENDPOINT_OUT
    latch = memory.latch
    if latch is not None and latch.released and unhealthy:
        latch = replace(latch, released="")
    return replace(
        memory,
        uptime=evidence.uptime,
        fresh_at=now.mono,
        streaks=streaks,
        quiet_since=None if unhealthy else memory.quiet_since if memory.quiet_since is not None else now.mono,
        quiet_polls=0 if unhealthy else memory.quiet_polls + 1,
        proofs=() if unhealthy else memory.proofs,
        idle_polls=memory.idle_polls + 1 if out_long_enough and evidence.busy == 0 else 0,
        reported_until={**memory.reported_until, **dict.fromkeys(memory.notified, now.mono)},
        notified=memory.notified & streaks.keys(),
        latch=latch,
    )


def _streaks(memory: PodMemory, evidence: Evidence, policy: Policy, now: Instant) -> dict[str, Streak]:
    """The streaks of the active alerts. A long gap between two polls starts a new streak.

    A pod says for how long its alert has been active, by a clock of its own. That makes a streak
    longer by the time between the last answer without the alert and the first one with it, at most.
    The answers after that must confirm it: the latest begin that one of them gives counts. So a
    clock that jumps, or a single answer, gains nothing.
    """
    last = memory.fresh_at
    if last is None or now.mono - last > policy.current_for:
        last = now.mono
    streaks = {}
    for alert in evidence.alerts & policy.alerts.keys():
        old = memory.streaks.get(alert)
        told = now.mono - evidence.active_for.get(alert, 0.0)
        if old is None or now.mono - old.at > policy.current_for:
            streaks[alert] = Streak(1, max(last, told), now.mono, now.mono, now.mono)
        else:
            # An extra poll, right after a decision, does not make an alert persistent.
            polls = old.polls + (now.mono - old.counted_at >= policy.poll / 2)
            counted_at = now.mono if polls > old.polls else old.counted_at
            since = min(old.first_seen, max(old.since, told))
            streaks[alert] = Streak(polls, since, old.first_seen, now.mono, counted_at)
    return streaks


def _last_active(memory: PodMemory, alerts: Iterable[str], policy: Policy, now: Instant) -> dict[str, float]:
    kept = {alert: at for alert, at in memory.last_active.items() if now.mono - at <= policy.current_for}
    return {**kept, **dict.fromkeys(alerts, now.mono)}


def _proof(memory: PodMemory, result: bool | None, now: Instant) -> PodMemory:
    asked = memory.probing_since
    if asked is None:
        return memory
    if result is None:
        lost = now.mono - asked > _PROBE_LOST
        return replace(memory, probing_since=None) if lost else memory
    if not result:
        return replace(memory, probing_since=None, proofs=(), failures=memory.failures + 1)
    healthy = memory.quiet_since is not None
    # The first one and the last three say how many there were, and over how long.
    kept = (*memory.proofs[:1], *memory.proofs[1:][-2:])
    proofs = (*kept, asked) if healthy else ()
    return replace(memory, probing_since=None, proofs=proofs, failures=0)


def next_poll(memory: Memory, policy: Policy) -> float:
    """Seconds until the next poll.

    The polls that decide whether a pod with an alert leaves rotation come sooner, and so do those
    that show whether a new engine works. They are late enough to count, see `Streak`. One comes
    just when an alert has lasted for long enough.
    """
    pauses = [policy.poll]
    for pod in memory.pods.values():
        if not pod.fresh:
            continue
        if pod.latch is not None and not pod.latch.held_back:
            if pod.latch.renewed and not pod.latch.released:
                pauses.append(_SECOND_POLL * policy.poll)
            continue
        for alert, streak in pod.streaks.items():
            if policy.takes_out(alert):
                pauses += [_SECOND_POLL * policy.poll, *_decisive(policy.alerts[alert], streak)]
    return min(pauses)


def _decisive(rule: AlertPolicy, streak: Streak) -> Iterator[float]:
    """Seconds until an alert that two polls have shown has lasted for as long as a step needs."""
    for needed in (rule.unready_after, rule.threshold if rule.kind is AlertClass.ZERO_WORK else None):
        if needed is not None and streak.polls >= 2 and streak.seconds < needed:
            yield max(_SOONEST, needed - streak.seconds)


def take_out(memory: PodMemory, alert: str, now: Instant, *, held_back: bool) -> PodMemory:
    """The memory of a pod that is taken out, or would be if the guards allowed it."""

    latch = memory.latch
    if latch is None:
        repeated = memory.last_latch is not None and now.mono - memory.last_latch <= REPEAT_SECONDS
        latch = Latch(alert=alert, since=now.mono, held_back=held_back, repeated=repeated)
    return replace(
        memory,
        latch=replace(latch, held_back=held_back),
        last_latch=memory.last_latch if held_back else now.mono,
        proofs=(),
        failures=0,
    )

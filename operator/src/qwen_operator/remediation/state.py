"""The state during a decision: which pods are in rotation, and which may leave it. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from qwen_operator.api import RemediationStatus, RestartIntent
from qwen_operator.api.catalogue import AlertClass
from qwen_operator.remediation.memory import PodMemory
from qwen_operator.remediation.policy import Policy
from qwen_operator.remediation.values import Gate, Instant, Pod, Round


@dataclass
class State:
    """The inputs of a decision. `memory` and `ledger` are updated while it is made.

    Attributes:
        ledger: its times in the future are replaced, see `ahead`.
        now: the time by a clock that does not jump, see `Memory.start`; `wall` is the real one.
        ahead: times in the ledger that were in the future, see `Memory`.
        restart_times: those of the ledger in the API.
        reported: pods whose restart a dry run has reported.
        began: when this process first looked at the service, on the monotonic clock.
    """

    seen: Round
    policy: Policy
    ledger: RemediationStatus
    memory: dict[str, PodMemory]
    now: Instant
    wall: datetime
    ahead: Mapping[datetime, datetime]
    restart_times: tuple[datetime, ...]
    reported: frozenset[str] = frozenset()
    began: float = math.inf

    @property
    def members(self) -> list[Pod]:
        """The pods that are not being deleted."""
        return [pod for pod in self.seen.pods if not pod.deleting]

    def age(self, intent: RestartIntent) -> float:
        """Seconds since a restart was decided. A time in the future counts as when it was seen."""
        begun = self.ahead.get(intent.time, intent.time)
        return max(0.0, (self.now.wall - begun).total_seconds())

    def current(self, pod: Pod) -> bool:
        """Whether there is evidence from one of the last three polls."""
        fresh_at = self.memory[pod.uid].fresh_at
        return fresh_at is not None and self.now.mono - fresh_at <= self.policy.current_for

    def out(self, pod: Pod) -> bool:
        """Whether the operator keeps the pod out of rotation."""
        latch = self.memory[pod.uid].latch
        return latch is not None and not latch.held_back and pod.gate is not Gate.MISSING

    def surely_dead(self, pod: Pod) -> bool:
        """Whether the engine has stood still for twice the threshold, so the pod cannot serve.

        The server raises a zero-work alert when the threshold is over. So the alert must have
        lasted for as long again.
        """
        return self.current(pod) and any(
            streak.polls >= 2
            and (policy := self.policy.alerts[alert]).kind is AlertClass.ZERO_WORK
            and streak.seconds >= policy.threshold
            for alert, streak in self.memory[pod.uid].streaks.items()
        )

    def in_rotation(self, pod: Pod) -> bool:
        """Whether the pod gets requests and may answer them."""
        return pod.ready and pod.node_ready and not self.out(pod) and not self.surely_dead(pod)

    def serves(self, pod: Pod) -> bool:
        """Whether current evidence shows that the pod answers requests.

        A silent pod may be on a node that is lost, and one with a zero-work alert answers none.
        """
        hung = any(self.policy.kind(alert) is AlertClass.ZERO_WORK for alert in self.memory[pod.uid].streaks)
        return self.in_rotation(pod) and self.current(pod) and not hung

    def others_serve(self, pod: Pod) -> int:
        """The number of other pods that serve."""
        return sum(self.serves(other) for other in self.members if other.uid != pod.uid)

    def may_leave(self, pod: Pod) -> bool:
        """Whether the pod does not serve, or minReadyReplicas pods serve without it."""
        return not self.in_rotation(pod) or self.others_serve(pod) >= self.policy.min_ready

    def systemic(self, alert: str, about: Pod) -> bool:
        """Whether more than half of the pods have, or just had, the alert that `about` has.

        Other pods that are out for other reasons do not count. Silent pods count as not having it.
        """
        have, total = 1, 1
        for pod in self.members:
            memory = self.memory[pod.uid]
            out_for_it = self.out(pod) and memory.latch is not None and memory.latch.alert == alert
            if pod.uid != about.uid and (out_for_it or self.in_rotation(pod)):
                total += 1
                at = memory.last_active.get(alert)
                have += out_for_it or (at is not None and self.now.mono - at <= self.policy.current_for)
        return 2 * have > total

    def intent_of(self, pod: Pod) -> RestartIntent | None:
        """The restart of the pod that is in progress."""
        return next((intent for intent in self.ledger.intents if intent.pod_uid == pod.uid), None)

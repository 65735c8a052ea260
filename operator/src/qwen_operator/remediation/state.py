"""The state during a decision: which pods are in rotation, and which may leave it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from qwen_operator.api import RemediationStatus, RestartIntent
from qwen_operator.api.catalogue import AlertClass
from qwen_operator.remediation.memory import PodMemory
from qwen_operator.remediation.policy import Policy
from qwen_operator.remediation.values import Gate, Instant, Pod, Round


@dataclass
class State:
    """The inputs of a decision. `memory` and `ledger` are updated while it is made."""

    seen: Round
    policy: Policy
    ledger: RemediationStatus
    memory: dict[str, PodMemory]
    now: Instant

    @property
    def members(self) -> list[Pod]:
        """The pods that are not being deleted."""
        return [pod for pod in self.seen.pods if not pod.deleting]

    def out(self, pod: Pod) -> bool:
        """Whether the operator keeps the pod out of rotation."""
        latch = self.memory[pod.uid].latch
        return latch is not None and not latch.held_back and pod.gate is not Gate.MISSING

    def surely_dead(self, pod: Pod) -> bool:
        """Whether a zero-work alert was active for twice its threshold, so the pod cannot serve."""

        memory = self.memory[pod.uid]
        return memory.fresh and any(
            streak.polls >= 2
            and (policy := self.policy.alerts[alert]).kind is AlertClass.ZERO_WORK
            and streak.seconds >= 2 * policy.threshold
            for alert, streak in memory.streaks.items()
        )

    def in_rotation(self, pod: Pod) -> bool:
        """Whether the pod counts as serving."""
        return pod.ready and pod.node_ready and not self.out(pod) and not self.surely_dead(pod)

    def rotation(self) -> int:
        """The number of serving pods."""
        return sum(self.in_rotation(pod) for pod in self.members)

    def may_leave(self, pod: Pod) -> bool:
        """Whether the pod does not serve, or minReadyReplicas pods serve without it."""
        return not self.in_rotation(pod) or self.rotation() - 1 >= self.policy.min_ready

    def systemic(self, alert: str) -> bool:
        """Whether more than half of the pods have the alert.

        Pods that are out for other reasons do not count.
        """
        have, total = 0, 0
        for pod in self.members:
            latch = self.memory[pod.uid].latch
            out_for_it = self.out(pod) and latch is not None and latch.alert == alert
            if out_for_it or self.in_rotation(pod):
                total += 1
                have += out_for_it or alert in self.memory[pod.uid].streaks
        return 2 * have > total

    def intent_of(self, pod: Pod) -> RestartIntent | None:
        """The restart of the pod that is in progress."""

        return next((intent for intent in self.ledger.intents if intent.pod_uid == pod.uid), None)

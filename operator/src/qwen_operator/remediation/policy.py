"""The remediation policy of a QwenService, from its spec. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from qwen_operator.api import MAX_RESTART_TIMES, QwenServiceSpec
from qwen_operator.api.catalogue import Action, Alert, AlertClass
from qwen_operator.planning.alerts import effective_alerts

EVIDENCE_POLLS: Final = 3
"""Decisions never rest on evidence that is older than so many polls."""
POLL_SECONDS: Final = 1.0
"""Seconds that a pod has for an answer to a poll."""
BLIND_SECONDS: Final = 30.0
"""Seconds without readable metrics after which an Event or a condition says so."""
BLIND_POLLS: Final = 15
"""The same in polls, which counts if it is sooner."""

Mode = Literal["Enforce", "DryRun", "Off"]
Method = Literal["Auto", "Engine", "InPlace", "Evict"]


@dataclass(frozen=True)
class AlertPolicy:
    """What remediation may do about one alert.

    Attributes:
        threshold: the server's threshold, if its unit is seconds.
        unready_after: seconds that the alert must be active (in at least two polls) before the pod
            is taken out; None means never.
        restart_after: seconds from then until the restart; None means never.
        restart_in_outage: the same while no other pod serves and the engine is hung beyond doubt.
            Then only a delay that the spec sets is waited for.
        report_after: seconds until an Event reports the alert; None means never.
    """

    kind: AlertClass
    threshold: float = 0.0
    unready_after: float | None = None
    restart_after: float | None = None
    restart_in_outage: float | None = None
    report_after: float | None = None


@dataclass(frozen=True)
class Policy:
    """The policy of one service. Durations are in seconds."""

    mode: Mode = "Enforce"
    alerts: Mapping[str, AlertPolicy] = field(default_factory=dict)
    poll: float = 2.0
    min_ready: int = 1
    recover_after: float = 30.0
    method: Method = "Auto"
    max_restarts: int = 3
    window: float = 3600.0
    backoff_base: float = 30.0
    backoff_max: float = 600.0
    startup: float = 1800.0
    drain: float = 60.0

    @property
    def current_for(self) -> float:
        """Seconds for which evidence counts: three polls, and the time that a poll may take."""
        return EVIDENCE_POLLS * self.poll + POLL_SECONDS

    @property
    def blind_after(self) -> float:
        """Seconds after which an Event or a condition says that a pod cannot be read.

        By then the kubelet has noticed a server that does not answer at all.
        """
        return max(self.current_for, min(BLIND_SECONDS, BLIND_POLLS * self.poll))

    def kind(self, alert: str) -> AlertClass | None:
        """The class of an alert, None if it is unknown or off."""
        policy = self.alerts.get(alert)
        return None if policy is None else policy.kind

    def takes_out(self, alert: str) -> bool:
        """Whether an alert can take a pod out of rotation."""
        policy = self.alerts.get(alert)
        return policy is not None and policy.unready_after is not None


def alert_policy(alert: Alert, *, by_rule: bool = False) -> AlertPolicy:
    """The policy of an alert. `by_rule` says that its actions come from the spec.

    Saturation never takes a pod out or restarts it, whatever the rules say. A dead engine is out
    of rotation anyway, so its only actions are an Event and a replacement.
    """
    delays = {rule.action: rule.for_seconds or 0.0 for rule in alert.actions}
    acts = alert.alert_class in (AlertClass.ZERO_WORK, AlertClass.BROKEN_HARDWARE, AlertClass.RELATIVE)
    disruptive = Action.UNREADY in delays or Action.RESTART in delays
    takes_out = acts and disruptive
    died = alert.alert_class is AlertClass.DEATH
    restart_after = delays.get(Action.RESTART) if acts or died else None
    return AlertPolicy(
        kind=alert.alert_class,
        threshold=(alert.threshold or 0.0) if alert.unit == "seconds" else 0.0,
        unready_after=delays.get(Action.UNREADY, 0.0) if takes_out else None,
        restart_after=restart_after,
        restart_in_outage=restart_after if by_rule or restart_after is None else 0.0,
        report_after=delays.get(Action.EVENT, 0.0 if died and disruptive else None),
    )


def policy_of(spec: QwenServiceSpec) -> Policy:
    """The policy of a spec."""
    remediation = spec.remediation
    ruled = {rule.alert for rule in remediation.rules}
    alerts = effective_alerts(spec.engine.device, spec.alerts, remediation.rules)
    return Policy(
        mode=remediation.mode,
        alerts={alert.name: alert_policy(alert, by_rule=alert.name in ruled) for alert in alerts if alert.active},
        poll=max(0.1, remediation.poll_interval.total_seconds()),
        min_ready=spec.min_ready_replicas,
        recover_after=remediation.recover_after.total_seconds(),
        method=remediation.restart_method,
        max_restarts=min(MAX_RESTART_TIMES, spec.max_restarts),
        window=remediation.restart_budget.window.total_seconds(),
        backoff_base=remediation.backoff.base.total_seconds(),
        backoff_max=remediation.backoff.max.total_seconds(),
        startup=spec.rollout.startup_timeout.total_seconds(),
        drain=spec.drain.timeout.total_seconds(),
    )

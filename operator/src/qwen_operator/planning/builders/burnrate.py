"""Alerts on the error budgets of `spec.slo`.

As in Google's SRE workbook ("Alerting on SLOs"), an alert compares a long and a short window with
the pace at which the budget of the whole window is used up. The long window keeps it from firing
for a blip, the short one ends it soon after the errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Final, NamedTuple

from qwen_operator.api import QwenService, format_duration
from qwen_operator.api.objectives import SloSpec
from qwen_operator.api.objects import Object
from qwen_operator.planning.builders.alertrule import PREFIX, alert_rule
from qwen_operator.planning.builders.promql import failed_or_refused, in_time, pods_of, ratio
from qwen_operator.planning.monitoring import MonitoringDefaults

ALERT: Final = f"{PREFIX}ErrorBudgetBurn"
_RECORD: Final = "service:qwen_slo_errors:ratio_rate"


class Pace(NamedTuple):
    """Two windows, and the share of the budget that may be used up in the long one."""

    share: Decimal
    hours: int
    long: str
    short: str

    def factor(self, window: timedelta) -> Decimal:
        """How many times faster than allowed the budget of the whole window is used up."""
        return self.share * (window.days * 24) / self.hours


# With a window of 30 days the factors are 14.4, 6 and 1.
_SEVERITIES: Final = (
    ("critical", (Pace(Decimal("0.02"), 1, "1h", "5m"), Pace(Decimal("0.05"), 6, "6h", "30m"))),
    ("warning", (Pace(Decimal("0.1"), 72, "3d", "6h"),)),
)
_WINDOWS: Final = ("5m", "30m", "1h", "6h", "3d")


class Objective(NamedTuple):
    """What shall hold for a percentage of the requests, and the requests for which it does not.

    `errors` has their ratio for each window.
    """

    name: str
    percentage: Decimal
    failing: str
    errors: dict[str, str]


def burn_rate_group(service: QwenService, slo: SloSpec, defaults: MonitoringDefaults) -> Object:
    """The group of rules: the errors' ratio over each window, and the alerts."""
    objectives = _objectives(service, slo)
    records = [
        {"record": f"{_RECORD}{window}", "expr": objective.errors[window], "labels": {"slo": objective.name}}
        for objective in objectives
        for window in _WINDOWS
    ]
    alerts = [
        _alert(service, slo.window, objective, severity, limits, defaults=defaults)
        for objective in objectives
        for severity, paces in _SEVERITIES
        if (limits := _limits(slo.window, objective, paces))
    ]
    return {"name": f"qwen-{service.name}-slo", "rules": [*records, *alerts]}


def without_alert(service: QwenService, slo: SloSpec) -> list[str]:
    """The objectives that make no alert: they allow so much that no ratio of errors is too fast."""
    return [
        objective.name
        for objective in _objectives(service, slo)
        if not any(_limits(slo.window, objective, paces) for _, paces in _SEVERITIES)
    ]


def lowest_percentage(window: timedelta) -> Decimal:
    """An objective above this percentage makes an alert."""
    slowest = min(pace.factor(window) for _, paces in _SEVERITIES for pace in paces)
    return max(Decimal(0), 100 * (1 - 1 / slowest))


def _objectives(service: QwenService, slo: SloSpec) -> list[Objective]:
    found = []
    if slo.availability is not None:
        errors = {window: failed_or_refused(service, window) for window in _WINDOWS}
        found.append(Objective("availability", Decimal(slo.availability), "failed or were refused", errors))
    if slo.ttft is not None:
        fast, answered = in_time(service, slo.ttft), f"qwen_ttft_seconds_count{{{pods_of(service)}}}"
        slow = {window: f"1 - {ratio(fast, answered, window)}" for window in _WINDOWS}
        late = f"had no token within {format_duration(slo.ttft.threshold)}"
        found.append(Objective("ttft", Decimal(slo.ttft.objective), late, slow))
    return found


def _limits(window: timedelta, objective: Objective, paces: Sequence[Pace]) -> list[tuple[Pace, float]]:
    """The ratio of errors for each pace. One that no ratio can exceed is left out."""
    budget = 1 - objective.percentage / 100
    limits = [(pace, pace.factor(window) * budget) for pace in paces]
    return [(pace, float(limit)) for pace, limit in limits if limit < 1]


def _alert(
    service: QwenService,
    window: timedelta,
    objective: Objective,
    severity: str,
    limits: Sequence[tuple[Pace, float]],
    *,
    defaults: MonitoringDefaults,
) -> Object:
    labels = f'{pods_of(service)},slo="{objective.name}"'
    exceeded = [
        f"({_RECORD}{pace.long}{{{labels}}} > {limit:g} and {_RECORD}{pace.short}{{{labels}}} > {limit:g})"
        for pace, limit in limits
    ]
    return alert_rule(
        service,
        ALERT,
        " or ".join(exceeded),
        severity=severity,
        summary=f"The error budget of the objective {objective.name} is used up too fast.",
        description=f"QwenService {service.namespace}/{service.name}: {{{{ $value | humanizePercentage }}}} of "
        f"the requests {objective.failing}. The objective allows {100 - objective.percentage} % in {window.days} "
        "days.",
        runbook=defaults.runbook(ALERT),
        labels={"slo": objective.name},
    )

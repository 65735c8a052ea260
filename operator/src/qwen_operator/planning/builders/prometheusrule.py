"""The PrometheusRule: the alerts that the servers report, as alerts of Prometheus.

The servers evaluate thresholds and durations and export the result. Prometheus therefore always
agrees with `alerts[]` and with remediation, and a changed threshold takes effect at once.
"""

from __future__ import annotations

from typing import Final

from qwen_operator.api import QwenService
from qwen_operator.api.catalogue import Alert
from qwen_operator.api.names import child_name
from qwen_operator.api.objects import Object
from qwen_operator.planning.alerts import effective_alerts
from qwen_operator.planning.builders.burnrate import burn_rate_group
from qwen_operator.planning.builders.common import child

# A dead process exports no metrics, so failed scrapes reveal it.
_SCRAPE_FAILS_FOR: Final = "2m"


def build_prometheus_rule(service: QwenService) -> Object:
    """One rule for each enabled alert of the service, and those of its objectives."""

    spec = service.spec
    alerts = effective_alerts(spec.engine.device, spec.alerts)
    rules = [_rule(service, alert) for alert in alerts if alert.active]
    groups: list[Object] = [{"name": f"qwen-{service.name}", "rules": rules}]
    if spec.slo is not None:
        groups.append(burn_rate_group(service, spec.slo))
    return child(
        service,
        "monitoring.coreos.com/v1",
        "PrometheusRule",
        labels=spec.monitoring.labels,
        spec={"groups": groups},
    )


def _rule(service: QwenService, alert: Alert) -> Object:
    pods = f'namespace="{service.namespace}",service="{child_name(service.name)}"'
    rule: Object = {"alert": alert.name}
    if alert.name == "EngineDead":
        rule |= {"expr": f"max by (namespace, service, pod) (up{{{pods}}}) == 0", "for": _SCRAPE_FAILS_FOR}
    else:
        series = f'qwen_alert_active{{{pods},name="{alert.name}"}}'
        rule["expr"] = f"max by (namespace, service, pod) ({series}) == 1"
    return {
        **rule,
        "labels": {"severity": alert.severity, "qwenservice": service.name},
        "annotations": {
            "summary": f"{alert.summary}.",
            "description": f"Pod {{{{ $labels.namespace }}}}/{{{{ $labels.pod }}}} of QwenService {service.name}: "
            f"{alert.name}, threshold {alert.threshold:g} {alert.unit}.",
        },
    }

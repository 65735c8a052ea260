"""The PrometheusRule: the alerts that the servers report, as alerts of Prometheus.

The servers evaluate thresholds and durations and export the result. Prometheus therefore always
agrees with `alerts[]` and with remediation, and a changed threshold takes effect at once. Three
alerts come from elsewhere: a dead engine exports nothing, so the operator counts its death, only
Prometheus knows what it cannot scrape, and only it looks back for an hour.
"""

from __future__ import annotations

from typing import Final

from qwen_operator.api import QwenService
from qwen_operator.api.catalogue import Alert
from qwen_operator.api.objects import Object
from qwen_operator.planning.alerts import effective_alerts
from qwen_operator.planning.builders.alertrule import PREFIX, alert_rule
from qwen_operator.planning.builders.burnrate import burn_rate_group
from qwen_operator.planning.builders.common import child
from qwen_operator.planning.builders.promql import pods_of
from qwen_operator.planning.builders.records import record_group
from qwen_operator.planning.monitoring import MonitoringDefaults

DEAD: Final = "EngineDead"
NOT_SCRAPED: Final = "QwenServiceNotScraped"
ENGINE_RESTARTS: Final = "QwenServiceEngineRestarts"
# The pull of a large image fails as many scrapes.
_SCRAPE_FAILS_FOR: Final = "15m"
_UNITS: Final = {"seconds": " s", "percent": " %", "celsius": " °C", "tokens/sec": " tokens/s", "count": ""}
_POD: Final = "{{ $labels.namespace }}/{{ $labels.pod }}"


def build_prometheus_rule(service: QwenService, defaults: MonitoringDefaults, *, scraped: bool) -> Object:
    """The alerts of the service, its recording rules, and the alerts on its objectives.

    `scraped` is whether there is a ServiceMonitor.
    """
    spec = service.spec
    alerts = [alert for alert in effective_alerts(spec.engine.device, spec.alerts) if alert.active]
    rules = [
        _death(service, alert, defaults) if alert.name == DEAD else _reported(service, alert, defaults)
        for alert in alerts
    ]
    if spec.engine.restarts != 0:  # the default is to restart
        rules.append(_engine_restarts(service, defaults))
    if scraped:
        rules.append(_not_scraped(service, defaults))
    groups: list[Object] = [{"name": f"qwen-{service.name}", "rules": rules}, record_group(service)]
    if spec.slo is not None:
        groups.append(burn_rate_group(service, spec.slo, defaults))
    return child(
        service,
        "monitoring.coreos.com/v1",
        "PrometheusRule",
        labels=defaults.labels_for(spec),
        spec={"groups": groups},
    )


def _reported(service: QwenService, alert: Alert, defaults: MonitoringDefaults) -> Object:
    """An alert that the servers report, with what they measure."""
    pods = f'{pods_of(service)},name="{alert.name}"'
    number = "%.0f" if alert.unit == "count" else "%.1f"
    unit = _UNITS[alert.unit]
    return alert_rule(
        service,
        f"{PREFIX}{alert.name}",
        "max by (namespace, service, pod) "
        f"(qwen_alert_value{{{pods}}} and on (namespace, service, pod) qwen_alert_active{{{pods}}} == 1)",
        severity=alert.severity,
        summary=f"{alert.summary}.",
        description=f"Pod {_POD} of QwenService {service.name}: {alert.name} measures "
        f'{{{{ $value | printf "{number}" }}}}{unit}, threshold {alert.threshold:g}{unit}.',
        runbook=defaults.runbook(alert.name),
    )


def _death(service: QwenService, alert: Alert, defaults: MonitoringDefaults) -> Object:
    """An engine that died, by the operator: the process is gone before anybody can scrape it."""
    return alert_rule(
        service,
        f"{PREFIX}{alert.name}",
        f"sum by (namespace, service) (increase(qwen_operator_engine_deaths_total{{{pods_of(service)}}}[15m])) > 0",
        severity=alert.severity,
        summary=f"{alert.summary}.",
        description=f"QwenService {{{{ $labels.namespace }}}}/{service.name}: engines died about "
        '{{ $value | printf "%.0f" }} time(s) in the last 15 minutes. The condition Degraded says which pod, and why.',
        runbook=defaults.runbook(alert.name),
    )


def _not_scraped(service: QwenService, defaults: MonitoringDefaults) -> Object:
    """Pods that Prometheus cannot scrape, or a service that serves and has no target."""
    pods = pods_of(service)
    return alert_rule(
        service,
        NOT_SCRAPED,
        f"max by (namespace, service, pod) (up{{{pods}}}) == 0"
        f' or (max by (namespace, service) (qwen_operator_condition{{{pods},type="Ready"}}) == 1'
        f" unless on (namespace, service) up{{{pods}}})",
        severity="warning",
        summary="Prometheus does not see the metrics of a QwenService, so its other alerts cannot fire.",
        description=f"QwenService {{{{ $labels.namespace }}}}/{service.name}: Prometheus cannot scrape "
        "{{ with $labels.pod }}pod {{ . }}{{ else }}any pod, because it has no target{{ end }}.",
        runbook=defaults.runbook(NOT_SCRAPED),
        lasts=_SCRAPE_FAILS_FOR,
    )


def _engine_restarts(service: QwenService, defaults: MonitoringDefaults) -> Object:
    """Engines that die again and again, and that their servers restart: clients see only pauses.

    increase() extrapolates: one restart may count as 1.1, two never count as less than 2.
    """
    own = f'{pods_of(service)},cause!="requested"'
    return alert_rule(
        service,
        ENGINE_RESTARTS,
        f"sum by (namespace, service, pod) (increase(qwen_engine_restarts_total{{{own}}}[1h])) > 1.5",
        severity="warning",
        summary="A server has restarted its engine more than once within an hour.",
        description=f"Pod {_POD} of QwenService {service.name}: the engine was restarted about "
        '{{ $value | printf "%.0f" }} times within an hour. Requests wait meanwhile, and when the restarts of 10 '
        "minutes are used up, the pod ends.",
        runbook=defaults.runbook(ENGINE_RESTARTS),
    )

"""The ServiceMonitor."""

from __future__ import annotations

from datetime import timedelta

from qwen_operator.api import QwenService, format_duration
from qwen_operator.api.names import PORT_NAME, selector_labels
from qwen_operator.api.objects import Object
from qwen_operator.planning.builders.common import child
from qwen_operator.planning.builders.metricstokens import scrape_authorization
from qwen_operator.planning.monitoring import MonitoringDefaults


def build_service_monitor(service: QwenService, defaults: MonitoringDefaults) -> Object:
    """The ServiceMonitor. Every pod is scraped, including those that are out of rotation.

    Prometheus's label `service` is the name of the Service, which differs from the QwenService's
    name if that has a dot. `qwenservice` is always the QwenService's name, as in the alerts.
    """

    monitoring = service.spec.monitoring
    named = {"action": "replace", "targetLabel": "qwenservice", "replacement": service.name}
    endpoint: Object = {
        "port": PORT_NAME,
        "path": "/metrics/prometheus",
        "interval": format_duration(monitoring.interval),
        "scrapeTimeout": format_duration(min(monitoring.interval, timedelta(seconds=10))),
        **scrape_authorization(service.spec),
        "relabelings": [named],
    }
    return child(
        service,
        "monitoring.coreos.com/v1",
        "ServiceMonitor",
        labels=defaults.labels_for(service.spec),
        spec={"selector": {"matchLabels": selector_labels(service.name)}, "endpoints": [endpoint]},
    )

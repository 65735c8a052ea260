"""The ConfigMap by which alert settings reach running servers."""

from __future__ import annotations

import json

from qwen_operator.api import QwenService
from qwen_operator.api.objects import Object
from qwen_operator.planning.alerts import effective_alerts
from qwen_operator.planning.builders.common import child

ALERTS_KEY = "alerts.json"


def build_alerts_configmap(service: QwenService) -> Object:
    """The ConfigMap with the service's alerts.

    An alert without a threshold is written as disabled.
    """

    spec = service.spec
    alerts = [
        {
            "name": alert.name,
            "threshold": alert.threshold,
            "for": alert.for_seconds,
            "severity": alert.severity,
            "enabled": alert.active,
        }
        for alert in effective_alerts(spec.engine.device, spec.alerts)
    ]
    text = json.dumps({"alerts": alerts}, indent=1) + "\n"
    return child(service, "v1", "ConfigMap", suffix="alerts", data={ALERTS_KEY: text})

"""The ConfigMap by which alert settings, adapters and tokens reach running servers."""

from __future__ import annotations

import json
from collections.abc import Sequence

from qwen_operator.api import QwenService
from qwen_operator.api.objects import Object
from qwen_operator.planning.alerts import effective_alerts
from qwen_operator.planning.builders.adapters import adapters_file
from qwen_operator.planning.builders.common import child
from qwen_operator.planning.builders.metricstokens import operator_hashes

ALERTS_KEY = "alerts.json"


def build_alerts_configmap(service: QwenService, metrics_keys: Sequence[str]) -> Object:
    """The ConfigMap with the service's alerts.

    An alert without a threshold is written as disabled. With `metrics_keys`, the ConfigMap also has
    the hashes of the tokens by which the operator reads the metrics. It has the LoRA adapters, if
    there is room for any.
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
    data = {ALERTS_KEY: text, **adapters_file(spec), **operator_hashes(service, metrics_keys)}
    return child(service, "v1", "ConfigMap", suffix="alerts", data=data)

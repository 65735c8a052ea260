"""What the operator writes is what the server reads: flags, alerts, metrics."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest

from qwen_operator.api import QwenService
from qwen_operator.planning.alerts import effective_alerts
from qwen_operator.planning.builders.autoscaler import WAITING_METRIC
from qwen_server.config.command_line import load_settings
from qwen_server.control import alerts as server_alerts
from qwen_server.observe import prometheus_page as prometheus
from tests.unit.qwen_operator.objects import Object, child, container, gpu_service, load, service, service_object

SERVICES = {
    "plain": service_object(),
    "gpu": service_object(
        engine={"device": "cuda", "tensorParallelSize": 2, "maxModelLen": 8192, "quantization": "fp8"}
    ),
    "limits": service_object(
        limits={
            "maxConcurrentRequests": "auto",
            "maxQueueSize": 0,
            "queueTimeout": "1m30s",
            "rateLimit": "600/minute",
            "maxTemperature": 0.5,
            "defaultMaxTokens": 64,
            "onExceed": "Clamp",
            "maxStops": 7,
        },
        drain={"timeout": "1500ms"},
        engine={"extraArgs": ["--max-num-seqs=64"]},
    ),
    "full": load("manifests/samples/full.yaml"),
}


@pytest.mark.parametrize("name", SERVICES)
def test_server_accepts_the_arguments(name: str) -> None:
    subject = QwenService.parse(SERVICES[name])
    arguments = container(subject)["args"]
    settings = load_settings(arguments)
    spec = subject.spec
    assert settings.device == spec.engine.device
    assert settings.tensor_parallel_size == spec.engine.tensor_parallel_size
    assert settings.queue_timeout == spec.limits.queue_timeout.total_seconds()
    assert settings.drain_timeout == spec.drain.timeout.total_seconds()
    assert settings.max_queue_size == spec.limits.max_queue_size
    assert settings.max_temperature == spec.limits.max_temperature
    assert settings.on_exceed.title() == spec.limits.on_exceed
    assert settings.max_stops == spec.limits.max_stops
    assert settings.model_aliases == tuple(spec.model.aliases)
    assert settings.pass_through == tuple(spec.engine.extra_args)


def test_server_accepts_every_flag_that_the_operator_writes() -> None:
    written = {
        flag.partition("=")[0] for obj in SERVICES.values() for flag in container(QwenService.parse(obj))["args"]
    }
    assert {"--rate-limit", "--api-keys-dir", "--kv-cache-gib", "--gpu-memory-utilization", "--revision"} <= written


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_both_catalogues_say_the_same(device: Any) -> None:
    ours = [
        (alert.name, alert.threshold, alert.unit, alert.for_seconds, alert.severity)
        for alert in effective_alerts(device)
    ]
    theirs = [
        (rule.name, rule.threshold, rule.unit, rule.for_seconds, rule.severity)
        for rule in server_alerts.catalogue(device)
    ]
    assert ours == theirs


def test_server_accepts_the_overrides_of_the_config_map() -> None:
    changes: Object = {"alerts": [{"name": "HighTTFT", "threshold": 2}, {"name": "GPUMemoryHigh", "enabled": False}]}
    document = json.loads(child(service(**changes), "ConfigMap")["data"]["alerts.json"])
    rules = {rule.name: rule for rule in server_alerts.override(server_alerts.catalogue("cpu"), document)}
    assert rules["HighTTFT"].threshold == 2
    assert not rules["GPUMemoryHigh"].on
    assert not rules["HighLatency"].on
    assert rules["EngineUnresponsive"].on


def test_figures_that_rules_and_autoscalers_ask_for_are_exported() -> None:
    source = inspect.getsource(prometheus)
    rule = child(gpu_service(), "PrometheusRule", has_prometheus_rule=True)
    assert f'"{WAITING_METRIC}"' in source
    assert '"qwen_alert_active"' in source
    assert all(
        "qwen_alert_active" in entry["expr"] or "up{" in entry["expr"] for entry in rule["spec"]["groups"][0]["rules"]
    )

"""What the operator writes is what the server reads: flags, alerts, metrics."""

from __future__ import annotations

import errno
import inspect
import json
import re
from typing import Any

import pytest

from qwen_operator.api import QwenService, flags, parse_duration
from qwen_operator.api.objectives import TTFT_BOUNDS
from qwen_operator.api.replica import BUILTIN_MODELS
from qwen_operator.planning.alerts import effective_alerts
from qwen_operator.planning.builders.autoscaler import RUNNING_METRIC, WAITING_METRIC
from qwen_operator.process.operator_metrics import REGISTRY
from qwen_operator.status.exits import exit_reason
from qwen_server.config import pass_through
from qwen_server.config.command_line import load_settings
from qwen_server.config.settings import Settings
from qwen_server.control import alerts as server_alerts
from qwen_server.control import fit
from qwen_server.control.lifecycle import EXIT_CONFIGURATION
from qwen_server.download.failures import EXIT_TEMPORARY, explain
from qwen_server.download.files import DamagedFileError
from qwen_server.observe import prometheus_page as prometheus
from qwen_server.observe import request_figures
from tests.unit.qwen_operator.objects import ROOT, Object, child, container, gpu_service, load, service, service_object

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
            "tenants": [{"name": "gold.key", "weight": 3}, {"name": "free", "weight": 1}],
            "tenantReserve": 2,
        },
        auth={"apiKeySecretRef": {"name": "keys"}},
        drain={"timeout": "1500ms"},
        engine={"extraArgs": ["--max-num-seqs=64"]},
    ),
    "embeddings": service_object(model={"source": {"builtin": "news-classifier"}, "task": "embed"}),
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
    assert settings.tenant_reserve == spec.limits.tenant_reserve
    assert settings.tenant_weights == {tenant.name: tenant.weight for tenant in spec.limits.tenants}
    assert settings.model_aliases == tuple(spec.model.aliases)
    assert settings.task == spec.model.task
    assert settings.pass_through == tuple(spec.engine.extra_args)


def test_server_accepts_every_flag_that_the_operator_writes() -> None:
    written = {
        flag.partition("=")[0] for obj in SERVICES.values() for flag in container(QwenService.parse(obj))["args"]
    }
    assert {"--rate-limit", "--api-keys-dir", "--kv-cache-gib", "--gpu-memory-utilization", "--revision"} <= written


def test_both_refuse_the_same_flags() -> None:
    own = {name.replace("_", "-") for name in Settings.model_fields} - {"pass-through", "log-level", "log-format"}
    names = [name.rstrip("*") for name in pass_through._OWNED]
    written = [
        f"{dashes}{prefix}{name}{ending}"
        for name in (*own, *names, *flags.SERVER_FLAGS, "log-level", "max-num-seqs", "seed", "enforce-eager-x", "O3")
        for dashes in ("--", "-")
        for prefix in ("", "no-")
        for ending in ("", "=1", "-more", "_more=a=b")
        if dashes == "--" or len(name) <= 3
    ]
    written += [f"-{name[:length]}" for name in names if len(name) <= 3 for length in (1, 2, 3)]
    written += ["--max_model_len=9", "--disable-log-requests", "64", "-O3", "--no_log_error_stack"]
    ours = {argument for argument in written if not flags.may_pass(argument)}
    theirs = {argument for argument in written if pass_through.why_refused(argument, own)}
    assert ours ^ theirs == set()


def test_variables_that_are_refused_are_settings() -> None:
    settings = {name.replace("_", "-") for name in Settings.model_fields}
    assert set(flags.OWNED_SETTINGS) <= settings
    always = [
        {flag.partition("=")[0].removeprefix("--") for flag in container(QwenService.parse(SERVICES[name]))["args"]}
        for name in ("plain", "gpu")
    ]
    assert (always[0] & always[1]) <= set(flags.OWNED_SETTINGS)


def test_builtin_models_are_those_of_the_image() -> None:
    folders = {path.parent.name for path in (ROOT / "server/models").glob("*/config.json")}
    assert folders == set(BUILTIN_MODELS)


def test_the_operator_knows_what_the_server_says_of_a_model_that_does_not_fit() -> None:
    shape = fit.Shape(weights=1 << 34, kv_token=1024, kv_heads=8, heads=32, activation_token=1024)
    on_gpus = fit.trouble_on_gpus(shape, fit.Plan(4096), 1 << 30, 0.9)
    on_cpu = fit.trouble_on_cpu(shape, fit.Plan(4096, kv_cache=1 << 30), 1 << 30)
    cache = fit.trouble_on_cpu(shape, fit.Plan(4096, kv_cache=1), 1 << 40)
    for trouble in (on_gpus, on_cpu, cache):
        text = f"the model cannot be served: {trouble}"
        assert exit_reason({}, EXIT_CONFIGURATION, text, looping=False) == ("ModelTooLarge", "")


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
    slo = {"availability": "99.5", "ttft": {"threshold": "2s", "objective": "95"}}
    rule = child(gpu_service(slo=slo), "PrometheusRule", has_prometheus_rule=True, has_service_monitor=True)
    rules = [entry for group in rule["spec"]["groups"] for entry in group["rules"]]
    named = set(re.findall(r"\bqwen_[a-z0-9_]+(?={)", " ".join(entry["expr"] for entry in rules)))
    recorded = {entry["record"].removeprefix("service:").partition(":")[0] for entry in rules if "record" in entry}
    ours = {family.name + ("_total" if family.type == "counter" else "") for family in REGISTRY.collect()}
    used = {re.sub("_(bucket|count)$", "", name) for name in named - ours}
    assert used >= {"qwen_requests_total", "qwen_tokens_total", "qwen_alert_value", "qwen_alert_active"}
    assert used >= {f"qwen_{name}_seconds" for name in ("ttft", "inter_token", "request_duration", "queue_wait")}
    for name in (*used, WAITING_METRIC, RUNNING_METRIC):
        assert f'"{name}"' in source
    assert recorded == {
        "qwen_ttft_seconds",
        "qwen_inter_token_seconds",
        "qwen_request_duration_seconds",
        "qwen_queue_wait_seconds",
        "qwen_requests",
        "qwen_tokens",
        "qwen_slo_errors",
    }


def test_outcomes_and_bounds_of_objectives_are_those_of_the_server() -> None:
    bounds = [parse_duration(bound).total_seconds() for bound in TTFT_BOUNDS]
    assert bounds == list(request_figures.RequestFigures().ttft.edges)
    slo = {"availability": "99.5"}
    rule = child(service(slo=slo), "PrometheusRule", has_prometheus_rule=True)
    named = set(re.findall(r"[a-z]+", " ".join(re.findall(r'outcome=~"([a-z|]+)"', str(rule)))))
    assert named == {"failed", "refused", "successful"}
    assert named <= set(request_figures.OUTCOMES)


class HubError(OSError):
    """An error of a hub's library."""

    def __init__(self, status: int) -> None:
        super().__init__(f"{status} for url. If this is a private or gated repo, check your token")
        self.status_code = status


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (HubError(401), "denies access"),
        (HubError(403), "denies access"),
        (HubError(404), "does not have it"),
        (HubError(410), "does not have it"),
        (HubError(429), "limits the number of requests"),
        (HubError(503), "has an error"),
        (OSError(errno.ENOSPC, "not enough free disk space: 9 GB are missing"), "disk is full"),
        (ConnectionError("no route to host"), "cannot be reached"),
        (TimeoutError("timed out"), "cannot be reached"),
        (DamagedFileError("model.safetensors has another checksum than at the hub"), "arrive damaged"),
    ],
)
def test_the_operator_knows_why_a_download_failed(error: Exception, advice: str) -> None:
    failure = explain(error)
    code = EXIT_CONFIGURATION if failure.permanent else EXIT_TEMPORARY
    reason, found = exit_reason({}, code, f"the model cannot be downloaded: {failure.cause}", looping=False)
    assert reason == "ModelDownloadFailed"
    assert advice in found

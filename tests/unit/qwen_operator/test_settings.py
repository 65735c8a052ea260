"""Settings, log lines and health of the operator's process."""

from __future__ import annotations

import json
import logging

import aiohttp
import pytest

from qwen_operator.process.endpoints import serve
from qwen_operator.process.health import Health
from qwen_operator.process.logs import JsonFormatter, TextFormatter
from qwen_operator.process.settings import SettingsError, read_settings

IMAGES = {"QWEN_OPERATOR_SERVER_IMAGE_CPU": "server:cpu", "QWEN_OPERATOR_SERVER_IMAGE_CUDA": "server:cuda"}


def test_defaults() -> None:
    settings = read_settings(env=IMAGES)
    assert settings.watch_namespaces == ()
    assert settings.leader_election
    assert (settings.lease_name, settings.metrics_port, settings.resync_seconds) == ("qwen-operator", 8080, 60.0)
    assert settings.server_images == {"cpu": "server:cpu", "cuda": "server:cuda"}
    assert (settings.monitoring_labels, settings.runbook_base_url) == ({}, "")
    assert settings.server_pull_secrets == ()
    assert settings.pod_template_allow == ("*",)


def test_the_environment_is_read() -> None:
    env = {
        **IMAGES,
        "QWEN_OPERATOR_WATCH_NAMESPACES": " team-a, team-b,,team-a",
        "QWEN_OPERATOR_LEADER_ELECTION": "False",
        "QWEN_OPERATOR_LOG_LEVEL": "DEBUG",
        "QWEN_OPERATOR_RESYNC_SECONDS": "5",
        "QWEN_OPERATOR_MONITORING_LABELS": "release=kube-prometheus-stack, team=",
        "QWEN_OPERATOR_RUNBOOK_BASE_URL": "https://r.example.com",
        "QWEN_OPERATOR_SERVER_PULL_SECRETS": "one,two",
        "QWEN_OPERATOR_POD_TEMPLATE_ALLOW": "metadata, spec.tolerations",
    }
    settings = read_settings(env=env)
    assert settings.watch_namespaces == ("team-a", "team-b")
    assert not settings.leader_election
    assert (settings.log_level, settings.resync_seconds) == ("debug", 5.0)
    assert settings.monitoring_labels == {"release": "kube-prometheus-stack", "team": ""}
    assert settings.runbook_base_url == "https://r.example.com"
    assert settings.server_pull_secrets == ("one", "two")
    assert settings.pod_template_allow == ("metadata", "spec.tolerations")


def test_pod_template_can_be_switched_off() -> None:
    assert read_settings(["--pod-template-allow=none"], IMAGES).pod_template_allow == ()


def test_flags_win_over_the_environment() -> None:
    settings = read_settings(["--lease-name", "flag"], {**IMAGES, "QWEN_OPERATOR_LEASE_NAME": "env"})
    assert settings.lease_name == "flag"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("LEADER_ELECTION", "maybe", "leader-election"),
        ("METRICS_PORT", "99999", "metrics-port"),
        ("RESYNC_SECONDS", "0", "resync-seconds"),
        ("LOG_FORMAT", "xml", "log-format"),
        ("LOG_LEVEL", "loud", "log-level"),
        ("MONITORING_LABELS", "release", "monitoring-labels"),
        ("MONITORING_LABELS", "=x", "monitoring-labels"),
        ("POD_TEMPLATE_ALLOW", "spec,tolerations", "pod-template-allow"),
    ],
)
def test_bad_settings_are_named(name: str, value: str, expected: str) -> None:
    with pytest.raises(SettingsError, match=expected):
        read_settings(env={**IMAGES, f"QWEN_OPERATOR_{name}": value})


def test_a_missing_image_is_named() -> None:
    with pytest.raises(SettingsError, match="QWEN_OPERATOR_SERVER_IMAGE_CUDA"):
        read_settings(env={"QWEN_OPERATOR_SERVER_IMAGE_CPU": "server:cpu"})


def test_an_image_may_be_empty_but_not_forgotten() -> None:
    """A cluster without GPUs has no image for them. Services then say ImageMissing."""
    images = {"cpu": "server:cpu", "cuda": ""}
    assert read_settings(env={**IMAGES, "QWEN_OPERATOR_SERVER_IMAGE_CUDA": ""}).server_images == images
    assert read_settings(["--server-image-cpu=server:cpu", "--server-image-cuda="], {}).server_images == images


def record(**extra: object) -> logging.LogRecord:
    made = logging.LogRecord("qwen_operator", logging.INFO, __file__, 1, "pod %s", ("p0",), None)
    vars(made).update(extra)
    return made


def test_json_lines_carry_their_fields() -> None:
    line = json.loads(JsonFormatter().format(record(service="news")))
    assert line["message"] == "pod p0"
    assert (line["level"], line["service"]) == ("info", "news")
    assert line["time"].endswith("Z")


def test_text_lines_carry_their_fields() -> None:
    assert TextFormatter().format(record(service="news")).endswith("pod p0 service=news")


def test_a_part_that_misses_its_beat_is_overdue() -> None:
    now = 0.0
    health = Health(clock=lambda: now)
    assert health.overdue() == []
    health.beat("resync", within=10.0)
    now = 9.0
    assert health.overdue() == []
    now = 11.0
    assert health.overdue() == ["resync"]
    health.forget("resync")
    assert health.overdue() == []


async def test_the_endpoints_serve_health_and_metrics() -> None:
    now = 0.0
    health = Health(clock=lambda: now)
    runner, port = await serve(health, 0)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:

            async def status(path: str) -> int:
                async with session.get(path) as response:
                    return response.status

            assert await status("/healthz") == 200
            assert await status("/readyz") == 503
            health.ready = True
            assert await status("/readyz") == 200
            health.beat("resync", within=1.0)
            now = 2.0
            assert await status("/healthz") == 503
            async with session.get("/metrics") as response:
                assert "qwen_operator_leader" in await response.text()
    finally:
        await runner.cleanup()

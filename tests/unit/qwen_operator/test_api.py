"""The typed models: defaults, errors that name the field, scalars."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_operator.api import (
    InvalidSpecError,
    QwenService,
    ServiceStatus,
    format_duration,
    parse_duration,
    parse_quantity,
)
from qwen_operator.api.alerting import AlertName
from qwen_operator.api.base import DURATION_PATTERN
from qwen_operator.api.catalogue import NAMES
from qwen_operator.api.qwenservice import remediation_spec
from tests.unit.qwen_operator.bad_specs import BAD_SPECS, BadSpec
from tests.unit.qwen_operator.objects import NOW, gpu_service, load, service, service_object


def refused(**spec: Any) -> InvalidSpecError:
    with pytest.raises(InvalidSpecError) as caught:
        QwenService.parse(service_object(**spec))
    return caught.value


def test_only_the_model_source_is_required() -> None:
    parsed = QwenService.parse(
        {"metadata": {"name": "a"}, "spec": {"model": {"source": {"builtin": "news-classifier"}}}}
    )
    assert parsed.spec.engine.device == "cuda"
    assert parsed.spec.replicas == 1
    assert parsed.spec.gpu_count == 1
    assert parsed.spec.limits.queue_timeout == timedelta(seconds=30)
    assert parsed.spec.rollout.startup_timeout == timedelta(minutes=10)


def test_metadata_is_carried_over() -> None:
    parsed = service("news")
    assert (parsed.name, parsed.namespace, parsed.generation) == ("news", "default", 3)


def test_missing_source_is_refused() -> None:
    assert refused(model={"source": None}).field == "spec.model.source"


def test_two_sources_are_refused() -> None:
    error = refused(model={"source": {"pvc": {"claimName": "models"}}})
    assert error.field == "spec.model.source"
    assert "exactly one of" in error.detail


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"engine": {"device": "cuda", "tensorParallelSize": 4}, "gpu": {"count": 2}}, "spec.gpu.count"),
        ({"gpu": {"count": 1}}, "spec.gpu.count"),
        ({"limits": {"minTemperature": 0.8, "maxTemperature": 0.2}}, "spec.limits.minTemperature"),
        ({"limits": {"defaultMaxTokens": 600}}, "spec.limits.defaultMaxTokens"),
        ({"limits": {"maxConcurrentRequests": 0}}, "spec.limits.maxConcurrentRequests"),
        ({"limits": {"maxQueueSize": "many"}}, "spec.limits.maxQueueSize"),
        ({"limits": {"queueTimeout": "3x"}}, "spec.limits.queueTimeout"),
        ({"remediation": {"backoff": {"base": "20m"}}}, "spec.remediation.backoff.max"),
        ({"remediation": {"rules": [{"alert": "HighTTFT", "action": "Restart"}]}}, "spec.remediation.rules.0.action"),
        ({"autoscaling": {"minReplicas": 3, "maxReplicas": 2}}, "spec.autoscaling.maxReplicas"),
        ({"autoscaling": {"minReplicas": 0, "maxReplicas": 2}}, "spec.autoscaling.minReplicas"),
        ({"rollout": {"maxSurge": 0, "maxUnavailable": "0%"}}, "spec.rollout.maxSurge"),
        ({"resources": {"limits": {"cpu": "lots"}}}, "spec.resources.limits.cpu"),
        ({"alerts": [{"name": "NoSuchAlert"}]}, "spec.alerts.0.name"),
        ({"replicas": -1}, "spec.replicas"),
    ],
)
def test_invalid_values_are_rejected_with_the_field(spec: dict[str, Any], field: str) -> None:
    assert refused(**spec).field == field


@pytest.mark.parametrize("bad", BAD_SPECS, ids=str)
def test_specs_that_would_be_silently_wrong_are_refused(bad: BadSpec) -> None:
    raw = service_object()
    bad.put(raw["spec"])
    with pytest.raises(InvalidSpecError) as caught:
        QwenService.parse(raw)
    assert caught.value.field.startswith(re.sub(r"\[(\d+)\]", r".\1", bad.named))
    if "should match" not in bad.text and bad.text != "at least 1" and "greater than" not in bad.text:
        assert bad.text in caught.value.detail


def test_fields_of_a_newer_definition_are_ignored() -> None:
    newer: dict[str, Any] = {
        "novelty": {"a": 1},
        "engine": {"device": "cpu", "speculation": "on"},
        "podTemplate": {"more": {}},
    }
    assert service(**newer).spec == service().spec


@pytest.mark.parametrize("depth", [70, 1501])
def test_a_spec_that_is_nested_too_deep_is_refused(depth: int) -> None:
    deep: Any = {}
    for _ in range(depth):
        deep = {"a": [deep]} if depth % 2 else {"a": deep}
    raw = service_object()
    raw["spec"]["podTemplate"] = {"spec": deep}
    with pytest.raises(InvalidSpecError, match="nested deeper than 64 levels"):
        QwenService.parse(raw)


def with_variables(number: int) -> dict[str, Any]:
    """A service whose pod template has so many variables."""
    raw = service_object()
    variables = [{"name": f"V{position}", "value": "x"} for position in range(number)]
    raw["spec"]["podTemplate"] = {"spec": {"containers": [{"name": "server", "env": variables}]}}
    return raw


def test_a_spec_with_too_many_values_is_refused() -> None:
    assert QwenService.parse(with_variables(1_000))
    with pytest.raises(InvalidSpecError, match="it has more than 10000 values") as caught:
        QwenService.parse(with_variables(5_000))
    assert caught.value.field == "spec.podTemplate"


def test_remediation_is_read_from_a_spec_that_is_invalid_elsewhere() -> None:
    remediation = {"mode": "DryRun", "minReadyReplicas": 2}
    raw = service_object(engine={"device": "cpu", "dtype": "int3"}, remediation=remediation, replicas=4)
    with pytest.raises(InvalidSpecError):
        QwenService.parse(raw)
    spec = remediation_spec(raw)
    assert spec is not None
    assert (spec.remediation.mode, spec.min_ready_replicas, spec.replicas) == ("DryRun", 2, 4)
    assert spec.engine.device == "cpu"


def test_remediation_that_cannot_be_read_is_unknown() -> None:
    assert remediation_spec(service_object(remediation={"mode": "Sometimes"})) is None
    assert remediation_spec(service_object(replicas=-1)) is None


def test_replicas_that_are_left_out_are_those_of_the_status() -> None:
    parsed = service(status={"replicas": 5})
    assert (parsed.replicas_given, parsed.spec.replicas) == (False, 5)
    assert service(status={"replicas": 5}, replicas=2).spec.replicas == 2
    assert service().spec.replicas == 1


def test_null_means_absent() -> None:
    parsed = QwenService.parse(
        {"metadata": {"name": "a"}, "spec": {**service_object()["spec"], "gpu": None, "alerts": None}}
    )
    assert parsed.spec.alerts == []


def test_reference_round_trips() -> None:
    parsed = QwenService.parse(load("manifests/samples/full.yaml"))
    again = QwenService.parse({"metadata": {"name": "news"}, "spec": parsed.spec.to_dict()})
    assert again.spec == parsed.spec


def test_gpus_default_to_the_engines_world_size() -> None:
    assert gpu_service(engine={"tensorParallelSize": 4, "pipelineParallelSize": 2}).spec.gpu_count == 8
    assert service().spec.gpu_count == 0


@pytest.mark.parametrize(("value", "replicas", "pods"), [(2, 5, 2), ("50%", 5, 3), ("0%", 5, 0), ("100%", 3, 3)])
def test_percentages_of_ready_replicas_are_rounded_up(value: int | str, replicas: int, pods: int) -> None:
    assert service(replicas=replicas, remediation={"minReadyReplicas": value}).spec.min_ready_replicas == pods


@pytest.mark.parametrize(("replicas", "restarts"), [(1, 3), (31, 4), (1000, 20)])
def test_restart_budget_grows_with_the_replicas(replicas: int, restarts: int) -> None:
    assert service(replicas=replicas).spec.max_restarts == restarts


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("5m", 300), ("1h30m", 5400), ("500ms", 0.5), ("30d", 2592000)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "30", "s", "-5s", "5 s", "1.5h", "5s x"])
def test_other_texts_are_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=10**12))
def test_durations_round_trip(milliseconds: int) -> None:
    value = timedelta(milliseconds=milliseconds)
    assert parse_duration(format_duration(value)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("500m", "0.5"),
        ("2", "2"),
        ("1.5", "1.5"),
        ("1Ki", "1024"),
        ("2G", "2000000000"),
        ("1e3", "1000"),
        ("3E", "3e18"),
    ],
)
def test_quantities_are_read(text: str, value: str) -> None:
    assert parse_quantity(text) == Decimal(value)


def test_unreadable_status_counts_as_empty() -> None:
    assert service(status={"replicas": "many"}).status == ServiceStatus()


def test_status_of_a_newer_operator_is_read() -> None:
    assert service(status={"replicas": 2, "novelty": True}).status.replicas == 2


def test_status_round_trips() -> None:
    time = NOW.strftime("%Y-%m-%dT%H:%M:%SZ")
    written = {
        "replicas": 1,
        "remediation": {
            "intents": [{"podUID": "u", "pod": "p", "method": "Evict", "time": time}],
            "restartTimes": [time],
            "history": [{"time": time, "pod": "p", "action": "Evict", "node": "gpu-1"}],
        },
    }
    status = ServiceStatus.model_validate(written)
    assert ServiceStatus.model_validate(status.to_dict()) == status
    assert status.to_dict()["remediation"]["restartTimes"] == [time]


def test_alert_names_are_those_of_the_catalogue() -> None:
    assert get_args(AlertName) == NAMES


@pytest.mark.parametrize("text", ["9" * 25 + "h", "2500000h"])
def test_durations_that_no_calendar_holds_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="too long"):
        parse_duration(text)
    assert refused(drain={"timeout": text}).field == "spec.drain.timeout"
    assert not re.match(DURATION_PATTERN, text)


@pytest.mark.parametrize("text", ["1e99999999", "9" * 5000])
def test_quantities_that_would_fill_the_memory_are_refused(text: str) -> None:
    assert refused(resources={"limits": {"cpu": text}}).field.startswith("spec.resources.limits")


def test_a_time_that_follows_from_the_model_is_not_given() -> None:
    derived, given = service(), service(rollout={"startupTimeout": "10m"})
    assert derived.spec == given.spec
    assert "startup_timeout" not in derived.spec.rollout.model_fields_set
    assert "startup_timeout" in given.spec.rollout.model_fields_set
    assert derived.with_replicas(3).spec.rollout == derived.spec.rollout


def test_remediation_waits_long_for_a_model_that_cannot_be_read() -> None:
    spec = remediation_spec(service_object(engine={"dtype": "int3"}))
    assert spec is not None
    assert spec.rollout.startup_timeout == timedelta(minutes=30)


@pytest.mark.parametrize("text", ["7d", "30d", "90d"])
def test_windows_are_read_and_written_in_days(text: str) -> None:
    slo = service(slo={"availability": "99", "window": text}).spec.slo
    assert slo is not None
    assert slo.to_dict()["window"] == text

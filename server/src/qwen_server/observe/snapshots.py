"""The JSON of `/health` and `/api/v1/metrics`: the specification's fields, from what the service knows now."""

from __future__ import annotations

from typing import Any

from qwen_server import __version__
from qwen_server.control.service import Service
from qwen_server.observe.request_figures import LATENCY_LABELS, Summary

UNLIMITED = "无限制"
SERVICE_NAME = "qwen-vllm"


def human_duration(seconds: float) -> str:
    """Whole hours and minutes, such as `0h 1m`."""
    minutes = int(seconds) // 60
    return f"{minutes // 60}h {minutes % 60}m"


def health(service: Service) -> tuple[int, dict[str, Any]]:
    """Status and body of `/health`: 200 only while requests are answered."""
    gpu = service.gpu.latest
    settings = service.settings
    status = service.lifecycle.state
    if status == "ready":
        works = service.ready() and not service.alert_state.zero_work
        word = "ok" if works else "unhealthy"
    else:
        word = "unhealthy" if status == "dead" else status
    reserved = 0 if status == "starting" else service.engine.gpu_reserved_bytes()
    body = {
        "status": word,
        "gpu": {
            "allocated_gb": gpu.allocated_gb,
            "reserved_gb": round(reserved / 1024**3, 2),
            "free_gb": gpu.free_gb,
        },
        "limits": {
            "max_concurrent_requests": service.admission.limit,
            "max_queue_size": service.admission.queue_limit,
            "rate_limit": UNLIMITED if settings.rate_limit is None else settings.rate_limit.text,
        },
    }
    return (200 if word == "ok" else 503), body


def metrics(service: Service) -> dict[str, Any]:
    """The body of `/api/v1/metrics`, `/stats` and `/metrics`. Times are seconds; what is unknown is null."""
    telemetry = service.telemetry
    summary = telemetry.summary()
    uptime = service.clock() - service.lifecycle.started_at
    errors = telemetry.counters.errors
    gpu = service.gpu.latest
    active = [alert.as_json() for alert in service.alert_state.active]
    return {
        "timestamp": service.wall().isoformat(timespec="microseconds"),
        "service": SERVICE_NAME,
        "version": __version__,
        "status": service.status,
        "uptime": {"seconds": round(uptime, 1), "human": human_duration(uptime)},
        "requests": _requests(service, uptime),
        "tokens": _tokens(service),
        "slo": _slo(summary),
        "latency": _latency(summary),
        "latency_histogram": dict(zip(LATENCY_LABELS, telemetry.counters.latency_histogram, strict=True)),
        "gpu": {
            "name": gpu.name,
            "allocated_gb": gpu.allocated_gb,
            "total_gb": gpu.total_gb,
            "free_gb": gpu.free_gb,
            "utilization_percent": gpu.utilization_percent,
        },
        "errors": {"total": errors.total(), "by_type": dict(errors)},
        "alerts": active,
        "alerts_count": len(active),
    }


def _requests(service: Service, uptime: float) -> dict[str, Any]:
    """`total` = successful + failed + in progress; requests that were refused or aborted are in none of them."""
    telemetry, admission = service.telemetry, service.admission
    successful = telemetry.counters.outcomes["successful"]
    failed = telemetry.counters.outcomes["failed"]
    ended = successful + failed
    return {
        "waiting": admission.waiting,
        "running": admission.running,
        "peak_concurrent": admission.peak,
        "total": telemetry.total,
        "successful": successful,
        "failed": failed,
        "success_rate_percent": round(100 * successful / ended, 1) if ended else 100.0,
        "error_rate_percent": round(100 * failed / ended, 1) if ended else 0.0,
        "requests_per_second": round(telemetry.total / uptime, 3) if uptime > 0 else 0.0,
    }


def _tokens(service: Service) -> dict[str, Any]:
    telemetry = service.telemetry
    counters = telemetry.counters
    return {
        "total_input": counters.input_tokens,
        "total_output": counters.output_tokens,
        "avg_per_request": round(counters.output_tokens / telemetry.total, 1) if telemetry.total else None,
    }


def _slo(summary: Summary) -> dict[str, Any]:
    ttft = summary.ttft
    return {
        "ttft": {
            "mean": _round(ttft.mean, 4),
            "p50": _round(ttft.p50, 4),
            "p95": _round(ttft.p95, 4),
            "p99": _round(ttft.p99, 4),
            "unit": "seconds",
        },
        "throughput": {
            "decoding_mean": _round(summary.decoding.mean, 2),
            "decoding_p50": _round(summary.decoding.p50, 2),
            "total": _round(summary.throughput, 2),
            "unit": "tokens/sec",
        },
        "sample_size": summary.sample_size,
    }


def _latency(summary: Summary) -> dict[str, Any]:
    latency = summary.latency
    return {
        "mean": _round(latency.mean, 4),
        "p50": _round(latency.p50, 4),
        "p95": _round(latency.p95, 4),
        "p99": _round(latency.p99, 4),
        "min": _round(latency.min, 4),
        "max": _round(latency.max, 4),
        "unit": "seconds",
    }


def _round(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)

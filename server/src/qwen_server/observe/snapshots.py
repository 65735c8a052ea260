"""The JSON bodies of `/health` and `/api/v1/metrics`, with the specification's fields."""

from __future__ import annotations

from typing import Any

from qwen_server import __version__
from qwen_server.observe.observation import Observation
from qwen_server.observe.request_figures import LATENCY_LABELS, Summary

UNLIMITED = "无限制"
SERVICE_NAME = "qwen-vllm"


def human_duration(seconds: float) -> str:
    """Formats a duration in whole hours and minutes, such as `0h 1m`."""
    minutes = int(seconds) // 60
    return f"{minutes // 60}h {minutes % 60}m"


def health(seen: Observation) -> tuple[int, dict[str, Any]]:
    """Returns status and body of `/health`. The status is 200 only while requests are answered."""
    if seen.state == "ready":
        word = "ok" if seen.answers else "unhealthy"
    else:
        word = "unhealthy" if seen.state == "dead" else seen.state
    body = {
        "status": word,
        "gpu": {
            "allocated_gb": seen.gpu.allocated_gb,
            "reserved_gb": round(seen.gpu_reserved_bytes / 1024**3, 2),
            "free_gb": seen.gpu.free_gb,
        },
        "limits": {
            "max_concurrent_requests": seen.running_limit,
            "max_queue_size": seen.waiting_limit,
            "rate_limit": UNLIMITED if seen.rate_limit is None else seen.rate_limit,
        },
    }
    return (200 if word == "ok" else 503), body


def metrics(seen: Observation) -> dict[str, Any]:
    """Returns the body of `/api/v1/metrics`, `/stats` and `/metrics`.

    Times are in seconds. Unknown values are null.
    """
    summary = seen.figures.summary()
    counters = seen.figures.counters
    gpu = seen.gpu
    return {
        "timestamp": seen.wall.isoformat(timespec="microseconds"),
        "service": SERVICE_NAME,
        "version": __version__,
        "status": seen.status,
        "uptime": {"seconds": round(seen.uptime, 1), "human": human_duration(seen.uptime)},
        "requests": _requests(seen),
        "tokens": _tokens(seen),
        "slo": _slo(summary),
        "latency": _latency(summary),
        "latency_histogram": dict(zip(LATENCY_LABELS, counters.latency_histogram, strict=True)),
        "gpu": {
            "name": gpu.name,
            "allocated_gb": gpu.allocated_gb,
            "total_gb": gpu.total_gb,
            "free_gb": gpu.free_gb,
            "utilization_percent": gpu.utilization_percent,
            **({"uuids": list(gpu.uuids)} if gpu.uuids else {}),
        },
        "errors": {"total": counters.errors.total(), "by_type": dict(counters.errors)},
        "alerts": list(seen.alerts),
        "alerts_count": len(seen.alerts),
        **({} if seen.adapters is None else {"adapters": [adapter._asdict() for adapter in seen.adapters]}),
    }


def _requests(seen: Observation) -> dict[str, Any]:
    """`total` are all requests that were accepted, whatever became of them.

    The rates are those of the requests that were answered or failed.
    """
    figures = seen.figures
    outcomes = figures.counters.outcomes
    successful, failed = outcomes["successful"], outcomes["failed"]
    ended = successful + failed
    return {
        "waiting": seen.waiting,
        "running": seen.running,
        "peak_concurrent": seen.peak_running,
        "total": figures.total,
        "successful": successful,
        "failed": failed,
        "success_rate_percent": round(100 * successful / ended, 1) if ended else 100.0,
        "error_rate_percent": round(100 * failed / ended, 1) if ended else 0.0,
        "requests_per_second": round(figures.total / seen.uptime, 3) if seen.uptime > 0 else 0.0,
        "aborted": outcomes["aborted"],
        "refused": outcomes["refused"],
    }


def _tokens(seen: Observation) -> dict[str, Any]:
    figures = seen.figures
    counters = figures.counters
    return {
        "total_input": counters.input_tokens,
        "total_output": counters.output_tokens,
        "avg_per_request": round(counters.output_tokens / figures.total, 1) if figures.total else None,
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

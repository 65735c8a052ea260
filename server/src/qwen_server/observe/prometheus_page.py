"""The metrics of the server in the Prometheus text format.

Four gauges have the specification's names. The server's other metrics begin with `qwen_`; those
that must add up over replicas are counters and histograms. The engine's own `vllm:` metrics come
from the registry of the process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import REGISTRY, generate_latest

from qwen_server import __version__
from qwen_server.observe.gpu import GpuReading
from qwen_server.observe.observation import Observation
from qwen_server.observe.request_figures import (
    ERRORS,
    OTHER_TENANTS,
    OUTCOMES,
    REFUSALS,
    RESTART_CAUSES,
    AdapterCounters,
    Histogram,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_CACHE_SECONDS = 1.0  # rendering the engine's metrics blocks the loop for about 10 ms

Labels = Mapping[str, str]
Series = Iterable[tuple[Labels, float]]


def number(value: float | None) -> str:
    """Formats the value of a sample.

    Unknown values are NaN. Whole numbers have no decimal point, as in the specification.
    """
    if value is None or math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if float(value).is_integer() and abs(value) < 1 << 53 else repr(float(value))


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items()) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def family(name: str, kind: str, text: str, series: Series) -> str:
    """Renders a gauge or counter with its samples."""
    lines = [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
    lines.extend(f"{name}{_labels(labels)} {number(value)}" for labels, value in series)
    return "\n".join(lines) + "\n"


def gauge(name: str, text: str, value: float | None) -> str:
    """Renders a gauge without labels."""
    return family(name, "gauge", text, [({}, math.nan if value is None else value)])


def histogram(name: str, text: str, values: Histogram) -> str:
    """Renders a histogram without labels."""
    lines = [f"# HELP {name} {text}", f"# TYPE {name} histogram"]
    count = 0
    for edge, more in zip((*values.edges, math.inf), values.counts, strict=True):
        count += more
        lines.append(f'{name}_bucket{{le="{number(edge)}"}} {count}')
    lines += [f"{name}_sum {number(values.total)}", f"{name}_count {count}"]
    return "\n".join(lines) + "\n"


class PrometheusPage:
    """Renders the page, at most once a second."""

    def __init__(self, observe: Callable[[], Observation], clock: Callable[[], float]) -> None:
        self._observe = observe
        self._clock = clock
        self._rendered: tuple[float, bytes] | None = None

    def render(self) -> bytes:
        """Returns the complete page in UTF-8."""
        now = self._clock()
        if self._rendered is None or not 0 <= now - self._rendered[0] < _CACHE_SECONDS:
            own = "\n".join(families(self._observe()))
            # The name of a file, which names a tenant, may be no UTF-8.
            self._rendered = (now, own.encode(errors="replace") + b"\n" + generate_latest(REGISTRY))
        return self._rendered[1]


def families(seen: Observation) -> Iterator[str]:
    """Yields the server's own metrics, one family at a time."""
    yield from _specified(seen)
    yield from _requests(seen)
    yield from _adapters(seen)
    yield from _tenants(seen)
    yield from _engine(seen)
    yield from _gpu(seen.gpu)


def _specified(seen: Observation) -> Iterator[str]:
    """Yields the four gauges of the specification."""
    summary = seen.figures.summary()
    yield gauge("vllm_num_waiting_requests", "Number of requests waiting in queue", seen.waiting)
    yield gauge("vllm_num_running_requests", "Number of requests currently running", seen.running)
    yield gauge("vllm_ttft_p95", "P95 time to first token in seconds", summary.ttft.p95)
    yield gauge("vllm_decoding_throughput_mean", "Mean decoding throughput in tokens/sec", summary.decoding.mean)


def _requests(seen: Observation) -> Iterator[str]:
    figures = seen.figures
    counters = figures.counters
    outcomes = [({"outcome": outcome}, counters.outcomes[outcome]) for outcome in OUTCOMES]
    yield family("qwen_requests_total", "counter", "Requests by outcome.", outcomes)
    errors = _counts("type", ERRORS, counters.errors)
    yield family("qwen_errors_total", "counter", "Failed requests by type of error.", errors)
    refusals = _counts("reason", REFUSALS, counters.refusals)
    yield family("qwen_refusals_total", "counter", "Requests refused because of load or state, by reason.", refusals)
    tokens = [({"kind": "input"}, counters.input_tokens), ({"kind": "output"}, counters.output_tokens)]
    yield family("qwen_tokens_total", "counter", "Tokens of answered requests.", tokens)
    yield gauge("qwen_requests_waiting", "Requests that wait in the queue.", seen.waiting)
    yield gauge("qwen_requests_running", "Requests that run in the engine.", seen.running)
    yield gauge("qwen_requests_waiting_limit", "Maximum number of requests that may wait.", seen.waiting_limit)
    yield gauge("qwen_requests_running_limit", "Maximum number of requests that may run.", seen.running_limit)
    yield histogram("qwen_ttft_seconds", "Time from arrival to the first token, queue included.", figures.ttft)
    yield histogram("qwen_inter_token_seconds", "Time between two tokens of a request.", figures.inter_token)
    yield histogram("qwen_request_duration_seconds", "Time from arrival to the end of the answer.", figures.duration)
    yield histogram("qwen_queue_wait_seconds", "Time from arrival to the engine.", figures.queue_wait)


def _adapters(seen: Observation) -> Iterator[str]:
    """Yields the metrics of the LoRA adapters, where adapters are on.

    The names come from the configuration, and unknown names in requests have no counter.
    """
    if seen.adapters is None:
        return
    states = [({"adapter": adapter.name}, float(adapter.loaded)) for adapter in seen.adapters]
    yield family("qwen_adapter_loaded", "gauge", "Whether a LoRA adapter is loaded.", states)
    known = dict.fromkeys((adapter.name for adapter in seen.adapters), AdapterCounters())
    counted = {**known, **seen.figures.counters.adapters}
    outcomes = [
        ({"adapter": name, "outcome": outcome}, counters.outcomes[outcome])
        for name, counters in counted.items()
        for outcome in OUTCOMES
    ]
    yield family("qwen_adapter_requests_total", "counter", "Requests to a LoRA adapter by outcome.", outcomes)
    tokens = [
        ({"adapter": name, "kind": kind}, count)
        for name, counters in counted.items()
        for kind, count in (("input", counters.input_tokens), ("output", counters.output_tokens))
    ]
    yield family("qwen_adapter_tokens_total", "counter", "Tokens of answered requests to a LoRA adapter.", tokens)


def _tenants(seen: Observation) -> Iterator[str]:
    """Yields the figures by tenant: by the file with the API key of a request."""
    if not seen.tenants:
        return
    everyone = [({"tenant": tenant.name}, tenant) for tenant in seen.tenants]
    own = [(label, tenant) for label, tenant in everyone if tenant.name != OTHER_TENANTS]
    outcomes = [
        ({**label, "outcome": outcome}, tenant.figures.outcomes[outcome])
        for label, tenant in everyone
        for outcome in OUTCOMES
    ]
    weights = [(label, tenant.weight) for label, tenant in own]
    waiting = [(label, tenant.waiting) for label, tenant in own]
    running = [(label, tenant.running) for label, tenant in own]
    seconds = [(label, tenant.figures.queue_seconds) for label, tenant in everyone]
    yield family("qwen_tenant_weight", "gauge", "Weight of a tenant; shares are in proportion to it.", weights)
    yield family("qwen_tenant_requests_waiting", "gauge", "Requests of a tenant that wait in the queue.", waiting)
    yield family("qwen_tenant_requests_running", "gauge", "Requests of a tenant that run in the engine.", running)
    yield family("qwen_tenant_requests_total", "counter", "Requests of a tenant by outcome.", outcomes)
    yield family("qwen_tenant_queue_seconds_total", "counter", "Time of a tenant's requests in the queue.", seconds)


def _counts(label: str, known: Iterable[str], counted: Mapping[str, int]) -> Series:
    """Returns the samples of a counter by reason.

    Reasons that are known beforehand begin with 0: Prometheus sees an increase only between two
    values.
    """
    return [({label: kind}, count) for kind, count in {**dict.fromkeys(known, 0), **counted}.items()]


def _engine(seen: Observation) -> Iterator[str]:
    labels = {"version": __version__, "model": seen.model}
    yield family("qwen_build_info", "gauge", "Version and model; always 1.", [(labels, 1)])
    patches = [({"patch": name}, float(used)) for name, used in sorted(seen.patches.items())]
    yield family("qwen_patch_in_use", "gauge", "Whether a patch of vLLM or uvicorn is in use.", patches)
    yield gauge("qwen_ready", "Whether the server accepts requests.", seen.accepts)
    yield gauge("qwen_uptime_seconds", "Time since the process started.", seen.uptime)
    firing = {alert["name"]: float(alert["value"]) for alert in seen.alerts}
    states = [({"name": name, "severity": severity}, float(name in firing)) for name, severity in seen.rules]
    yield family("qwen_alert_active", "gauge", "Whether an alert of the server is active.", states)
    values = [({"name": name}, firing.get(name, math.nan)) for name, _ in seen.rules]
    yield family("qwen_alert_value", "gauge", "What an active alert measures; NaN while it is not active.", values)
    restarts = _counts("cause", RESTART_CAUSES, seen.restarts)
    yield family("qwen_engine_restarts_total", "counter", "Restarts of the engine in this process, by cause.", restarts)
    yield gauge("qwen_engine_restarting_seconds", "How long a restart has taken so far.", seen.restarting_seconds or 0)
    yield gauge("qwen_engine_restarts_left", "Restarts that the budget allows now.", seen.restarts_left)
    yield gauge("qwen_engine_standby_bytes", "Memory of the process for the next restart.", seen.standby_bytes)
    if seen.state == "starting":
        return
    yield gauge("qwen_engine_hung_seconds", "How long the engine has not answered.", seen.hung_seconds)
    yield gauge("qwen_engine_stalled_seconds", "How long the engine has made no token.", seen.stalled_seconds)
    yield gauge("qwen_kv_cache_usage_ratio", "Share of the KV cache in use.", seen.kv_cache_usage)


def _gpu(gpu: GpuReading) -> Iterator[str]:
    if not (gpu.total or gpu.faults):
        return
    yield gauge("qwen_gpu_memory_allocated_bytes", "GPU memory in use, over all GPUs of the engine.", gpu.allocated)
    yield gauge("qwen_gpu_memory_total_bytes", "GPU memory, over all GPUs of the engine.", gpu.total)
    yield gauge("qwen_gpu_temperature_celsius", "Temperature of the engine's hottest GPU.", gpu.temperature)
    yield gauge("qwen_gpu_utilization_ratio", "Share of the time in which the GPUs computed.", gpu.busy)
    yield gauge("qwen_gpu_faults", "Faults that need a reset or a repair.", len(gpu.faults))

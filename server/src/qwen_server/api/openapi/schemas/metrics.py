"""The body of /api/v1/metrics, /stats and /metrics; `snapshots.metrics` makes it.

An unknown value is null.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from qwen_server.api.openapi.schemas.base import Exact

Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Percent = Annotated[float, Field(ge=0, le=100)]
Rate = Annotated[float, Field(ge=0)]


class Uptime(Exact):
    """How long the server has been running."""

    seconds: Seconds
    human: str = Field(pattern=r"^\d+h \d+m$", description="whole hours and minutes")


class Requests(Exact):
    """`total` counts every request that was accepted, and only grows.

    The rates leave out requests that were refused, or aborted by their client.
    """

    waiting: Count = Field(description="等待队列中的请求数 (in the queue)")
    running: Count = Field(description="正在处理的请求数 (being answered)")
    peak_concurrent: Count = Field(description="峰值并发数 (the most that ran at a time)")
    total: Count = Field(description="all that got a slot or a place in the queue, whatever became of them")
    successful: Count
    failed: Count = Field(description="the server's failures")
    success_rate_percent: Percent
    error_rate_percent: Percent
    requests_per_second: Rate = Field(description="total / uptime")
    aborted: Count = Field(description="客户端中途断开的请求数 (the client went away)")
    refused: Count = Field(description="因负载或状态被拒绝的请求数 (503, most before they count in total)")


class Tokens(Exact):
    """Tokens of prompts and answers since the start."""

    total_input: Count
    total_output: Count
    avg_per_request: Rate | None = Field(description="output tokens a request")


class Ttft(Exact):
    """首token延迟 (time to first token), from arrival, including the wait in the queue."""

    mean: Seconds | None
    p50: Seconds | None
    p95: Seconds | None
    p99: Seconds | None
    unit: Literal["seconds"]


class Throughput(Exact):
    """Decoding吞吐量: output tokens per second of a request."""

    decoding_mean: Rate | None = Field(description="after the first token")
    decoding_p50: Rate | None = Field(description="after the first token")
    total: Rate | None = Field(description="all output tokens over all latencies")
    unit: Literal["tokens/sec"]


class Slo(Exact):
    """Over the last five minutes, at most 1,000 requests, of answered requests only; percentiles
    are nearest-rank.
    """

    ttft: Ttft
    throughput: Throughput
    sample_size: Count


class Latency(Exact):
    """请求总延迟统计 (from arrival to the last token), over the same requests as `slo`."""

    mean: Seconds | None
    p50: Seconds | None
    p95: Seconds | None
    p99: Seconds | None
    min: Seconds | None
    max: Seconds | None
    unit: Literal["seconds"]


class LatencyHistogram(Exact):
    """延迟分布直方图 (answered requests since the start, by latency)."""

    model_config = ConfigDict(serialize_by_alias=True)

    up_to_100ms: Count = Field(alias="0-100ms")
    up_to_500ms: Count = Field(alias="100-500ms")
    up_to_1s: Count = Field(alias="500-1000ms")
    up_to_2s: Count = Field(alias="1-2s")
    up_to_5s: Count = Field(alias="2-5s")
    up_to_10s: Count = Field(alias="5-10s")
    above_10s: Count = Field(alias=">10s")


class Gpu(Exact):
    """Memory in GiB, summed over the engine's devices."""

    name: str = Field(description="the product's name; cpu where there is no GPU")
    allocated_gb: float = Field(ge=0)
    total_gb: float = Field(ge=0)
    free_gb: float = Field(ge=0, description="total - allocated")
    utilization_percent: Percent = Field(description="allocated / total")
    uuids: list[str] = Field(default=[], description="UUIDs of the devices; left out where there is no GPU")


class EngineRestarts(Exact):
    """How often the engine was restarted since the start of the server."""

    total: Count
    by_cause: dict[str, Count] = Field(description="died, failed (the restart before), hung or requested")
    left: Count = Field(description="what --engine-restarts allows now")


class EngineState(Exact):
    """The engine's restarts inside of the server."""

    restarts: EngineRestarts
    restarting_seconds: Seconds | None = Field(description="how long it has been away; null if it is not")
    standby_bytes: Count = Field(description="memory of the process for the next restart; 0 without one")


class Errors(Exact):
    """Failed requests by their cause, such as out_of_memory."""

    total: Count
    by_type: dict[str, Count]


class Alert(Exact):
    """An active alert."""

    name: str = Field(description="such as HighTTFT; there is a runbook for each")
    severity: Literal["critical", "warning", "info"]
    message: str
    value: float
    threshold: float
    unit: str
    since: str = Field(description="UTC, without an offset")


class AdapterState(Exact):
    """A LoRA adapter that is served, or should be."""

    name: str
    source: str = Field(description="its folder, or its repository and revision: at most the last 200 characters")
    state: Literal["loaded", "loading", "failed"]
    loaded: bool = Field(description="whether requests may name it; one that cannot be replaced stays")
    reason: str = Field(description="why it failed")


class Metrics(Exact):
    """可观测性: everything that the server counts."""

    timestamp: str = Field(
        pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}$", description="UTC, without an offset, in microseconds"
    )
    service: Literal["qwen-vllm"]
    version: str
    status: Literal["starting", "healthy", "degraded", "unhealthy", "restarting", "sleeping", "draining"]
    uptime: Uptime
    requests: Requests
    tokens: Tokens
    slo: Slo
    latency: Latency
    latency_histogram: LatencyHistogram
    gpu: Gpu
    errors: Errors
    alerts: list[Alert]
    alerts_count: Count
    adapters: list[AdapterState] = Field(default=[], description="LoRA adapters; left out where they are off")
    engine: EngineState | None = Field(None, description="beyond the specification, and never null")

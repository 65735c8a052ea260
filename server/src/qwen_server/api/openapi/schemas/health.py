"""The bodies of /health and the probes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qwen_server.api.openapi.schemas.base import Exact


class HealthGpu(Exact):
    """GPU memory in GiB, summed over the engine's devices; 0 on a CPU."""

    allocated_gb: float = Field(ge=0, description="in use")
    reserved_gb: float = Field(ge=0, description="reserved by the engine's allocator")
    free_gb: float = Field(ge=0, description="not in use")


class HealthLimits(Exact):
    """The limits in force."""

    max_concurrent_requests: int = Field(ge=1, description="requests that run at a time")
    max_queue_size: int = Field(ge=0, description="requests that may wait")
    rate_limit: str = Field(description="such as 600/minute; 无限制 (unlimited) when there is none")


class Health(Exact):
    """健康检查: `ok` only while requests are answered."""

    status: Literal["ok", "starting", "restarting", "sleeping", "draining", "unhealthy"]
    gpu: HealthGpu
    limits: HealthLimits


class Probe(Exact):
    """The answer of a probe."""

    status: Literal["ok", "unhealthy"]
    error: str | None = Field(None, description="why, where it is known")

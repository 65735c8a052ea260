"""What a server shows about itself at one moment, as plain values.

The JSON snapshots and the Prometheus page are pure functions of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from qwen_server.observe.gpu import GpuReading
from qwen_server.observe.request_figures import RequestFigures


@dataclass(frozen=True, slots=True)
class Observation:
    """Times are seconds of the monotonic clock, but for `wall`, which is UTC without an offset.

    `answers`: requests are answered now. `accepts`: a new request would be accepted. `rules` are the names and
    severities of the alerts that are on; `alerts` those that fire, as the specification's objects. What an engine tells
    is None while it is starting. `patches` tells of each patch whether it is in use.
    """

    now: float
    wall: datetime
    started_at: float
    model: str
    state: Literal["starting", "ready", "draining", "dead"]
    status: str
    answers: bool
    accepts: bool
    waiting: int
    running: int
    peak_running: int
    waiting_limit: int
    running_limit: int
    rate_limit: str | None
    figures: RequestFigures
    gpu: GpuReading
    gpu_reserved_bytes: int
    rules: tuple[tuple[str, str], ...]
    alerts: tuple[Mapping[str, Any], ...]
    hung_seconds: float | None
    stalled_seconds: float | None
    kv_cache_usage: float | None
    patches: Mapping[str, bool]

    @property
    def uptime(self) -> float:
        """Seconds since the process started."""
        return self.now - self.started_at

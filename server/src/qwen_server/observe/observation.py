"""The observable state of a server at one moment, as plain values.

The JSON snapshots and the Prometheus page are pure functions of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from qwen_server.observe.gpu import GpuReading
from qwen_server.observe.request_figures import RequestFigures


@dataclass(frozen=True, slots=True)
class Observation:
    """The state at `now`. Times are in seconds of the monotonic clock; `wall` is UTC, naive.

    answers: whether requests are answered now. accepts: whether a new request would be accepted.
    rules: name and severity of each enabled alert. alerts: the active alerts, as the
    specification's objects. patches: whether each patch is in use. The engine's values are None
    while it is starting. restarts: how often the engine was restarted, by cause.
    restarting_seconds: how long it has been away; None if it is not. standby_bytes: what the
    process for the next restart uses, 0 without one.
    """

    now: float
    wall: datetime
    started_at: float
    model: str
    state: Literal["starting", "ready", "restarting", "draining", "dead"]
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
    restarts: Mapping[str, int] = field(default_factory=dict)
    restarting_seconds: float | None = None
    restarts_left: int = 0
    standby_bytes: int = 0

    @property
    def uptime(self) -> float:
        """Seconds since the process started."""
        return self.now - self.started_at

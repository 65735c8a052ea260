"""The observable state of a server at one moment, as plain values.

The JSON snapshots and the Prometheus page are pure functions of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

from qwen_server.observe.gpu import GpuReading
from qwen_server.observe.request_figures import RequestFigures, TenantFigures


@dataclass(frozen=True, slots=True)
class TenantSeen:
    """One tenant: its weight, how many of its requests wait and run, and its counters."""

    name: str
    weight: float
    waiting: int
    running: int
    figures: TenantFigures


class AdapterState(NamedTuple):
    """A LoRA adapter that is served, or should be.

    source: where it comes from, or is to come from.
    state: of what should be served. A `reason` says why it failed.
    loaded: whether requests may name it. An adapter that cannot be replaced stays.
    """

    name: str
    source: str
    state: Literal["loaded", "loading", "failed"]
    loaded: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Observation:
    """The state at `now`. Times are in seconds of the monotonic clock; `wall` is UTC, naive.

    asleep: whether the engine sleeps. answers: whether requests are answered now. accepts: whether
    a new request would be accepted.
    rules: name and severity of each enabled alert. alerts: the active alerts, as the
    specification's objects. patches: whether each patch is in use. adapters: None if they are off.
    The engine's values are None while it is starting. restarts: how often the engine was restarted,
    by cause. restarting_seconds: how long it has been away; None if it is not. standby_bytes: what
    the process for the next restart uses, 0 without one.
    """

    now: float
    wall: datetime
    started_at: float
    model: str
    state: Literal["starting", "ready", "restarting", "draining", "dead"]
    status: str
    asleep: bool
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
    adapters: tuple[AdapterState, ...] | None = None
    tenants: tuple[TenantSeen, ...] = ()
    restarts: Mapping[str, int] = field(default_factory=dict)
    restarting_seconds: float | None = None
    restarts_left: int = 0
    standby_bytes: int = 0

    @property
    def uptime(self) -> float:
        """Seconds since the process started."""
        return self.now - self.started_at

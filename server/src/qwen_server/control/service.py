"""The state of one server: its queue, statistics and alerts, and whether it accepts new requests.

A ticker evaluates the engine's vital signs twice a second. Requests only read the result.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime

from qwen_server.config.patches import Patches
from qwen_server.config.settings import Settings
from qwen_server.control import alerts
from qwen_server.control.adapters import Adapters
from qwen_server.control.admission import Admission
from qwen_server.control.auto_limits import AutoLimits
from qwen_server.control.lifecycle import Lifecycle, State
from qwen_server.control.refusals import DRAINING_TEXT, SLEEPING_TEXT, STARTING_TEXT, UNRESPONSIVE_TEXT, Refusal
from qwen_server.control.shares import DEFAULT_TENANT
from qwen_server.control.sleeping import Sleep
from qwen_server.engine.base import Engine, hung_seconds, stalled_seconds
from qwen_server.observe.gpu import GpuMonitor, device_count
from qwen_server.observe.observation import Observation, TenantSeen
from qwen_server.observe.request_figures import RequestFigures

TICK_SECONDS = 0.5
_LATE_SECONDS = 1.0
_MIN_ERROR_SAMPLE = 20
_READY_FACTOR = 4  # level 1 readiness reacts far above the alert threshold, if the operator has not
_LIVE_FACTOR = 5
_LIVE_MIN_SECONDS = 300.0  # vLLM's multiprocess executor kills a hung step after 300 s
_WORKING_SECONDS = 5.0  # an engine that makes a token less often is as good as hung
_FIRST_RUNNING, _FIRST_WAITING = 3, 10  # the limits of `auto` until the engine is ready
_FIRST_PROMPT_TOKENS = 256  # the assumption of `auto` until requests have finished

_log = logging.getLogger(__name__)


def utc_now() -> datetime:
    """Returns the current time in UTC as a naive datetime, as the specification writes it."""
    return datetime.now(UTC).replace(tzinfo=None)


class Service:
    """The state behind the HTTP API. One event loop owns it.

    `clock` is monotonic, `wall` is UTC. The `reloads` are called twice a second and check whether
    their files have changed.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        lifecycle: Lifecycle,
        *,
        gpu: GpuMonitor | None = None,
        reloads: Sequence[Callable[[], None]] = (),
        patches: Patches | None = None,
        adapters: Adapters | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = utc_now,
    ) -> None:
        self.settings = settings
        self.engine = engine
        self.lifecycle = lifecycle
        self.sleep = Sleep(engine, lifecycle)
        self._reloads = reloads
        self._patches = patches or Patches(frozenset())
        self.adapters = adapters or Adapters(settings, engine, clock=clock)
        self.clock = clock
        self.wall = wall
        self.figures = RequestFigures(clock=clock)
        running, waiting = settings.max_concurrent_requests, settings.max_queue_size
        self.admission = Admission(
            _FIRST_RUNNING if running == "auto" else running,
            _FIRST_WAITING if waiting == "auto" else waiting,
            weights=settings.tenant_weights,
            reserve=settings.tenant_reserve,
            # A restart says nothing about how long requests take, nor is it anybody's use of slots.
            clock=lambda: clock() - lifecycle.restarts.total_seconds,
        )
        self.created = int(time.time())
        self.alert_state = alerts.NOTHING
        self._given_gpu = gpu
        self._adopt_device("cuda" if settings.device == "cuda" else "cpu")
        self._engine_known = False
        self._ready_at: float | None = None
        self._worked_at: float | None = None
        self._failing: set[int] = set()  # the parts of the ticker that failed at the last tick

    @property
    def rules(self) -> tuple[alerts.AlertRule, ...]:
        """The current alert rules."""
        if self._device == "cpu" or self._ready_at is None:
            return self._alerts_file.rules
        since = self.lifecycle.restarts.ended_at or self._ready_at
        return alerts.while_young(self._alerts_file.rules, self._device, self.clock() - since)

    @property
    def state(self) -> State:
        """The state of the process; restarting from the moment at which the engine dies."""
        state = self.lifecycle.state
        return "restarting" if state == "ready" and self.engine_is_away() else state

    @property
    def status(self) -> str:
        """starting, healthy, degraded, unhealthy, restarting, sleeping or draining."""
        if self.state in ("starting", "restarting", "draining"):
            return self.state
        if self.lifecycle.state == "dead" or self.alert_state.has("critical"):
            return "unhealthy"
        if self.sleep.active:
            return "sleeping"
        return "degraded" if self.alert_state.has("warning") else "healthy"

    def ready(self) -> bool:
        """Level 1 readiness: neither starting, draining, asleep nor dead, nor hung for long."""
        if self.lifecycle.state != "ready" or self.sleep.active:
            return False
        vitals = self.engine.vitals()
        return vitals.state == "ready" and hung_seconds(vitals, self.clock()) <= _READY_FACTOR * self._hung_threshold()

    def live(self) -> bool:
        """Whether the process may still recover without a restart."""
        lifecycle = self.lifecycle
        loading = (lifecycle.ready_at or lifecycle.started_at) - lifecycle.started_at
        if lifecycle.restarts.takes_too_long(loading):
            return False
        if lifecycle.state in ("starting", "restarting", "draining"):
            return True
        return lifecycle.state != "dead" and not self.engine_is_lost()

    def engine_is_lost(self) -> bool:
        """Whether the engine has hung for so long that only a restart can help."""
        limit = max(_LIVE_MIN_SECONDS, _LIVE_FACTOR * self._hung_threshold())
        return hung_seconds(self.engine.vitals(), self.clock()) > limit

    def engine_is_away(self) -> bool:
        """Whether the engine is being replaced, or is dead and about to be."""
        if self.lifecycle.restarts.since is not None:
            return True
        dead = self.engine.vitals().state == "dead" and self.lifecycle.state != "dead"
        return dead and self.lifecycle.restarts.allowed(self.settings.engine_restarts)

    def works(self) -> bool:
        """Whether the engine has just made tokens: whoever waits too long waits for its work.

        This is the state at the latest tick, before a deadline took its requests away.
        """
        return self._worked_at is not None and self.clock() - self._worked_at < TICK_SECONDS + _LATE_SECONDS

    def refusal(self, connected_at: float = math.inf) -> Refusal | None:
        """Returns why new requests are refused now; None if they may enter admission.

        `connected_at` is when the client connected, in seconds of `time.monotonic()`.
        """
        state = self.lifecycle.state
        if state == "dead":
            cause = self.lifecycle.cause or "the engine died"
            return Refusal("engine_dead", cause, self.admission.waiting, self.admission.queue_limit, None)
        if state == "starting":
            return self.refuse("starting", STARTING_TEXT, 10)
        if state == "draining" and not self.lifecycle.may_send_last_request(connected_at):
            return self.refuse("draining", DRAINING_TEXT, 1)
        if self.sleep.active:
            return self.refuse("sleeping", SLEEPING_TEXT, 10)
        if self.alert_state.zero_work:
            return self.refuse("unresponsive", UNRESPONSIVE_TEXT, 10)
        return None

    def refuse(self, kind: str, text: str, retry_after: int | None = None, *, tenant: str = "") -> Refusal:
        """Returns a refusal with the current queue.

        By default `retry_after` follows from the tenant's part of the queue.
        """
        seconds = self.admission.retry_after(tenant or DEFAULT_TENANT) if retry_after is None else retry_after
        return Refusal(kind, text, self.admission.waiting, self.admission.queue_limit, seconds)

    def observe(self) -> Observation:
        """Returns everything that the health and metrics paths show, as of now."""
        starting, restarts = self.lifecycle.state == "starting", self.lifecycle.restarts
        settings, admission, now = self.settings, self.admission, self.clock()
        vitals = None if starting else self.engine.vitals()
        # A process that drains or dies before its model is loaded is no longer starting, but its
        # engine has no info.
        loaded = vitals is not None and vitals.state != "starting"
        ready = self.ready()
        return Observation(
            now=now,
            wall=self.wall(),
            started_at=self.lifecycle.started_at,
            model=settings.served_name,
            state=self.state,
            status=self.status,
            asleep=self.sleep.active,
            answers=ready and not self.alert_state.zero_work,
            accepts=ready and self.refusal() is None,
            waiting=admission.waiting,
            running=admission.running,
            peak_running=admission.peak,
            waiting_limit=admission.queue_limit,
            running_limit=admission.limit,
            rate_limit=None if settings.rate_limit is None else settings.rate_limit.text,
            figures=self.figures,
            gpu=self.gpu.latest,
            gpu_reserved_bytes=0 if starting else self.engine.gpu_reserved_bytes(),
            rules=tuple((rule.name, rule.severity) for rule in self.rules if rule.on),
            alerts=tuple(alert.as_json() for alert in self.alert_state.active),
            hung_seconds=None if vitals is None else hung_seconds(vitals, now),
            stalled_seconds=None if vitals is None else stalled_seconds(vitals, now),
            kv_cache_usage=None if vitals is None else vitals.kv_cache_usage,
            restarts={str(cause): count for cause, count in restarts.counts.items()},
            restarting_seconds=None if restarts.since is None else now - restarts.since,
            restarts_left=restarts.left(settings.engine_restarts),
            standby_bytes=self.engine.standby_bytes(),
            patches={**self._patches.in_use, **(self.engine.info.patches if loaded else {})},
            adapters=self.adapters.states(),
            tenants=self._tenants(),
        )

    def _tenants(self) -> tuple[TenantSeen, ...]:
        """The tenants that have had requests; none where no keys are required."""
        figures = self.figures.tenants
        return tuple(
            TenantSeen(name, self.admission.weight_of(name), *self.admission.counts_of(name), figures[name])
            for name in sorted(figures)
        )

    @property
    def closes_connections(self) -> bool:
        """Whether clients should reconnect, and so reach another replica."""
        leaving = self.lifecycle.state in ("restarting", "draining", "dead")
        return leaving or self.sleep.active or self.alert_state.has("critical")

    def signals(self, now: float) -> dict[str, float | None]:
        """Returns the signals of the alerts at `now`; None where there is nothing to evaluate."""
        if self.lifecycle.state == "starting":
            return {}
        gpu = self.gpu.latest
        hardware = {
            "GPUUnhealthy": float(len(gpu.faults)),
            "GPUMemoryHigh": gpu.utilization_percent if gpu.total else None,
            "GPUTemperatureHigh": gpu.temperature,
        }
        if self.engine_is_away():
            return hardware
        vitals = self.engine.vitals()
        summary = self.figures.summary()
        ended, failed = self.figures.recent_errors()
        waiting_limit = self.admission.queue_limit
        return hardware | {
            "EngineUnresponsive": hung_seconds(vitals, now),
            "GenerationStalled": stalled_seconds(vitals, now),
            "EngineDead": float(vitals.state == "dead" or self.lifecycle.state == "dead"),
            "HighErrorRate": 100 * failed / ended if ended >= _MIN_ERROR_SAMPLE else None,
            "QueueSaturated": 100 * self.admission.waiting / waiting_limit if waiting_limit else None,
            "HighTTFT": summary.ttft.p95,
            "HighLatency": summary.latency.p95,
            "LowThroughput": summary.decoding.mean if self.admission.waiting else None,
            "KVCacheSaturated": 100 * vitals.kv_cache_usage,
        }

    def evaluate(self) -> None:
        """Evaluates the alerts and logs what changed."""
        now = self.clock()
        before = self.alert_state
        self.alert_state = after = alerts.evaluate(self.rules, self.signals(now), before, now, self.wall())
        for alert in after.active:
            if not before.fires(alert.rule.name):
                _log.warning("alert %s: %s", alert.rule.name, alert.as_json()["message"])
        for alert in before.active:
            if not after.fires(alert.rule.name):
                _log.info("alert %s ended", alert.rule.name)

    def tick(self) -> None:
        """Does the periodic work: reloads files, adapts the limits and evaluates the alerts.

        A part that fails does not keep the others from their work. Its error is logged once.
        """
        watches = (self._adopt_engine, self._watch_work, self._watch_gpu, self._poll_alerts_file)
        parts = (*watches, *self._reloads, self._follow_adapters, self._resize, self.evaluate)
        for number, part in enumerate(parts):
            try:
                part()
                self._failing.discard(number)
            except Exception:  # noqa: BLE001 - no error may stop the alerts
                if number not in self._failing:
                    _log.exception("a part of the ticker failed, trying again at each tick")
                self._failing.add(number)

    def _adopt_engine(self) -> None:
        if self._engine_known or self.lifecycle.state != "ready":
            return
        self._engine_known = True
        self._ready_at = self.clock()
        if self.engine.info.device != self._device:
            guessed = self.gpu
            self._adopt_device(self.engine.info.device)
            if self.gpu is not guessed:
                guessed.stop()
            self.gpu.start()

    def _watch_work(self) -> None:
        vitals, now = self.engine.vitals(), self.clock()
        recent = vitals.last_token_at is not None and now - vitals.last_token_at < _WORKING_SECONDS
        if vitals.state == "ready" and vitals.unfinished and recent:
            self._worked_at = now

    def _watch_gpu(self) -> None:
        self.gpu.warn_if_silent()

    def _follow_adapters(self) -> None:
        if not self.sleep.active:  # an engine that sleeps has no memory for them
            self.adapters.poll()

    def _poll_alerts_file(self) -> None:
        self._alerts_file.poll()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Runs the ticker and the GPU monitor."""
        self.gpu.start()
        ticker = asyncio.create_task(self._run(), name="ticker")
        try:
            yield
        finally:
            ticker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ticker
            self.gpu.stop()

    async def _run(self) -> None:
        skipped = False
        while True:
            before = self.clock()
            await asyncio.sleep(TICK_SECONDS)
            # If the loop itself was blocked, it has not read the engine's latest messages yet. Skip
            # one tick, so that a blocked loop does not look like a hung engine.
            late = self.clock() - before > TICK_SECONDS + _LATE_SECONDS
            skipped = late and not skipped
            if not skipped:
                self.tick()

    def _adopt_device(self, device: alerts.Device) -> None:
        self._device = device
        self._alerts_file = alerts.AlertsFile(self.settings.alerts_file, alerts.catalogue(device))
        self._alerts_file.poll()
        count = device_count(self.settings.tensor_parallel_size, self.settings.pipeline_parallel_size)
        self.gpu = self._given_gpu or GpuMonitor.for_engine(device=device, count=count)

    def _hung_threshold(self) -> float:
        for rule in self.rules:
            if rule.name == "EngineUnresponsive" and rule.on and rule.threshold:
                return rule.threshold
        return alerts.HUNG_SECONDS[self._device]

    def _resize(self) -> None:
        settings = self.settings
        running, waiting = settings.max_concurrent_requests, settings.max_queue_size
        if "auto" not in (running, waiting) or not self._engine_known:
            return
        info = self.engine.info
        auto = AutoLimits(
            max_num_seqs=info.max_num_seqs,
            kv_cache_tokens=info.kv_cache_tokens,
            prompt_tokens_p95=int(self.figures.summary().prompt_tokens_p95 or _FIRST_PROMPT_TOKENS),
            max_tokens=settings.max_tokens_limit if settings.task == "generate" else 0,
            completions_per_second=self.admission.completions_per_second(),
            queue_timeout=settings.queue_timeout,
        )
        limit = auto.running() if running == "auto" else running
        self.admission.resize(limit, auto.waiting(limit) if waiting == "auto" else waiting)

"""Hours of an engine's life on a fake clock: neither slow work nor idle time fires an alert."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from qwen_server.control.alerts import Device, catalogue
from qwen_server.control.lifecycle import Lifecycle
from qwen_server.control.service import TICK_SECONDS, Service
from qwen_server.engine.base import Vitals
from qwen_server.engine.vllm.heartbeat import Heartbeat
from tests.scripted_engine import ScriptedEngine
from tests.unit.qwen_server.serving import make_settings

PULSE_SECONDS = 0.5
IDLE_PROBE_SECONDS = 60.0
DEVICES: tuple[Device, ...] = ("cuda", "cpu")


class Imagined(ScriptedEngine):
    """An engine behind the pulse; `computing` says whether its processes use the CPU."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self.started = True
        self.device = device
        self.now = 1000.0
        self.heartbeat = Heartbeat()
        self.computing = True
        self.cache = 0.0
        self.alarms: set[str] = set()
        lifecycle = Lifecycle(lambda: self.now)
        lifecycle.mark_ready()
        settings: Any = make_settings(device=device)
        midnight = datetime(2025, 12, 24, tzinfo=UTC).replace(tzinfo=None)

        def wall() -> datetime:
            return midnight + timedelta(seconds=self.now)

        self.service = Service(settings, self, lifecycle, clock=lambda: self.now, wall=wall)

    def vitals(self) -> Vitals:
        heartbeat = self.heartbeat
        return Vitals(
            "ready",
            self.unfinished,
            heartbeat.last_step_at,
            heartbeat.last_token_at,
            heartbeat.ping_sent_at,
            heartbeat.busy_since,
            heartbeat.cpu_active_at if self.device == "cpu" else None,
        )

    def let(self, seconds: float, *, answers: bool) -> None:
        """Advances the time. With `answers` the engine core is between steps and answers pings."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + TICK_SECONDS, end)
            heartbeat = self.heartbeat
            if heartbeat.quiet_seconds(self.now, self.unfinished) < PULSE_SECONDS:
                heartbeat.on_life(self.now)
            else:
                heartbeat.on_cpu_time(self.now, {1: self.now if self.computing else 0.0})
            if answers:
                heartbeat.ping_sent_at = None
            elif heartbeat.ping_sent_at is None:
                heartbeat.ping_sent_at = self.now
            self.service.evaluate()
            self.alarms |= {alert.rule.name for alert in self.service.alert_state.active}

    def begin(self) -> None:
        self.heartbeat.on_request(self.now, self.unfinished)
        self.unfinished += 1

    def step(self, seconds: float, *, tokens: int = 1, cache: float = 0.0) -> None:
        """A scheduler step that takes `seconds` and uses `cache` more of the KV cache."""
        self.let(seconds, answers=False)
        self.cache += cache
        self.heartbeat.ping_sent_at = None
        self.heartbeat.on_step(self.now, tokens=tokens, kv_cache_usage=self.cache)


def threshold(device: Device, name: str) -> float:
    return next(rule.threshold for rule in catalogue(device) if rule.name == name and rule.threshold is not None)


def idle_hour(device: Device) -> Imagined:
    """An engine that had no requests for an hour, except for the probe of each minute."""
    engine = Imagined(device)
    engine.computing = False
    for _ in range(60):
        engine.let(IDLE_PROBE_SECONDS, answers=True)
        engine.begin()
        engine.step(0.02)
        engine.unfinished = 0
    return engine


@pytest.mark.parametrize("device", DEVICES)
def test_an_idle_hour_with_a_probe_each_minute(device: Device) -> None:
    assert idle_hour(device).alarms == set()


@pytest.mark.parametrize("device", DEVICES)
def test_the_first_request_after_an_hour_may_take_long(device: Device) -> None:
    """Its first step lasts nearly as long as the threshold."""
    engine = idle_hour(device)
    engine.begin()
    engine.step(0.9 * threshold(device, "EngineUnresponsive"))
    for _ in range(100):
        engine.step(0.05)
    assert engine.alarms == set()


@pytest.mark.parametrize("device", DEVICES)
def test_a_hang_in_the_first_request_after_an_hour_is_reported_in_time(device: Device) -> None:
    engine = idle_hour(device)
    engine.begin()
    engine.let(threshold(device, "EngineUnresponsive"), answers=False)
    assert engine.alarms == set()
    engine.let(2, answers=False)
    assert engine.alarms == {"EngineUnresponsive"}


@pytest.mark.parametrize("computing", [True, False])
@pytest.mark.parametrize("device", DEVICES)
def test_half_an_hour_of_steps_of_nearly_the_threshold(device: Device, computing: bool) -> None:
    """Also on busy cores, where our processes seem to stand still."""
    engine = Imagined(device)
    engine.computing = computing
    engine.begin()
    while engine.now < 1000 + 1800:
        engine.step(0.8 * threshold(device, "EngineUnresponsive"))
    assert engine.alarms == set()


@pytest.mark.parametrize("device", DEVICES)
def test_a_long_prompt_whose_chunks_bring_no_token(device: Device) -> None:
    """32 k tokens in chunks of 2 k, which together take longer than a stall may."""
    engine = Imagined(device)
    engine.begin()
    for _ in range(16):
        engine.step(0.8 * threshold(device, "EngineUnresponsive"), tokens=0, cache=0.05)
    assert engine.alarms == set()


@pytest.mark.parametrize("device", DEVICES)
def test_a_prompt_that_is_read_for_eight_minutes(device: Device) -> None:
    """No chunk brings a token, but each uses more of the cache."""
    engine = Imagined(device)
    engine.begin()
    while engine.now < 1000 + 480:
        engine.step(0.8 * threshold(device, "EngineUnresponsive"), tokens=0, cache=0.01)
    assert engine.alarms == set()


def test_a_step_of_minutes_on_a_cpu_that_computes() -> None:
    engine = Imagined("cpu")
    engine.begin()
    engine.step(600)
    assert engine.alarms == set()


@pytest.mark.parametrize("busy", [True, False])
@pytest.mark.parametrize("device", DEVICES)
def test_a_hang_is_reported_within_two_seconds_of_its_threshold(device: Device, busy: bool) -> None:
    engine = Imagined(device)
    engine.computing = False
    engine.let(10, answers=True)
    if busy:
        engine.begin()
        engine.step(0.1)
    limit = threshold(device, "EngineUnresponsive")
    engine.let(limit, answers=False)
    assert engine.alarms == set()
    engine.let(2, answers=False)
    assert engine.alarms == {"EngineUnresponsive"}


@pytest.mark.parametrize("device", DEVICES)
def test_steps_that_bring_nothing_are_a_stall_and_no_hang(device: Device) -> None:
    engine = Imagined(device)
    engine.begin()
    engine.step(0.1)
    limit = threshold(device, "GenerationStalled")
    for _ in range(int(limit) - 1):
        engine.step(1, tokens=0)
    assert engine.alarms == set()
    for _ in range(4):
        engine.step(1, tokens=0)
    assert engine.alarms == {"GenerationStalled"}

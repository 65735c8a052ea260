"""The alerts of the server and the decisions of the operator together, for wedges and for traps.

The server runs on a fake clock with an imagined engine. The operator reads the server's real answer
to /api/v1/metrics. docs/remediation.md lists all wedges and traps.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta

import pytest

from qwen_operator.api import QwenServiceSpec, RemediationStatus
from qwen_operator.remediation.decide import decide
from qwen_operator.remediation.memory import Memory, next_poll
from qwen_operator.remediation.policy import policy_of
from qwen_operator.remediation.poll import parse_metrics
from qwen_operator.remediation.steps import BeginRestart, CloseGate
from qwen_operator.remediation.values import Evidence, Instant, Pod, Round
from qwen_server.control.alerts import Device
from qwen_server.control.service import TICK_SECONDS
from qwen_server.observe import snapshots
from tests.unit.qwen_operator.remediation_world import EPOCH
from tests.unit.qwen_server.test_no_false_alarm import DEVICES, Imagined, threshold

PEER = Pod(uid="peer", name="peer")
SUBJECT = Pod(uid="subject", name="subject")
ALLOWED_SECONDS = 4.0
ALLOWED_ALONE_SECONDS = 2.5
"""Server and operator look half a second late here, and may need a further look."""


class Watched(Imagined):
    """An engine whose server the operator polls; `phase` is when, in seconds, it begins.

    Another pod is healthy, unless the engine is `alone`.
    """

    def __init__(self, device: Device, phase: float = 0.0, *, alone: bool = False) -> None:
        super().__init__(device)
        model = {"source": {"builtin": "news-classifier"}}
        self.policy = policy_of(QwenServiceSpec.model_validate({"model": model, "engine": {"device": device}}))
        self.memory = Memory()
        self.next_poll = self.now + phase
        self.pods: tuple[Pod, ...] = (SUBJECT,) if alone else (SUBJECT, PEER)
        self.out_at: float | None = None
        self.restart_at: float | None = None
        self.restarts = 0

    def let(self, seconds: float, *, answers: bool) -> None:
        """Advances the time, with polls in between."""
        end = self.now + seconds
        while self.now < end:
            super().let(min(TICK_SECONDS, end - self.now), answers=answers)
            if self.now >= self.next_poll:
                self.poll()

    def poll(self) -> None:
        """A round of the operator."""
        answer = parse_metrics(json.dumps(snapshots.metrics(self.service.observe())).encode())
        evidence = {"subject": answer, "peer": Evidence(uptime=self.now)}
        now = Instant(self.now, EPOCH + timedelta(seconds=self.now))
        seen = Round(self.pods, evidence, len(self.pods))
        decisions = decide(seen, self.policy, RemediationStatus(), self.memory, now)
        self.memory = decisions.memory
        if self.out_at is None and any(isinstance(step, CloseGate) for step in decisions.steps):
            self.out_at = self.now
        begun = sum(isinstance(step, BeginRestart) for step in decisions.steps)
        self.restarts += begun
        if self.restart_at is None and begun:
            self.restart_at = self.now
        self.next_poll = self.now + next_poll(self.memory, self.policy)

    def idle(self, minutes: int) -> None:
        """No requests but the server's own one of each minute."""
        for _ in range(minutes):
            self.let(60.0, answers=True)
            self.begin()
            self.step(0.02)
            self.unfinished = 0


# Each lets a healthy engine stop working, and returns the alert that must be the first.


def hang_under_load(engine: Watched) -> str:
    engine.begin()
    engine.step(0.1)
    return "EngineUnresponsive"


def hang_while_idle(engine: Watched) -> str:
    engine.let(10.0, answers=True)
    return "EngineUnresponsive"


def hang_in_the_first_request(engine: Watched) -> str:
    engine.idle(10)
    engine.begin()
    return "EngineUnresponsive"


def steps_without_tokens(engine: Watched) -> str:
    engine.begin()
    engine.step(0.1)
    return "GenerationStalled"


@pytest.mark.parametrize("phase", [0.0, 0.7, 1.3, 1.9])
@pytest.mark.parametrize("wedge", [hang_under_load, hang_while_idle, hang_in_the_first_request, steps_without_tokens])
@pytest.mark.parametrize("device", DEVICES)
def test_a_wedge_is_out_of_rotation_within_its_threshold_and_four_seconds(
    device: Device, wedge: Callable[[Watched], str], phase: float
) -> None:
    engine = Watched(device, phase)
    engine.computing = False
    alert = wedge(engine)
    begun, limit = engine.now, threshold(device, alert)
    assert engine.out_at is None
    while engine.now < begun + limit + ALLOWED_SECONDS:
        if alert == "GenerationStalled":
            engine.step(0.2, tokens=0)
        else:
            engine.let(TICK_SECONDS, answers=False)
    assert engine.alarms == {alert}
    assert engine.out_at is not None
    assert begun + limit < engine.out_at <= begun + limit + ALLOWED_SECONDS


@pytest.mark.parametrize("phase", [0.0, 0.7, 1.3, 1.9])
@pytest.mark.parametrize("wedge", [hang_under_load, hang_while_idle, hang_in_the_first_request, steps_without_tokens])
@pytest.mark.parametrize("device", DEVICES)
def test_a_lone_pod_with_a_wedge_is_restarted_after_twice_its_threshold(
    device: Device, wedge: Callable[[Watched], str], phase: float
) -> None:
    engine = Watched(device, phase, alone=True)
    engine.computing = False
    alert = wedge(engine)
    begun, limit = engine.now, threshold(device, alert)
    while engine.now < begun + 2 * limit + ALLOWED_ALONE_SECONDS:
        if alert == "GenerationStalled":
            engine.step(0.2, tokens=0)
        else:
            engine.let(TICK_SECONDS, answers=False)
    assert engine.restart_at is not None
    assert begun + 2 * limit <= engine.restart_at <= begun + 2 * limit + ALLOWED_ALONE_SECONDS


def long_prefill(engine: Watched) -> None:
    engine.begin()
    for _ in range(40):
        engine.step(12.0, tokens=0, cache=0.01)


def long_step_that_computes(engine: Watched) -> None:
    engine.begin()
    engine.step(600.0 if engine.device == "cpu" else 14.0)


def slow_first_request_after_an_hour(engine: Watched) -> None:
    engine.idle(60)
    engine.begin()
    engine.step(0.9 * threshold(engine.device, "EngineUnresponsive"))


def full_load(engine: Watched) -> None:
    """Three requests run and ten wait, for ten minutes."""
    for _ in range(13):
        engine.service.admission.enter(1)
    engine.begin()
    for _ in range(600):
        engine.step(1.0)
    assert engine.alarms == {"QueueSaturated"}


@pytest.mark.parametrize("trap", [long_prefill, long_step_that_computes, slow_first_request_after_an_hour, full_load])
@pytest.mark.parametrize("device", DEVICES)
def test_a_healthy_engine_is_neither_taken_out_nor_restarted(device: Device, trap: Callable[[Watched], None]) -> None:
    engine = Watched(device)
    trap(engine)
    assert engine.out_at is None
    assert engine.restarts == 0

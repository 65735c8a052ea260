"""Steps of an engine whose requests all wait for their grammars: no stall, but not forever."""

from __future__ import annotations

import pytest

from qwen_server.control.alerts import catalogue
from qwen_server.engine.base import Vitals, stalled_seconds
from qwen_server.engine.vllm.grammars.trials import longest_in_core
from qwen_server.engine.vllm.heartbeat import Heartbeat
from tests.unit.qwen_server.serving import make_settings

LONGEST = 20.0


class Engine:
    """An engine that steps ten times a second and compiles for `longest` at most."""

    def __init__(self, longest: float = LONGEST) -> None:
        self.now = 1000.0
        self.heartbeat = Heartbeat(most_compiling_seconds=longest)
        self.heartbeat.on_request(self.now, 0)

    def step(self, seconds: float, *, tokens: int = 0, compiling: bool = False) -> float:
        """Steps for `seconds`. Returns for how long the engine counts as stalled."""
        until = self.now + seconds
        while self.now < until:
            self.now += 0.1
            self.heartbeat.on_step(self.now, tokens=tokens, kv_cache_usage=0.0, compiling=compiling)
        return self.stalled()

    def stalled(self) -> float:
        heartbeat = self.heartbeat
        vitals = Vitals(
            state="ready",
            unfinished=1,
            last_step_at=heartbeat.last_step_at,
            last_token_at=heartbeat.last_token_at,
            busy_since=heartbeat.busy_since,
            compiling_seconds=heartbeat.compiling_seconds,
        )
        return stalled_seconds(vitals, self.now)


def test_requests_that_wait_for_their_grammars_are_no_stall() -> None:
    engine = Engine()
    assert engine.step(LONGEST - 1, compiling=True) < 1


def test_a_grammar_that_compiles_for_a_minute_is_no_stall() -> None:
    """With the default settings, and also if it passed its check."""
    engine = Engine(longest_in_core(make_settings()))
    [limit] = [rule.threshold for rule in catalogue("cuda") if rule.name == "GenerationStalled"]
    assert limit is not None
    assert engine.step(60, compiling=True) < limit


def test_other_requests_without_tokens_are_one() -> None:
    engine = Engine()
    engine.step(5, compiling=True)
    assert 9 < engine.step(10) < 11


def test_a_stall_is_found_even_if_grammars_are_sent_forever() -> None:
    """Each client gives up and sends another grammar, so that every request is young."""
    engine = Engine()
    for _ in range(60):
        engine.step(1, compiling=True)
        engine.heartbeat.on_request(engine.now, 1)
    assert engine.stalled() == pytest.approx(engine.now - 1000 - LONGEST)


def test_a_token_ends_the_count() -> None:
    engine = Engine()
    engine.step(LONGEST, compiling=True)
    engine.step(0.1, tokens=1)
    assert engine.step(LONGEST - 1, compiling=True) < 1


def test_a_new_request_to_an_idle_engine_begins_anew() -> None:
    engine = Engine()
    engine.step(LONGEST, compiling=True)
    engine.now += 100
    engine.heartbeat.on_request(engine.now, 0)
    assert engine.step(LONGEST - 1, compiling=True) < 1

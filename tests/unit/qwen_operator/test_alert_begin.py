"""Since when an alert counts: as the pod says, within what the polls have seen.

A pod says how old its alert is. That is believed as far as two answers agree, and back to the last
answer without the alert. So no clock of a pod and no single answer makes a step come earlier than
the alert permits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_operator.remediation.memory import next_poll
from qwen_operator.remediation.policy import Policy
from qwen_operator.remediation.steps import BeginRestart, CloseGate
from tests.unit.qwen_operator.remediation_world import ALERTS, ZERO_WORK, World, policy

HUNG = "EngineUnresponsive"
THRESHOLD = ALERTS[HUNG].threshold
SLOW = policy(alerts={**ALERTS, HUNG: replace(ALERTS[HUNG], unready_after=9.0, restart_after=300.0)})
"""A rule that takes a pod out after nine seconds."""

ages = st.none() | st.floats(0.0, 4.0) | st.floats(0.0, 1e6)


def rounds_until(step: type, world: World, told: Sequence[float | None] = ()) -> int:
    """Rounds from the first poll with the alert until a step; `told` are the ages in the answers.

    After them the pod says what its own clock says.
    """
    world["u0"].alerts, world["u0"].generates = frozenset({HUNG}), False
    for number in range(100):
        if number < len(told):
            age = told[number]
            world["u0"].active_for = {} if age is None else {HUNG: age}
        if any(isinstance(made, step) for made in world.round().steps):
            return number
    raise AssertionError(f"no {step.__name__}")


def watched(count: int = 1, rules: Policy | None = None) -> World:
    """A world whose pods have answered without an alert."""
    world = World.of(count, rules)
    world.rounds(10.0)
    return world


# One poll is two seconds, so a threshold of 15 s is over at the eighth poll after the first one.
PLAIN = 8


def test_without_an_age_an_alert_counts_from_the_first_poll() -> None:
    assert rounds_until(BeginRestart, watched()) == PLAIN


@pytest.mark.parametrize(("age", "rounds"), [(0.0, 8), (0.9, 8), (1.0, 7), (1.9, 7)])
def test_an_alert_counts_from_its_own_begin(age: float, rounds: int) -> None:
    """The restart is the first poll at which the alert is as old as its threshold."""
    assert rounds_until(BeginRestart, watched(), [age]) == rounds


@pytest.mark.parametrize(("age", "rounds"), [(0.0, 5), (0.9, 5), (1.0, 4), (1.9, 4)])
def test_the_for_of_unready_counts_from_it_too(age: float, rounds: int) -> None:
    assert rounds_until(CloseGate, watched(2, SLOW), [age]) == rounds


def test_no_age_makes_an_alert_begin_before_the_last_poll_without_it() -> None:
    assert rounds_until(BeginRestart, watched(), [1000.0]) == PLAIN - 1


@pytest.mark.parametrize("told", [[1.9, 0.5], [1.9, None], [None, 3.9]])
def test_one_answer_is_not_enough(told: list[float | None]) -> None:
    assert rounds_until(BeginRestart, watched(), told) == PLAIN


def test_a_clock_that_jumps_while_the_alert_is_active_gains_nothing() -> None:
    assert rounds_until(BeginRestart, watched(), [0.0, 2.0, 4.0, 3606.0]) == PLAIN
    assert rounds_until(BeginRestart, watched(), [0.0, 2.0, 0.0]) == PLAIN


def test_the_first_answer_after_a_start_of_the_operator_is_not_believed() -> None:
    world = watched()
    world.forget()
    assert rounds_until(BeginRestart, world, [1000.0]) == PLAIN


def test_an_answer_after_a_silence_is_not_believed() -> None:
    world = watched()
    world["u0"].silent = True
    world.rounds(10.0)
    world["u0"].silent = False
    assert rounds_until(BeginRestart, world, [9.0]) == PLAIN


def test_a_new_container_does_not_inherit_the_last_answer_of_the_old_one() -> None:
    world = watched()
    world["u0"].uptime = 0.5
    assert rounds_until(BeginRestart, world, [1.9]) == PLAIN


@settings(max_examples=100, deadline=None)
@given(told=st.lists(ages, max_size=12), count=st.integers(1, 3), alert=st.sampled_from(ZERO_WORK))
def test_an_age_brings_a_step_forward_by_one_poll_at_most(told: list[float | None], count: int, alert: str) -> None:
    def when(step: type, answers: list[float | None]) -> float:
        world = watched(count, policy(min_ready=count))
        world["u0"].alerts, world["u0"].generates = frozenset({alert}), False
        begun = world.mono
        for number in range(100):
            age = answers[number] if number < len(answers) else None
            world["u0"].active_for = {} if age is None else {alert: age}
            at = world.mono
            if any(isinstance(made, step) for made in world.round().steps):
                return at - begun
        raise AssertionError(f"no {step.__name__}")

    for step in (CloseGate, BeginRestart):
        plain, with_ages = when(step, []), when(step, told)
        assert plain - 2.0 <= with_ages <= plain
        assert with_ages >= ALERTS[alert].threshold - 2.0


def test_a_poll_comes_just_when_a_pod_may_leave() -> None:
    world = watched()
    world["u0"].alerts = frozenset({HUNG})
    world["u0"].active_for = {HUNG: 0.5}
    pauses = []
    for _ in range(8):
        world.round()
        pauses.append(next_poll(world.memory, world.policy))
    # After the eighth of them the alert is 14.5 s old.
    assert pauses == pytest.approx([1.2] * 7 + [THRESHOLD - 14.5])


def test_a_poll_comes_just_when_the_for_of_unready_is_over() -> None:
    world = watched(2, SLOW)
    world["u0"].alerts = frozenset({HUNG})
    for _ in range(5):
        world.round()
    assert next_poll(world.memory, world.policy) == pytest.approx(1.0)


def test_a_restarted_pod_is_polled_sooner_until_it_is_back() -> None:
    world = watched()
    rounds_until(BeginRestart, world)
    world.rounds(world.start_seconds)
    assert next_poll(world.memory, world.policy) == 2.0
    while world.memory.pods["u0"].quiet_polls == 0:
        world.round()
    assert next_poll(world.memory, world.policy) == pytest.approx(1.2)

"""The invariants of `decide`, called (a) to (j), in generated histories from any starting state.

`make test-full` plays more of them: REMEDIATION_HISTORIES=10000.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from qwen_operator.remediation.steps import BeginRestart
from qwen_operator.remediation.values import Gate, Rollout
from tests.unit.qwen_operator.remediation_auditor import Auditor
from tests.unit.qwen_operator.remediation_histories import play
from tests.unit.qwen_operator.remediation_twins import compare
from tests.unit.qwen_operator.remediation_world import ALERTS, Patient, World

HISTORIES = int(os.environ.get("REMEDIATION_HISTORIES", "1000"))
PARTS = 4  # for as many processes


def all_well(world: World) -> None:
    """From now on all pods and nodes are healthy, and what was in progress is complete."""
    world.proofs, world.full = dict.fromkeys(world.proofs, True), False
    for uid, patient in list(world.patients.items()):
        pod = replace(patient.pod, node_ready=True, unschedulable=False)
        world.patients[uid] = Patient(pod, uptime=patient.uptime + 1.0)


@pytest.mark.parametrize("part", range(PARTS))
def test_every_history_keeps_the_invariants_and_ends_well(part: int) -> None:
    for seed in range(part, HISTORIES, PARTS):
        try:
            live(Random(seed))
        except AssertionError as error:
            raise AssertionError(f"history {seed}: {error}") from error


@pytest.mark.parametrize("part", range(PARTS))
def test_until_they_part_a_dry_run_tells_in_every_history_what_enforcement_does(part: int) -> None:
    """(h)"""
    told: Counter[str] = Counter()
    for seed in range(part, HISTORIES, PARTS):
        try:
            told.update(what for what, _, _ in compare(seed))
        except AssertionError as error:
            raise AssertionError(f"history {seed}: {error}") from error
    assert told["Unready"] > 0
    assert told["InPlace"] + told["Evict"] > 0


def live(random: Random) -> None:
    """Plays a history to its end and checks all invariants."""
    world, auditor = play(random)  # (a) to (h)
    all_open_once_all_are_well(world, auditor, random)
    a_lone_hung_pod_is_restarted(world, auditor)


def all_open_once_all_are_well(world: World, auditor: Auditor, random: Random) -> None:
    """(i)"""
    all_well(world)
    if random.random() < 0.5:
        world.forget()
    end = world.mono + world.policy.recover_after + 3 * world.policy.poll
    while world.mono <= end:
        auditor.round()
    assert {patient.pod.gate for patient in world.patients.values()} <= {Gate.OPEN, Gate.MISSING}, "(i)"


def a_lone_hung_pod_is_restarted(world: World, auditor: Auditor) -> None:
    """(j)"""
    rules = world.policy = replace(world.policy, mode="Enforce", max_restarts=max(1, world.policy.max_restarts))
    world.rollout, world.reset, world.evictions_blocked = Rollout(), world.reset + "again", False
    for uid in sorted(world.patients)[1:]:
        del world.patients[uid]
    # A restart that an earlier operator began ends by itself.
    while world.ledger.intents:
        auditor.round()
    [patient] = world.patients.values()
    patient.alerts, patient.generates = frozenset({"EngineUnresponsive"}), False
    begun = len(world.steps(BeginRestart))
    rule = ALERTS["EngineUnresponsive"]
    assert rule.restart_after is not None
    end = world.mono + rule.threshold + rule.restart_after + rules.backoff_max + rules.drain + 5 * rules.poll
    while world.mono <= end:
        auditor.round()
    assert len(world.steps(BeginRestart)) > begun, "(j)"

"""The same history twice: enforced, and as a dry run. Until they part, both tell the same.

They part at the first restart, which the dry run does not make. They also part when a pod that is
out of rotation, or should be, seems to recover: only enforcement tests its engine before it comes
back.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Literal

from qwen_operator.api import RemediationStatus
from qwen_operator.remediation.steps import BeginRestart, CloseGate, Decisions, OpenGate, WouldDo
from qwen_operator.remediation.values import Gate
from tests.unit.qwen_operator.remediation_histories import FAULTS, any_world
from tests.unit.qwen_operator.remediation_world import World

Told = tuple[str, str, str]
"""What happens to a pod, its UID, and the alert."""

_FAULTS = [event for event, weight in FAULTS for _ in range(weight)]


def twin(seed: int, mode: Literal["Enforce", "DryRun"]) -> World:
    """A service with all pods in rotation and no restart in its past."""
    world = any_world(Random(seed))
    world.policy, world.ledger = replace(world.policy, mode=mode), RemediationStatus()
    for uid in world.patients:
        world.change(uid, gate=Gate.OPEN, closed_for="", closed_since=None)
    return world


def told(decisions: Decisions) -> list[Told]:
    """The steps of a round about rotation and restarts, made or reported by a dry run."""
    found: list[Told] = []
    for step in decisions.steps:
        wanted = step.step if isinstance(step, WouldDo) else step
        if isinstance(wanted, CloseGate):
            found.append(("Unready", wanted.pod.uid, wanted.alert))
        elif isinstance(wanted, BeginRestart):
            found.append((wanted.intent.method, wanted.pod.uid, wanted.intent.alert))
    return found


def recovers(world: World, decisions: Decisions) -> bool:
    """Whether a pod that is out of rotation, or should be, seems to recover or is let back in."""
    quiet = any(pod.latch is not None and pod.quiet_polls for pod in world.memory.pods.values())
    return quiet or any(isinstance(step, OpenGate) for step in decisions.steps)


def compare(seed: int) -> list[Told]:
    """Plays a history twice. Fails where the dry run tells something else than what is done.

    Returns the steps until the worlds part.
    """
    enforced, dry, story = twin(seed, "Enforce"), twin(seed, "DryRun"), Random(seed)
    found: list[Told] = []
    for _ in range(story.randint(1, 6)):
        fault, chance = story.choice(_FAULTS), story.getrandbits(32)
        for world in (enforced, dry):
            fault(world, Random(chance))
        for _ in range(story.choice([1, 3, 10, 40])):
            made, reported = enforced.round(), dry.round()
            if recovers(enforced, made):
                return found
            assert told(made) == told(reported), f"(h): {told(made)} was done, {told(reported)} was told"
            found += told(made)
            if any(isinstance(step, BeginRestart) for step in made.steps):
                return found
    return found

"""More requests than a service can serve: a condition says so while it lasts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from qwen_operator.api import RemediationStatus
from qwen_operator.remediation.values import Evidence, Round
from tests.unit.qwen_operator.remediation_world import World, policy
from tests.unit.qwen_operator.test_remediator import KEY, OneService, remediator_of

FULL = frozenset({"QueueSaturated"})


def saturated(world: World) -> bool:
    return world.memory.saturated_at is not None


@pytest.mark.parametrize(("full", "count", "expected"), [(1, 1, True), (1, 2, False), (2, 3, True), (0, 2, False)])
def test_it_is_so_if_more_than_half_of_the_pods_have_the_alert(full: int, count: int, expected: bool) -> None:
    world = World.of(count)
    for number in range(full):
        world[f"u{number}"].alerts = FULL
    world.round()
    assert not saturated(world), "one poll is not enough"
    world.round()
    assert saturated(world) is expected


def test_other_saturation_does_not_count() -> None:
    world = World.of(1)
    world["u0"].alerts = frozenset({"KVCacheSaturated", "HighTTFT"})
    world.rounds(60.0)
    assert not saturated(world)


def test_pods_that_cannot_be_read_do_not_count() -> None:
    world = World.of(3)
    world["u0"].alerts = FULL
    world.rounds(10.0)
    assert not saturated(world)
    for uid in ("u1", "u2"):
        world[uid].silent = True
    world.rounds(10.0)
    assert saturated(world)


@pytest.mark.parametrize("mode", ["Enforce", "DryRun", "Off"])
def test_it_outlasts_a_poll_without_the_alert_and_ends_after_three(mode: str) -> None:
    world = World.of(2, policy(mode=mode))
    for uid in world.patients:
        world[uid].alerts = FULL
    world.rounds(20.0)
    for alerts in (frozenset[str](), FULL, frozenset[str]()):
        for uid in world.patients:
            world[uid].alerts = alerts
        world.round()
        assert saturated(world)
    world.rounds(6.0)
    assert not saturated(world)


# What a new leader says.


def reported(*reasons: str) -> OneService:
    """A service whose status was written by an earlier leader."""
    condition = {
        "type": "HasWarnings",
        "status": "True" if reasons else "False",
        "reason": reasons[0] if reasons else "None",
        "message": " ".join(f"{reason}: something." for reason in reasons),
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    cluster = OneService("2s")
    cluster.obj["status"] = {"conditions": [condition]}
    return cluster


def round_of(world: World, uptime: float, alerts: frozenset[str]) -> Round:
    pods = tuple(patient.pod for patient in world.patients.values())
    return Round(pods, {pod.uid: Evidence(uptime, alerts) for pod in pods}, len(pods))


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [((), []), (("GPUsIdle",), []), (("GPUsIdle", "QueueSaturated"), ["QueueSaturated"])],
)
def test_a_new_leader_believes_the_status_until_it_has_decided(reasons: tuple[str, ...], expected: list[str]) -> None:
    found = remediator_of(reported(*reasons)).warnings(KEY)
    assert [warning.reason for warning in found] == expected
    assert remediator_of(OneService("2s")).warnings(KEY) == ()


def test_a_change_is_reported_once_and_a_new_leader_does_not_flap(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 1000.0
    monkeypatch.setattr("qwen_operator.remediation.remediator.time", SimpleNamespace(monotonic=lambda: clock))
    changes: list[object] = []
    remediator = remediator_of(reported("QueueSaturated"))
    remediator._on_change = changes.append
    world = World.of(2)
    seen: list[bool] = []
    for number in range(12):
        clock = 1000.0 + 2.0 * number
        alerts = FULL if number < 4 else frozenset[str]()
        remediator.judge(KEY, round_of(world, clock, alerts), policy(), RemediationStatus())
        seen.append(bool(remediator.warnings(KEY)))
    assert seen == [True] * 7 + [False] * 5
    assert changes == [KEY]

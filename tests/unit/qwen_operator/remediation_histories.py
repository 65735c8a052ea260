"""Generated histories for `decide`: any starting state and any faults, with an auditor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random

from qwen_operator.api import HistoryEntry, RemediationStatus, RestartIntent
from qwen_operator.remediation.policy import Policy
from qwen_operator.remediation.restarts import DEAD
from qwen_operator.remediation.values import Gate, Rollout
from tests.unit.qwen_operator.remediation_auditor import Auditor
from tests.unit.qwen_operator.remediation_world import ALERTS, EPOCH, TAKING_OUT, Patient, World, policy

# Policies and starting states.


def any_policy(random: Random) -> Policy:
    """A policy within the bounds of the spec."""
    return policy(
        min_ready=random.randint(0, 3),
        max_restarts=random.randint(0, 4),
        window=random.choice([60.0, 600.0, 3600.0]),
        backoff_base=random.choice([0.0, 5.0, 30.0]),
        backoff_max=60.0,
        recover_after=random.choice([0.0, 5.0, 30.0]),
        method=random.choice(["Auto", "Engine", "InPlace", "Evict"]),
        startup=random.choice([30.0, 300.0]),
        drain=random.choice([0.0, 10.0, 60.0]),
        poll=random.choice([0.5, 2.0, 10.0]),
    )


def any_alerts(random: Random) -> frozenset[str]:
    """No alert, one that takes a pod out, or up to three of any kind."""
    kind = random.random()
    if kind < 0.4:
        return frozenset()
    if kind < 0.7:
        return frozenset({random.choice(TAKING_OUT)})
    return frozenset(random.sample(sorted(ALERTS), random.randint(1, 3)))


def any_world(random: Random) -> World:
    """A service as an operator may find it after a start, with whatever an earlier one left."""
    world = World.of(random.randint(1, 4), any_policy(random))
    world.start_seconds = random.choice([6.0, 20.0, 120.0])
    for uid in world.patients:
        gate = random.choice([Gate.OPEN, Gate.OPEN, Gate.CLOSED, Gate.UNSET, Gate.MISSING])
        closed = gate is Gate.CLOSED
        since = world.wall + timedelta(seconds=random.randint(-4000, 100))
        world.change(
            uid,
            gate=gate,
            closed_for=random.choice([*TAKING_OUT, "Unhealthy", ""]) if closed else "",
            closed_since=random.choice([None, since]) if closed else None,
            newest=random.random() < 0.5,
            node=random.choice(["", "n1", "n2"]),
            restarts=random.randint(0, 2),
            restart_id=random.choice(["", "2026-01-01T00:00:00Z"]),
            engine_restart_id=random.choice(["", "2026-01-01T00:00:00Z"]),
            exit_code=random.choice([None, 70, 78]),
        )
        any_health(world, uid, random)
    world.ledger = any_ledger(world, random)
    return world


def any_ledger(world: World, random: Random) -> RemediationStatus:
    """Restarts in the past and the future, and intents that were never finished."""

    def moment() -> datetime:
        low, high = random.choice([(-4000, 0), (-60, 0), (0, 4000)])
        return EPOCH + timedelta(seconds=random.randint(low, high))

    times = [moment() for _ in range(random.choice([0, 0, 1, 3]))]
    intents = [
        RestartIntent(
            pod_uid=random.choice([*world.patients, "gone"]),
            pod="p",
            alert=random.choice([*TAKING_OUT, DEAD]),
            method=random.choice(["Engine", "InPlace", "Evict"]),
            time=moment(),
            restart_count=random.randint(0, 2),
            engine_restarts=random.randint(0, 2),
        )
        for _ in range(random.choice([0, 0, 1, 1, 2]))
    ]
    times += [intent.time for intent in intents]
    actions = random.choices(["Engine", "InPlace", "Evict", "Blocked"], k=len(times))
    history = [
        HistoryEntry(time=time, pod="p0", pod_uid="u0", action=action)
        for time, action in zip(times, actions, strict=True)
    ]
    last = max(times, default=None)
    return RemediationStatus(
        intents=intents,
        restart_times=times,
        restarts_in_window=len(times),
        last_restart_time=last,
        backoff_until=None if last is None else last + timedelta(seconds=random.choice([0, 60])),
        history=history,
    )


# Events.


def any_health(world: World, uid: str, random: Random) -> None:
    """Another state of one pod."""
    patient = replace(
        world.patients[uid],
        alerts=any_alerts(random),
        silent=random.random() < 0.2,
        frozen=random.random() < 0.15,
        garbled=random.random() < 0.1,
        generates=random.random() < 0.5,
        busy=random.randint(0, 2),
        gpus=random.choice([(), ("GPU-1",), ("GPU-2",)]),
        cured_by_restart=random.random() < 0.7,
        engine_cures=random.random() < 0.7,
        engine_restarts_left=random.choice([0, 0, 1, 3]),
        says_restarting=random.random() < 0.05,
    )
    world.patients[uid] = replace(patient, active_for=any_ages(world, patient))


def any_ages(world: World, patient: Patient) -> dict[str, float]:
    """For how long its alerts have been active, as the pod says. It may say nothing, or lie.

    Drawn by a generator of its own, so that a history is the same with and without the ages.
    """
    alerts = sorted(patient.alerts)
    random = Random(f"{world.mono} {patient.uptime} {patient.pod.uid} {alerts} {world.policy.poll}")
    ages = {alert: random.choice([0.0, random.uniform(0.0, 3.0), random.uniform(0.0, 1000.0)]) for alert in alerts}
    return {alert: age for alert, age in ages.items() if random.random() < 0.7}


def _change(world: World, random: Random) -> None:
    any_health(world, random.choice(sorted(world.patients)), random)


def _lose_node(world: World, random: Random) -> None:
    """The node is lost. The API calls its pods ready for a while, and learns of the node or not."""
    uid = random.choice(sorted(world.patients))
    world.patients[uid].silent = True
    world.change(uid, node_ready=random.random() < 0.5)


def _find_node(world: World, random: Random) -> None:
    for uid, patient in world.patients.items():
        world.change(uid, node_ready=True)
        patient.silent = patient.silent and random.random() < 0.5


def _die(world: World, random: Random) -> None:
    """The engine dies and the kubelet restarts the container."""
    uid = random.choice(sorted(world.patients))
    world.change(uid, restarts=world[uid].pod.restarts + 1, exit_code=random.choice([70, 78, 137]))
    world[uid].down_until, world[uid].uptime = world.mono + random.choice([4.0, 30.0]), 0.0


def _revive(world: World, random: Random) -> None:
    """The server restarts its engine by itself. That may never end."""
    patient = world[random.choice(sorted(world.patients))]
    patient.engine_restarts += 1
    patient.restarting_until = world.mono + random.choice([4.0, 30.0, 1e9])


def _jump(world: World, random: Random) -> None:
    world.wall += timedelta(seconds=random.choice([-3600, -60, 5, 60, 3600, 86400]))


def _restart_operator(world: World, random: Random) -> None:
    world.forget()
    if random.random() < 0.5:
        world.advance(random.choice([2.0, 60.0, 600.0, 7200.0]))


def _roll_out(world: World, random: Random) -> None:
    world.rollout = random.choice([Rollout(), Rollout(under_way=True), Rollout(stalled=True)])


def _set_mode(world: World, random: Random) -> None:
    world.policy = replace(world.policy, mode=random.choice(["Enforce", "Enforce", "DryRun", "Off"]))


def _reset(world: World, random: Random) -> None:
    world.reset = str(random.random())


def _fill(world: World, random: Random) -> None:
    world.full = random.random() < 0.5


def _block_evictions(world: World, random: Random) -> None:
    world.evictions_blocked = random.random() < 0.5


Event = Callable[[World, Random], None]

FAULTS: tuple[tuple[Event, int], ...] = (
    (_change, 8),
    (_jump, 1),
    (_lose_node, 1),
    (_find_node, 1),
    (_die, 1),
    (_revive, 1),
    (_roll_out, 1),
)
"""What happens to pods, nodes and clocks, and how often."""
EVENTS: tuple[tuple[Event, int], ...] = (
    *FAULTS,
    (_restart_operator, 2),
    (_set_mode, 1),
    (_reset, 1),
    (_block_evictions, 1),
    (_fill, 1),
)
_EVENTS = [event for event, weight in EVENTS for _ in range(weight)]


def play(random: Random) -> tuple[World, Auditor]:
    """Plays a history; each step is audited."""
    world = any_world(random)
    auditor = Auditor(world)
    for _ in range(random.randint(1, 8)):
        random.choice(_EVENTS)(world, random)
        for _ in range(random.choice([1, 2, 3, 10, 40])):
            # The operator may be killed between any two steps.
            killed = random.random() < 0.03
            auditor.round(random.randint(0, 2) if killed else None)
            if killed:
                world.forget()
    return world, auditor

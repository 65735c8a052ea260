"""Plays a scenario in the simulated world, and compares each second with the table."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

from qwen_operator.api import HistoryEntry, RestartIntent
from qwen_operator.api.catalogue import AlertClass
from qwen_operator.remediation import ledger as ledgers
from qwen_operator.remediation.policy import policy_of
from qwen_operator.remediation.steps import (
    BeginRestart,
    CloseGate,
    Died,
    ExecuteRestart,
    FinishRestart,
    OpenGate,
    Report,
    ResetBudget,
    Step,
    WouldDo,
)
from qwen_operator.remediation.values import Gate, Pod, Rollout
from tests.unit.qwen_operator.remediation_world import ALERTS, EPOCH, Patient, World
from tests.unit.qwen_operator.scenario_tables import DOES, SAYS, Row, Scenario, ScenarioError, clock, seconds_of

START = 1000.0
"""The monotonic time at 0:00."""
CHANGES = ("suspended", "not suspended", "saturated", "not saturated")
"""Parts of what the status says. Each change of them has its row."""
_TICK = 1e-6
"""Sums of intervals such as 0.2 s are not exact."""


def differences(scenario: Scenario) -> list[str]:
    """Where the table and the play differ, with the file, the row and the column.

    Raises ScenarioError for words that no table may have.
    """
    play = Play(scenario)
    found = list(play.wrong)
    rows = {row.second: row for row in scenario.rows}
    for second in sorted({*rows, *play.did, *play.said}):
        did, said = play.did.get(second, []), play.said.get(second, [])
        row = rows.get(second)
        if row is None:
            if did or said:
                found.append(f"{scenario.name}: there is no row for {clock(second)}: {'; '.join([*did, *said])}")
            continue
        changes = [part for part in row.says if part.partition(":")[0] in CHANGES]
        for column, expected, actual in ((DOES, list(row.does), did), (SAYS, changes, said)):
            if expected != actual:
                table, was = "; ".join(expected) or "nothing", "; ".join(actual) or "nothing"
                found.append(f"{scenario.place(row)}, {column}: the table has {table!r}, but it was {was!r}")
    return found


def text_of(step: Step, *, refused: bool) -> str:
    """A step in the words of the tables; empty for a test generation, which changes nothing.

    `refused` says that the API server refuses evictions.
    """
    match step:
        case OpenGate():
            text = f"lets {step.pod.name} in ({step.reason})"
        case CloseGate():
            text = f"takes {step.pod.name} out ({step.alert})"
        case BeginRestart():
            text = f"decides to {_restart(step.intent)}"
        case ExecuteRestart():
            text = _restart(step.intent, "s")
            text += " (refused)" if refused and step.intent.method == "Evict" else ""
        case FinishRestart(outcome="Cancelled"):
            text = f"cancels the restart of {step.intent.pod}: {step.why}"
        case FinishRestart():
            text = f"ends the restart of {step.intent.pod}: {step.outcome}"
        case Report():
            text = f"reports {step.pod.name}: {step.reason}"
        case Died():
            text = f"reports {step.pod.name}: EngineDead"
        case WouldDo(CloseGate() as closing):
            text = f"would take {closing.pod.name} out ({closing.alert})"
        case WouldDo(BeginRestart() as beginning):
            text = f"would {_restart(beginning.intent)}"
        case ResetBudget():
            text = "resets the budget"
        case _:
            text = ""
    return text


def _restart(intent: RestartIntent, ending: str = "") -> str:
    return f"restart{ending} {intent.pod} in place" if intent.method == "InPlace" else f"evict{ending} {intent.pod}"


class ScenarioWorld(World):
    """A world that also keeps the history: it says whether a restart in place was tried."""

    def act(self, step: Step) -> None:
        """Performs a step, and remembers the beginning of a restart."""
        super().act(step)
        if isinstance(step, BeginRestart):
            pod, intent = step.pod, step.intent
            entry = HistoryEntry(time=self.wall, pod=pod.name, pod_uid=pod.uid, action=intent.method)
            self.ledger = ledgers.remember(self.ledger, [entry])


class Play:
    """Plays one scenario, and keeps by the second what the operator did and what the status said.

    Attributes:
        did: the steps.
        said: the changes of the suspension and of saturation.
        wrong: the facts of the table that were not so.
        works: whether the operator runs.
        dies: `before` or `after`, if the operator is to be killed there at its next step.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        names = [chr(ord("a") + number) for number in range(scenario.spec.replicas)]
        self.world = ScenarioWorld(policy_of(scenario.spec), {name: _patient(name) for name in names}, mono=START)
        self.did: dict[int, list[str]] = defaultdict(list)
        self.said: dict[int, list[str]] = defaultdict(list)
        self.wrong: list[str] = []
        self.works = True
        self.dies = ""
        self._begun = START
        self._suspended: str | None = None
        self._saturated = False
        for row in scenario.rows:
            self._until(row.second)
            self._begun = START + row.second
            for part in row.happens:
                self._happen(row, part)
            self._until(row.second + 1)
            self.wrong += [f"{scenario.place(row)}, {SAYS}: {text}" for text in self._untrue(row)]

    def _until(self, second: int) -> None:
        """Lets time pass, and the operator work, until just before a second."""
        end = START + second
        while self.world.mono < end - _TICK:
            if self.works:
                self._round()
            else:
                self.world.advance(end - self.world.mono)

    def _round(self) -> None:
        world, second = self.world, int(self.world.mono - START + _TICK)
        dies = ""
        if self.dies:
            world._kubelet()
            dies = self.dies if any(map(self._text_of, world.look().steps)) else ""
        decisions = world.round(0 if dies == "before" else None)
        if dies != "before":
            self.did[second] += filter(None, map(self._text_of, decisions.steps))
            self._compare_suspension(second)
        if dies:
            world.forget()
            self.dies = ""

    def _text_of(self, step: Step) -> str:
        return text_of(step, refused=self.world.evictions_blocked)

    def _compare_suspension(self, second: int) -> None:
        reason = None if self.world.suspended is None else self.world.suspended.reason
        if reason != self._suspended:
            self._suspended = reason
            self.said[second].append("not suspended" if reason is None else f"suspended: {reason}")
        saturated = self.world.memory.saturated_at is not None
        if saturated != self._saturated:
            self._saturated = saturated
            self.said[second].append("saturated" if saturated else "not saturated")

    # What happens.

    def _happen(self, row: Row, part: str) -> None:
        for pattern, event in EVENTS:
            match = re.fullmatch(pattern, part)
            if match:
                try:
                    event(self, **match.groupdict())
                except (KeyError, ValueError) as error:
                    raise ScenarioError(f"{self.scenario.place(row)}: {part!r}: {error}") from error
                return
        raise ScenarioError(f"{self.scenario.place(row)}: {part!r} cannot happen")

    def uids(self, pods: str) -> list[str]:
        """The UIDs of pods, by their names or `all`. Raises ValueError for an unknown name."""
        by_name = {patient.pod.name: uid for uid, patient in self.world.patients.items()}
        names = list(by_name) if pods == "all" else pods.split(", ")
        if unknown := [name for name in names if name not in by_name]:
            raise ValueError(f"there is no pod {', '.join(unknown)}")
        return [by_name[name] for name in names]

    def answer(self, pods: str, answers: str) -> None:
        """From this second on the pods give other answers. `well` ends all that was the matter.

        They say how old their alerts are, also if the operator looks only later.
        """
        given = set(answers.removesuffix(" for good").split(" and "))
        alerts = frozenset(given - {"well", "silent", "garbled", "frozen", "busy"})
        if unknown := alerts.difference(ALERTS):
            raise ValueError(f"{', '.join(sorted(unknown))} is no answer")
        hung = any(ALERTS[alert].kind is AlertClass.ZERO_WORK for alert in alerts)
        for uid in self.uids(pods):
            self.world.patients[uid] = replace(
                self.world.patients[uid],
                alerts=alerts,
                active_for=dict.fromkeys(alerts, self.world.mono - self._begun),
                silent="silent" in given,
                garbled="garbled" in given,
                frozen="frozen" in given,
                busy=int("busy" in given),
                generates=not hung,
                cured_by_restart=not answers.endswith(" for good"),
            )

    def die(self, pods: str) -> None:
        """The engine dies, the server exits and the kubelet starts the container again."""
        for uid in self.uids(pods):
            patient = self.world.patients[uid]
            self.world.change(uid, restarts=patient.pod.restarts + 1, exit_code=70)
            patient.down_until, patient.uptime = self.world.mono + self.world.start_seconds, 0.0

    def add(self, pod: str) -> None:
        """A pod of the newest revision is created and starts."""
        patient = _patient(pod, gate=Gate.UNSET, ready=False, running=False)
        started = self.world.mono + self.world.start_seconds
        self.world.patients[pod] = replace(patient, uptime=0.0, down_until=started)

    def roll_out(self) -> None:
        """A rollout begins: all pods are now of an old revision."""
        self.world.rollout = Rollout(under_way=True)
        for uid in self.world.patients:
            self.world.change(uid, newest=False)

    def node(self, pod: str, state: str) -> None:
        """The node of a pod is lost, or it is back and its pod answers again."""
        for uid in self.uids(pod):
            self.world.patients[uid].silent = state == "lost"
            self.world.change(uid, node_ready=state == "back")

    def jump(self, where: str, time: str) -> None:
        """The wall clock jumps."""
        self.world.wall += timedelta(seconds=seconds_of(time) * (1 if where == "forward" else -1))

    def set_mode(self, mode: str) -> None:
        """`spec.remediation.mode` changes."""
        self.world.policy = replace(self.world.policy, mode=mode)  # type: ignore[arg-type]

    def reset(self) -> None:
        """The annotation that resets the budget gets a new value."""
        self.world.reset += "again"

    def set_works(self, verb: str) -> None:
        """The operator stops, starts, or both at once. It then knows only what the API says."""
        self.works = verb != "stops"
        self.world.forget()

    def kill(self, when: str) -> None:
        """The operator will be killed before or after its next step, and starts at once."""
        self.dies = when

    # What the status says.

    def _untrue(self, row: Row) -> Iterator[str]:
        """The facts of a row that are not so."""
        ledger, now = self.world.ledger, START + row.second + 1
        facts = {
            "in rotation": ", ".join(sorted(_in_rotation(self.world, now))) or "none",
            "restarts": f"{ledger.restarts_in_window} of {self.world.policy.max_restarts}",
        }
        if ledger.backoff_until is not None:
            facts["no restart before"] = clock((ledger.backoff_until - EPOCH).total_seconds())
        for part in row.says:
            name, _, value = part.partition(": ")
            if name in CHANGES:
                continue
            if name not in facts:
                raise ScenarioError(f"{self.scenario.place(row)}: the status does not say {part!r}")
            if facts[name] != value:
                yield f"the table has {part!r}, but it was {f'{name}: {facts[name]}'!r}"


def _patient(name: str, **pod: Any) -> Patient:
    """A healthy pod on a node and a GPU of its own."""
    return Patient(Pod(uid=name, name=name, node=f"node-{name}", **pod), gpus=(f"GPU-{name}",))


def _in_rotation(world: World, now: float) -> Iterator[str]:
    """The pods that the Service selects: their probes pass and their gates are open."""
    for patient in world.patients.values():
        pod = patient.pod
        if pod.gate in (Gate.OPEN, Gate.MISSING) and pod.node_ready and patient.down_until <= now - _TICK:
            yield pod.name


Event = Callable[..., Any]


def _sets(**fields: Any) -> Event:
    """An event that only sets attributes of the world."""

    def event(play: Play) -> None:
        for name, value in fields.items():
            setattr(play.world, name, value)

    return event


_POD = r"(?P<pod>[a-z][\w-]*)"
_PODS = r"(?P<pods>[a-z][\w-]*(, [a-z][\w-]*)*)"

EVENTS: tuple[tuple[str, Event], ...] = (
    (rf"{_PODS}: the engine dies", Play.die),
    (rf"{_PODS}: (?P<answers>.+)", Play.answer),
    (rf"a new pod {_POD} starts", Play.add),
    (rf"the node of {_POD} is (?P<state>lost|back)", Play.node),
    (r"a rollout begins", Play.roll_out),
    (r"the rollout is stuck", _sets(rollout=Rollout(stalled=True))),
    (r"evictions are refused", _sets(evictions_blocked=True)),
    (r"evictions are allowed", _sets(evictions_blocked=False)),
    (r"no node has room", _sets(full=True)),
    (r"a node has room", _sets(full=False)),
    (r"the clock jumps (?P<where>forward|back) by (?P<time>[\d:]+)", Play.jump),
    (r"the mode becomes (?P<mode>Enforce|DryRun|Off)", Play.set_mode),
    (r"the budget is reset", Play.reset),
    (r"the operator (?P<verb>stops|starts|restarts)", Play.set_works),
    (r"the operator is killed (?P<when>before|after) its next step", Play.kill),
)

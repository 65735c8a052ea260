"""Every alert of both PrometheusRules fires in a real Prometheus by a real cause, and clears.

`tests.e2e.causes` says what the causes are. Those that do not disturb each other run side by side.
Alerts that wait for long, or look at long windows, are copies with a thirtieth of each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from tests.cluster.demo import Client
from tests.cluster.settings import Settings
from tests.e2e import causes, operator_causes
from tests.e2e.alarms import Alarms
from tests.e2e.causes import CAUSES
from tests.e2e.stage import Stage, stage

# All causes are tried in the fixture of the first test.
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

Cause = Callable[[Stage], None]
SIDE_BY_SIDE: tuple[Cause, ...] = (
    causes.slow_answers,
    causes.broken_hardware,
    causes.errors,
    causes.hanging_engines,
    causes.dying_engines,
    causes.failed_rollout,
    causes.failed_start,
    operator_causes.refused_writes,
)
# Without an operator, the other causes have no effect.
ONE_BY_ONE: tuple[Cause, ...] = (
    operator_causes.foreign_lease,
    operator_causes.no_operator,
    operator_causes.no_rights,
)


@dataclass(frozen=True)
class Tried:
    """What became of the causes: the alerts, and what went wrong."""

    alarms: Alarms
    problems: list[str]


@pytest.fixture(scope="module")
def tried(cluster: Settings, client: Client) -> Iterator[Tried]:
    with stage(cluster, client) as found:
        problems = [*play(found, SIDE_BY_SIDE, len(SIDE_BY_SIDE)), *play(found, ONE_BY_ONE, 1)]
        if problems:
            print(found.kubectl.diagnosis())
        yield Tried(found.alarms, problems)


def play(where: Stage, parts: tuple[Cause, ...], at_once: int) -> list[str]:
    """Plays causes, so many at once. Returns what went wrong."""
    with ThreadPoolExecutor(at_once) as pool:
        running = {part.__name__: pool.submit(part, where) for part in parts}
    return [f"{name}: {error!r}" for name, future in running.items() if (error := future.exception())]


@pytest.mark.parametrize("alert", CAUSES)
def test_an_alert_fires_by_its_cause_and_clears_after_it(tried: Tried, alert: str) -> None:
    assert alert in tried.alarms.fired, f"{CAUSES[alert]}, and there is no alert: {tried.problems}"
    assert alert in tried.alarms.cleared, f"the alert does not end with its cause: {tried.problems}"


def test_every_cause_was_played_to_its_end(tried: Tried) -> None:
    assert tried.problems == []

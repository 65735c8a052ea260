import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_server.control.alerts import NOTHING, AlertRule, AlertsFile, AlertState, catalogue, evaluate, override

WALL = datetime(2025, 12, 24, 21, 11, 59, tzinfo=UTC).replace(tzinfo=None)
RULE = AlertRule("HighTTFT", 5, "seconds", 60, "warning", "p95 is {value} s")
BY_NAME = {rule.name: rule for rule in catalogue("cuda")}


def at(state: AlertState, now: float, value: float | None, rule: AlertRule = RULE) -> AlertState:
    return evaluate([rule], {rule.name: value}, state, now, WALL + timedelta(seconds=now))


def test_an_alert_fires_once_its_condition_held_for_its_time() -> None:
    state = at(NOTHING, 0, 6)
    state = at(state, 59.5, 7)
    assert state.active == ()
    state = at(state, 60, 8)
    assert [alert.rule.name for alert in state.active] == ["HighTTFT"]
    assert at(state, 61, 4).active == ()


def test_an_alert_keeps_its_beginning_while_it_fires() -> None:
    state = NOTHING
    for now in range(100):
        state = at(state, now, 6 + now)
    (alert,) = state.active
    assert (alert.since, alert.since_utc) == (60, WALL + timedelta(seconds=60))
    assert alert.value == 6 + 99, "the value is that of now"


@given(st.lists(st.tuples(st.integers(1, 3), st.booleans()), min_size=1, max_size=40), st.integers(0, 8))
def test_an_alert_fires_exactly_while_its_condition_has_held_without_a_break(
    pattern: list[tuple[int, bool]], for_seconds: int
) -> None:
    """An alert that flaps faster than its `for` never fires, however often the value is high."""
    rule = replace(RULE, for_seconds=for_seconds)
    state, now = NOTHING, 0
    high_since: int | None = None
    for pause, high in pattern:
        now += pause
        state = at(state, now, 6 if high else 4, rule)
        high_since = None if not high else now if high_since is None else high_since
        assert bool(state.active) == (high_since is not None and now - high_since >= for_seconds)
        assert not state.active or now >= state.active[0].since >= (high_since or 0) + for_seconds


@given(st.lists(st.floats(5.01, 1e6), min_size=1, max_size=40))
def test_a_signal_that_falls_at_least_once_in_its_time_never_alerts(peaks: list[float]) -> None:
    state = NOTHING
    for number, peak in enumerate(peaks):
        for offset, value in ((0, peak), (59.5, peak), (59.9, 4.9)):
            state = at(state, 60 * number + offset, value)
            assert state.active == ()


@given(st.lists(st.one_of(st.none(), st.floats(allow_nan=True)), max_size=30))
def test_unknown_and_low_values_never_alert(values: list[float | None]) -> None:
    rule = AlertRule("HighTTFT", float("inf"), "seconds", 0, "warning", "")
    state = NOTHING
    for second, value in enumerate(values):
        state = at(state, second, value, rule)
        assert state.active == ()


def test_an_alert_without_a_time_fires_at_once() -> None:
    state = evaluate(catalogue("cuda"), {"EngineUnresponsive": 15.1}, NOTHING, 0, WALL)
    assert state.zero_work
    assert state.has("critical")
    assert state.active[0].as_json() == {
        "name": "EngineUnresponsive",
        "severity": "critical",
        "message": "the engine has not answered for 15.1 s",
        "value": 15.1,
        "threshold": 15.0,
        "unit": "seconds",
        "since": "2025-12-24T21:11:59.000000",
    }


def test_saturation_is_not_zero_work() -> None:
    signals = {"QueueSaturated": 100.0, "KVCacheSaturated": 100.0, "GPUMemoryHigh": 100.0}
    state = evaluate(catalogue("cuda"), signals, NOTHING, 0, WALL)
    state = evaluate(catalogue("cuda"), signals, state, 60, WALL)
    assert len(state.active) == 3
    assert not state.zero_work
    for name in ("EngineUnresponsive", "GenerationStalled"):
        assert evaluate(catalogue("cuda"), {name: 1000.0}, NOTHING, 0, WALL).zero_work
    assert not state.has("critical")


@pytest.mark.parametrize(
    ("name", "quiet", "loud"),
    [
        ("QueueSaturated", 89.9, 90),
        ("GPUTemperatureHigh", 89, 90),
        ("HighErrorRate", 5, 5.1),
        ("KVCacheSaturated", 95, 95.1),
        ("GPUUnhealthy", 0, 1),
        ("EngineDead", 0, 1),
        ("GenerationStalled", 30, 30.1),
    ],
)
def test_thresholds_are_met_or_exceeded_as_documented(name: str, quiet: float, loud: float) -> None:
    assert not BY_NAME[name].holds(quiet)
    assert BY_NAME[name].holds(loud)


def test_what_leads_to_action_comes_at_once_and_what_warns_lasts_first() -> None:
    times = {rule.name: rule.for_seconds for rule in catalogue("cuda")}
    assert {times.pop(rule.name) for rule in catalogue("cuda") if rule.severity == "critical"} == {0}
    assert times.pop("QueueSaturated") == 30
    assert set(times.values()) == {60}


def test_alerts_without_a_threshold_are_off_until_one_is_given() -> None:
    assert not BY_NAME["LowThroughput"].holds(0)
    rules = override(catalogue("cuda"), {"alerts": [{"name": "LowThroughput", "threshold": 2}]})
    rule = next(rule for rule in rules if rule.name == "LowThroughput")
    assert rule.holds(1.9)
    assert not rule.holds(2)


def test_a_hang_is_judged_more_slowly_on_a_cpu() -> None:
    thresholds = [
        next(rule.threshold for rule in catalogue(device) if rule.name == "EngineUnresponsive")
        for device in ("cuda", "cpu")
    ]
    assert thresholds == [15, 60]


def test_an_override_changes_only_what_it_names() -> None:
    rules = override([RULE], {"alerts": [{"name": "HighTTFT", "threshold": 2.5, "for": 10.0}, {"name": "Unknown"}]})
    assert rules == (AlertRule("HighTTFT", 2.5, "seconds", 10, "warning", "p95 is {value} s"),)
    (louder,) = override([RULE], {"alerts": [{"name": "HighTTFT", "severity": "critical"}]})
    assert louder == replace(RULE, severity="critical")


def test_a_disabled_alert_never_fires() -> None:
    (rule,) = override([RULE], {"alerts": [{"name": "HighTTFT", "enabled": False}]})
    assert not rule.holds(1e9)


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"alerts": {}},
        {"alerts": [{}]},
        {"alerts": [{"name": "HighTTFT", "threshold": "5"}]},
        {"alerts": [{"name": "HighTTFT", "threshold": True}]},
        {"alerts": [{"name": "HighTTFT", "for": -1}]},
        {"alerts": [{"name": "HighTTFT", "threshold": float("nan")}]},
        {"alerts": [{"name": "HighTTFT", "threshold": 10**400}]},
        {"alerts": [{"name": "HighTTFT", "severity": "loud"}]},
        {"alerts": [{"name": "HighTTFT", "enabled": "no"}]},
    ],
)
def test_a_broken_override_is_refused(document: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        override([RULE], document)


def write(path: Path, threshold: object) -> None:
    path.write_text(json.dumps({"alerts": [{"name": "HighTTFT", "threshold": threshold}]}))


def test_the_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "alerts.json"
    rules = AlertsFile(path, [RULE])
    rules.poll()
    assert rules.rules[0].threshold == 5
    write(path, 2)
    rules.poll()
    assert rules.rules[0].threshold == 2
    path.write_text('{"alerts": []}')
    rules.poll()
    assert rules.rules[0].threshold == 5, "what is no longer named is as it was"
    write(path, 3)
    rules.poll()
    path.unlink()
    rules.poll()
    assert rules.rules[0].threshold == 5


def test_the_file_is_followed_through_the_links_of_a_mounted_configmap(tmp_path: Path) -> None:
    for version, threshold in (("v1", 2), ("v2", 3)):
        (tmp_path / version).mkdir()
        write(tmp_path / version / "alerts.json", threshold)
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "alerts.json").symlink_to("..data/alerts.json")
    rules = AlertsFile(tmp_path / "alerts.json", [RULE])
    rules.poll()
    assert rules.rules[0].threshold == 2
    (tmp_path / "new").symlink_to("v2")
    os.replace(tmp_path / "new", tmp_path / "..data")
    rules.poll()
    assert rules.rules[0].threshold == 3


def test_a_broken_file_keeps_the_last_good_rules_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "alerts.json"
    write(path, 2)
    rules = AlertsFile(path, [RULE])
    rules.poll()
    for broken in ('{"alerts": [', json.dumps({"alerts": [], "padding": " " * (1 << 20)})):
        path.write_text(broken)
        for _ in range(3):
            rules.poll()
        assert rules.rules[0].threshold == 2
    assert len([record for record in caplog.records if "broken" in record.message]) == 2

"""Which alerts of Prometheus count as fired and as cleared in the end-to-end test."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.alarms import Alarms

NEWS = {"namespace": "default", "qwenservice": "news"}


class Answers:
    """A Prometheus with these alerts."""

    def __init__(self, *alerts: dict[str, Any]) -> None:
        self.alerts = alerts

    def get(self, path: str) -> dict[str, Any]:
        assert path == "alerts"
        return {"alerts": self.alerts}


def alert(name: str, state: str = "firing", text: str = "3 restarts", **labels: str) -> dict[str, Any]:
    """An alert as /api/v1/alerts shows it."""
    return {"labels": {"alertname": name, **labels}, "state": state, "annotations": {"description": text}}


def alarms(*alerts: dict[str, Any]) -> Alarms:
    answers: Any = Answers(*alerts)
    return Alarms(answers, {"QwenOften", "QwenBurn ttft warning"})


def test_an_alert_fires_for_its_labels_only() -> None:
    found = alarms(alert("QwenHung", **NEWS))
    found.fires("QwenHung", 0, qwenservice="news")
    found.clears("QwenHung", 0, qwenservice="other")
    assert (found.fired, found.cleared) == ({"QwenHung"}, {"QwenHung"})
    with pytest.raises(AssertionError, match="QwenHung does not fire"):
        found.fires("QwenHung", 0, qwenservice="other")


@pytest.mark.parametrize(
    "other", [alert("QwenOften"), alert("QwenOften", "pending", shortened="true"), alert("QwenSeldom")]
)
def test_only_a_firing_copy_counts_where_there_is_one(other: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match="QwenOften does not fire"):
        alarms(other).fires("QwenOften", 0)
    alarms(other, alert("QwenOften", shortened="true")).fires("QwenOften", 0)


def test_alerts_of_the_same_name_are_told_apart_by_objective_and_severity() -> None:
    found = alarms(alert("QwenBurn", slo="ttft", severity="warning", shortened="true", **NEWS))
    found.fires("QwenBurn ttft warning", 0)
    found.clears("QwenBurn ttft critical", 0)
    assert found.in_namespaces({"default"}) == ["QwenBurn ttft warning"]
    assert found.in_namespaces({"other"}) == []


def test_a_text_that_is_not_filled_in_is_a_fault() -> None:
    with pytest.raises(AssertionError, match="QwenHung says: <no value> restarts"):
        alarms(alert("QwenHung", text="<no value> restarts")).fires("QwenHung", 0)

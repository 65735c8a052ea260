"""Which alerts fire in the Prometheus of the cluster, and which of them have cleared."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from tests.e2e.kubectl import Object, wait_for
from tests.e2e.prometheus import Prometheus
from tests.e2e.shortened_rules import LABEL, identity

# What a template leaves if it is not filled in.
_UNFILLED = re.compile(r"\{\{|<no value>|<error")


@dataclass(frozen=True)
class Alarms:
    """The alerts of a Prometheus, by their identities. Several threads may ask.

    Of the alerts in `shortened`, only the copies with shorter times count.
    """

    prometheus: Prometheus
    shortened: Collection[str]
    fired: set[str] = field(default_factory=set)
    cleared: set[str] = field(default_factory=set)

    def fires(self, alert: str, timeout: float = 60, **labels: str) -> None:
        """Waits until an alert with these labels fires, and reads what it says."""
        states = wait_for(
            lambda: self._firing(alert, labels), timeout, lambda: f"{alert} does not fire: {self._states(alert)}", 1.0
        )
        for state in states:
            for text in state["annotations"].values():
                assert not _UNFILLED.search(text), f"{alert} says: {text}"
        self.fired.add(alert)

    def clears(self, alert: str, timeout: float = 60, **labels: str) -> None:
        """Waits until an alert with these labels fires no longer."""
        wait_for(
            lambda: not self._firing(alert, labels), timeout, lambda: f"{alert} fires on: {self._states(alert)}", 1.0
        )
        self.cleared.add(alert)

    def in_namespaces(self, names: Collection[str]) -> list[str]:
        """The identities of the alerts that fire in some namespaces."""
        return sorted(
            identity_of(state)
            for state in self._active()
            if state["state"] == "firing" and state["labels"].get("namespace") in names
        )

    def _firing(self, alert: str, labels: Mapping[str, str]) -> list[Object]:
        return [
            state
            for state in self._states(alert)
            if state["state"] == "firing" and labels.items() <= state["labels"].items()
        ]

    def _states(self, alert: str) -> list[Object]:
        """The states of an alert that count, pending ones among them."""
        copy = alert in self.shortened
        return [state for state in self._active() if identity_of(state) == alert and (LABEL in state["labels"]) == copy]

    def _active(self) -> list[Object]:
        found: list[Object] = self.prometheus.get("alerts")["alerts"]
        return found


def identity_of(state: Object) -> str:
    """The identity of an alert in an answer of Prometheus, as `shortened_rules.identity` has it."""
    labels = state["labels"]
    return identity({"alert": labels["alertname"], "labels": labels})

"""Series that exist once for each QwenService, or several times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

LABELS: Final = ("namespace", "service", "qwenservice")
Service = tuple[str, str, str]
"""Their values, see `api.series`."""


class ServiceSeries(Collector):
    """Values by service and by further labels, as a gauge or, with `counter`, a counter.

    `prometheus_client` keeps an object with a lock and its labels for each series, most of a
    kilobyte. With 1,000 services these were 30 MiB, a tenth of the operator's memory.
    """

    def __init__(
        self, name: str, documentation: str, *labels: str, registry: CollectorRegistry, counter: bool = False
    ) -> None:
        self.name = name
        self.labels = (*LABELS, *labels)
        self._documentation = documentation
        self._counter = counter
        self._values: dict[Service, dict[tuple[str, ...], float]] = {}
        registry.register(self)

    def set(self, service: Service, value: float, *labels: str) -> None:
        """Sets a value."""
        self._values.setdefault(service, {})[labels] = float(value)

    def inc(self, service: Service, amount: float = 1.0, *labels: str) -> None:
        """Adds to a value that begins with 0."""
        values = self._values.setdefault(service, {})
        values[labels] = values.get(labels, 0.0) + amount

    def begin(self, service: Service, series: Iterable[tuple[str, ...]] = ((),)) -> None:
        """Lets series begin with 0, if they do not exist."""
        values = self._values.setdefault(service, {})
        for labels in series:
            values.setdefault(labels, 0.0)

    def forget(self, service: Service) -> None:
        """Removes the series of a service."""
        self._values.pop(service, None)

    def clear(self) -> None:
        """Removes all series."""
        self._values.clear()

    def describe(self) -> Iterator[Metric]:
        """The name and the type, without values."""
        yield self._family()

    def collect(self) -> Iterator[Metric]:
        """All values."""
        family = self._family()
        for service, values in list(self._values.items()):
            for labels, value in list(values.items()):
                family.add_metric((*service, *labels), value)
        yield family

    def _family(self) -> CounterMetricFamily | GaugeMetricFamily:
        kind = CounterMetricFamily if self._counter else GaugeMetricFamily
        return kind(self.name, self._documentation, labels=self.labels)

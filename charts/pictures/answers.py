"""What a Prometheus answers to the queries of a dashboard."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx
from charts.dashboards import filled

_LEGEND: Final = re.compile(r"\{\{\s*(\w+)\s*\}\}")


class PrometheusError(Exception):
    """Prometheus refused a query, or did not answer. The message names the query."""


@dataclass(frozen=True, slots=True)
class Span:
    """A range of time. All values are in seconds, `start` and `end` since the epoch."""

    start: float
    end: float
    step: float

    @property
    def times(self) -> list[float]:
        """The moments at which a query is evaluated."""
        return [self.start + index * self.step for index in range(self.slots)]

    @property
    def slots(self) -> int:
        """How many moments there are."""
        return int((self.end - self.start) // self.step) + 1


@dataclass(frozen=True, slots=True)
class Series:
    """The labels of a series and its values; a time is in seconds since the epoch."""

    labels: Mapping[str, str]
    samples: tuple[tuple[float, float], ...]

    @property
    def last(self) -> float:
        """The latest value, NaN if there is none."""
        return next((value for _, value in reversed(self.samples) if not math.isnan(value)), math.nan)

    def aligned(self, span: Span) -> list[float]:
        """A value for each moment of the range, NaN where the series has none."""
        values = [math.nan] * span.slots
        for time, value in self.samples:
            slot = round((time - span.start) / span.step)
            if 0 <= slot < span.slots:
                values[slot] = value
        return values

    def named(self, legend: str) -> str:
        """The name of the series by a legend such as `{{pod}}`; without one, its labels."""
        if not legend:
            return ", ".join(f"{name}={value}" for name, value in self.labels.items() if name != "__name__")
        return _LEGEND.sub(lambda found: self.labels.get(found[1], ""), legend).strip()


@dataclass(frozen=True, slots=True)
class Answer:
    """A query of a panel, the legend of its series, and the series."""

    legend: str
    series: tuple[Series, ...]


@dataclass(frozen=True, slots=True)
class Event:
    """What an annotation marks: when it began, what it says, and its color."""

    time: float
    name: str
    text: str
    color: str


@dataclass(frozen=True, slots=True)
class Page:
    """A dashboard with the answers for each panel, by the panel's number."""

    document: Mapping[str, Any]
    answers: Mapping[int, tuple[Answer, ...]]
    events: tuple[Event, ...]
    span: Span


class Prometheus:
    """A Prometheus, asked by its HTTP API."""

    def __init__(self, address: str, client: httpx.Client) -> None:
        self._address = address.rstrip("/")
        self._client = client

    def over(self, expression: str, span: Span) -> tuple[Series, ...]:
        """The series of an expression over a range of time. Raises PrometheusError."""
        asked = {"query": expression, "start": f"{span.start}", "end": f"{span.end}", "step": f"{span.step}"}
        return tuple(_series(found, found["values"]) for found in self._ask("query_range", asked))

    def at(self, expression: str, time: float) -> tuple[Series, ...]:
        """The series of an expression at a moment, each with one value. Raises PrometheusError."""
        found = self._ask("query", {"query": expression, "time": f"{time}"})
        return tuple(_series(one, [one["value"]]) for one in found)

    def _ask(self, kind: str, asked: dict[str, str]) -> list[dict[str, Any]]:
        try:
            body = self._client.post(f"{self._address}/api/v1/{kind}", data=asked).json()
        except (httpx.HTTPError, ValueError) as error:
            raise PrometheusError(f"{self._address} did not answer {asked['query']}: {error!r}") from error
        if body.get("status") != "success":
            raise PrometheusError(f"{body.get('error')}: {asked['query']}")
        result: list[dict[str, Any]] = body["data"]["result"]
        return result


def page(prometheus: Prometheus, document: Mapping[str, Any], values: Mapping[str, str], span: Span) -> Page:
    """Asks every query of a dashboard. `values` are those of its variables."""
    answers = {
        panel["id"]: tuple(_answer(prometheus, target, values, span) for target in panel["targets"])
        for panel in document["panels"]
        if "targets" in panel
    }
    events = [
        event
        for annotation in document["annotations"]["list"]
        for event in _events(annotation, prometheus.over(filled(annotation["expr"], values), span), span)
    ]
    return Page(document, answers, tuple(sorted(events, key=lambda event: event.time)), span)


def _answer(prometheus: Prometheus, target: Mapping[str, Any], values: Mapping[str, str], span: Span) -> Answer:
    expression = filled(target["expr"], values)
    series = prometheus.at(expression, span.end) if target.get("instant") else prometheus.over(expression, span)
    return Answer(target.get("legendFormat", ""), series)


def _series(found: Mapping[str, Any], samples: list[Any]) -> Series:
    return Series(found["metric"], tuple((float(time), float(value)) for time, value in samples))


def _events(annotation: Mapping[str, Any], found: tuple[Series, ...], span: Span) -> Iterator[Event]:
    """One event for each time that a series rises above 0."""
    for series in found:
        above = [value > 0 for value in series.aligned(span)]
        for time, before, now in zip(span.times, [False, *above], above, strict=False):
            if now and not before:
                texts = (series.named(annotation["titleFormat"]), series.named(annotation["textFormat"]))
                yield Event(time, annotation["name"], " ".join(texts), annotation["iconColor"])

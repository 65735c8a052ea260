"""Expressions of Prometheus that several rules of a service use."""

from __future__ import annotations

from typing import Final

from qwen_operator.api import QwenService
from qwen_operator.api.names import child_name
from qwen_operator.api.objectives import LatencyObjective

SUM: Final = "sum by (namespace, service)"


def pods_of(service: QwenService) -> str:
    """The matchers of the service's own series, without braces.

    The labels are exact: a pattern for the names of pods would match those of other services, too.
    """
    return f'namespace="{service.namespace}",service="{child_name(service.name)}"'


def ratio(part: str, whole: str, window: str) -> str:
    """The share of a counter in another one, over a window such as `5m`. NaN if nothing happens."""
    return f"{SUM} (rate({part}[{window}])) / {SUM} (rate({whole}[{window}]))"


def failed_or_refused(service: QwenService, window: str) -> str:
    """The share of requests that failed or were refused, of those that clients got right."""
    pods = pods_of(service)
    return ratio(
        f'qwen_requests_total{{{pods},outcome=~"failed|refused"}}',
        f'qwen_requests_total{{{pods},outcome=~"successful|failed|refused"}}',
        window,
    )


def in_time(service: QwenService, objective: LatencyObjective) -> str:
    """The counter of requests whose first token came in time.

    Its bound is a regular expression: Prometheus 3 writes 2 as 2.0.
    """
    text = f"{objective.threshold.total_seconds():g}"
    bound = text.replace(".", "[.]") if "." in text else f"{text}([.]0)?"
    return f'qwen_ttft_seconds_bucket{{{pods_of(service)},le=~"{bound}"}}'

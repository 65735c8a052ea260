"""Expressions that several panels share.

`$namespace`, `$service`, `$operator_namespace` and `$job` are variables of a dashboard.
`$__rate_interval` is Grafana's: at least four times the interval between two scrapes.
"""

from __future__ import annotations

from typing import Final

INTERVAL: Final = "$__rate_interval"

SERVER: Final = 'namespace="$namespace",qwenservice="$service"'
"""A service's pods, and what the operator exports about it.

The ServiceMonitor sets `qwenservice`, dots included.
"""
ALL: Final = 'namespace=~"$namespace"'
OPERATOR: Final = 'namespace="$operator_namespace",job="$job"'
"""What the operator exports about itself. The labels are those of its own target."""
ACTED: Final = 'job="$job"'
"""What the operator exports about any service, whose namespace it names in `namespace`."""

BY_SERVICE: Final = "by (namespace, qwenservice)"
STEPS: Final = "qwen_operator_remediation_actions_total"


def per_second(metric: str, labels: str) -> str:
    """The rate per second of a counter or of a histogram's buckets."""
    return f"rate({metric}{{{labels}}}[{INTERVAL}])"


def increase(metric: str, labels: str, window: str = INTERVAL) -> str:
    """How much a counter that exists from the start has grown in the window."""
    return f"increase({metric}{{{labels}}}[{window}])"


def grown(metric: str, labels: str, window: str = INTERVAL) -> str:
    """How much a counter has grown in the window, also if it is new.

    A counter with labels of its own may appear with its first event. `increase` needs an earlier
    value and does not see that one.
    """
    series = f"{metric}{{{labels}}}"
    return f"({series} unless {series} offset {window} or {increase(metric, labels, window)})"


def quantile(share: float, metric: str, labels: str, by: str = "") -> str:
    """A quantile of a histogram over all pods. `by` has further labels: `namespace, job`."""
    grouping = f"{by}, le" if by else "le"
    return f"histogram_quantile({share}, sum by ({grouping}) ({per_second(f'{metric}_bucket', labels)}))"


def share_of_failed(labels: str, by: str = "") -> str:
    """Failed requests as a share of all that ended; nothing where none ended."""
    failed = per_second("qwen_requests_total", f'{labels},outcome="failed"')
    return f"sum {by}({failed}) / (sum {by}({per_second('qwen_requests_total', labels)}) > 0)"

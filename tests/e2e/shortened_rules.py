"""Copies of Prometheus's rules with shorter times, which a test can wait for.

Some alerts wait for a quarter of an hour before they fire, or look at the last hours. Their copies
are the same expressions with a thirtieth of each time. Alerts that have neither need no copy: a
test looks at the originals.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Object = dict[str, Any]

FACTOR = 30
LEAST_WINDOW = 10
"""Seconds of a window: five scrapes of the test, because a rate needs two values at least."""
LABEL = "shortened"
"""The label of an alert whose times are shorter."""
_PREFIX = "shortened:"
_PART = re.compile(r"(\d+)([smhd])")
_WINDOW = re.compile(r"\[(\w+)\]")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(duration: str) -> int:
    """A duration of Prometheus, such as `1h30m`, in seconds."""
    return sum(int(number) * _SECONDS[unit] for number, unit in _PART.findall(duration))


def identity(rule: Object) -> str:
    """The name of an alert, with its labels where several alerts have the same name."""
    labels = rule["labels"]
    return " ".join([rule["alert"], *(labels[name] for name in ("slo", "severity") if "slo" in labels)])


def alerts_of(prometheus_rule: Object) -> list[Object]:
    """The alerts of a PrometheusRule."""
    return [rule for group in prometheus_rule["spec"]["groups"] for rule in group["rules"] if "alert" in rule]


def shortened(prometheus_rule: Object, labels: Mapping[str, str]) -> Object:
    """A PrometheusRule with the alerts that have times, and with the records that these use.

    The records have other names, so that both may run side by side. `labels` are those by which
    Prometheus selects the copy.
    """
    groups = prometheus_rule["spec"]["groups"]
    # Several objectives have records of the same name.
    names = sorted({rule["record"] for group in groups for rule in group["rules"] if "record" in rule})
    alerts = [rule for rule in alerts_of(prometheus_rule) if _copied(rule, names) != rule]
    used = {name for name in names if any(f"{name}{{" in alert["expr"] for alert in alerts)}
    kept = [
        {"name": f"shortened-{group['name']}", "rules": rules}
        for group in groups
        if (rules := [_copy(rule, names) for rule in group["rules"] if rule in alerts or rule.get("record") in used])
    ]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": f"shortened-{prometheus_rule['metadata']['name']}", "labels": dict(labels)},
        "spec": {"groups": kept},
    }


def _copy(rule: Object, names: list[str]) -> Object:
    """The copy of a rule under its other name, or with its label."""
    copied = _copied(rule, names)
    if "record" in rule:
        return {**copied, "record": _PREFIX + rule["record"]}
    return {**copied, "labels": {**rule["labels"], LABEL: "true"}}


def _copied(rule: Object, names: list[str]) -> Object:
    """A rule with shorter times that reads the copies of the records."""
    expression = _WINDOW.sub(lambda found: f"[{max(LEAST_WINDOW, seconds(found[1]) // FACTOR)}s]", rule["expr"])
    for name in names:
        expression = expression.replace(f"{name}{{", f"{_PREFIX}{name}{{")
    if not seconds(rule.get("for", "0s")):
        return {**rule, "expr": expression}
    return {**rule, "expr": expression, "for": f"{seconds(rule['for']) // FACTOR}s"}

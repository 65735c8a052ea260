"""The Grafana dashboards: the fleet, one service, and the operator.

`charts/generate.py` writes them into the chart, and `charts/pictures/` draws them.
The series come from the server with its engine, and from the operator; a test compares names and
labels with what the two programs export. So nothing else has to be installed for a dashboard.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from charts.dashboards import controller, fleet, service

ANNOTATION: Final = "annotation: "
VARIABLE: Final = re.compile(r"\$(\w+)")
WIDTH: Final = 120

NEEDS: Final[Mapping[tuple[str, str], str]] = {
    (service.UID, "Refusals and failures"): "a request that was refused, and one that failed",
    (service.UID, "GPU memory"): "a GPU",
    (service.UID, "GPU memory in use"): "a GPU",
    (service.UID, "GPU utilization"): "a GPU",
    (service.UID, "GPU temperature"): "a GPU",
    (service.UID, "GPU faults"): "a GPU",
    (service.UID, "Remediation steps"): "a remediation step",
    (service.UID, f"{ANNOTATION}Remediation steps"): "a remediation step",
    (service.UID, f"{ANNOTATION}Restarts of servers"): "a restart of a server in its container",
    (controller.UID, "Failing watches by kind"): "a watch that has failed",
    (controller.UID, "Remediation steps"): "a remediation step",
}
"""What must have happened before the queries of a panel return anything, by dashboard and panel."""


class PanelQuery(NamedTuple):
    """One query of a panel, without variables.

    `dashboard` is the UID. `panel` is the title, after `annotation: ` if the query is that of an
    annotation. `needs` says what must have happened before the query returns anything; it is None
    if a server that answers requests and an operator are enough.
    """

    dashboard: str
    panel: str
    expression: str
    needs: str | None


def documents() -> dict[str, dict[str, Any]]:
    """Each dashboard in Grafana's JSON model, by its UID."""
    return {module.UID: module.dashboard() for module in (fleet, service, controller)}


def queries(
    namespace: str,
    service: str,
    *,
    operator_namespace: str = "qwen-system",
    job: str = "qwen-operator-metrics",
    rate_interval: str = "1m",
) -> Iterator[PanelQuery]:
    """Every query of every panel and annotation, with its variables filled in.

    `namespace` and `service` name a QwenService. `operator_namespace` and `job` are labels of the
    operator's target. `rate_interval` is what Grafana would choose: at least four times the
    interval between two scrapes.
    """
    values = variables(namespace, service, operator_namespace, job, rate_interval)
    for uid, document in documents().items():
        for title, expression in expressions(document):
            yield PanelQuery(uid, title, filled(expression, values), NEEDS.get((uid, title)))


def variables(namespace: str, service: str, operator_namespace: str, job: str, rate_interval: str) -> dict[str, str]:
    """The values of all variables, by name without `$`."""
    return {
        "namespace": namespace,
        "service": service,
        "operator_namespace": operator_namespace,
        "job": job,
        "__rate_interval": rate_interval,
    }


def expressions(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The titles of a dashboard's panels and annotations, each with one of its expressions."""
    for panel in document["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for annotation in document["annotations"]["list"]:
        yield ANNOTATION + annotation["name"], annotation["expr"]


def filled(expression: str, values: Mapping[str, str]) -> str:
    """An expression with its variables filled in. What is no variable stays, such as `$1`."""
    return VARIABLE.sub(lambda found: values.get(found[1], found[0]), expression)


def layout(value: Any, indent: int = 0, taken: int = 0) -> str:
    """JSON that can be read and compared: what fits into a line is a line, the rest is indented.

    `taken` are the columns that the line has before the value, besides its indentation.
    """
    line = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or indent + taken + len(line) < WIDTH:
        return line
    if isinstance(value, dict):
        begin, end = "{", "}"
        items = [f"{json.dumps(key)}: {layout(item, indent + 1, len(key) + 4)}" for key, item in value.items()]
    else:
        begin, end = "[", "]"
        items = [layout(item, indent + 1) for item in value]
    margin = "\n" + " " * indent
    return f"{begin}{margin} " + f",{margin} ".join(items) + f"{margin}{end}"

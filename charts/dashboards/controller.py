"""The operator itself: whether it leads, keeps up, and reaches the API server and the pods."""

from __future__ import annotations

from typing import Any, Final

from charts.dashboards import parts
from charts.dashboards.parts import ANY_IS_BAD, GREEN, ORANGE, RED, Query, Row
from charts.dashboards.promql import ACTED, OPERATOR, STEPS, grown, increase, per_second, quantile

UID: Final = "qwen-operator"
TITLE: Final = "Qwen / Operator"
OF_SERVICE: Final = "{{namespace}}/{{qwenservice}}"

LEADER: Final = f"qwen_operator_leader{{{OPERATOR}}}"
QUEUE: Final = f"qwen_operator_queue_length{{{OPERATOR}}}"
WATCHES: Final = f"qwen_operator_failing_watches{{{OPERATOR}}}"
WRITES: Final = per_second("qwen_operator_writes_total", OPERATOR)
MEMORY: Final = f"process_resident_memory_bytes{{{OPERATOR}}}"
PROCESSOR: Final = per_second("process_cpu_seconds_total", OPERATOR)


def dashboard() -> dict[str, Any]:
    """The dashboard in Grafana's JSON model."""
    jobs = 'label_values(qwen_operator_leader{namespace="$operator_namespace"}, job)'
    variables = [
        parts.choice("operator_namespace", "Namespace", "label_values(qwen_operator_leader, namespace)"),
        parts.choice("job", "Job", jobs),
    ]
    rows = [_overview(), _reconciliation(), _cluster(), _remediation(), _process()]
    return parts.document(UID, TITLE, "qwen-operator: its work and its health.", variables, rows)


def _overview() -> Row:
    failing = per_second("qwen_operator_reconciles_total", f'{OPERATOR},result="error"')
    one = ((None, RED), (1, GREEN), (2, RED))
    some = ((None, GREEN), (10, ORANGE), (100, RED))
    panels = (
        parts.number("Leaders", f"sum({LEADER})", steps=one, text="Exactly one operator pod is the leader."),
        parts.number("QwenServices", f"max(qwen_operator_services{{{OPERATOR}}})"),
        parts.number("Queued", f"max({QUEUE})", steps=some, text="QwenServices that wait for a reconciliation."),
        parts.number("Errors per second", f"sum({failing}) or vector(0)", steps=((None, GREEN), (0.01, RED))),
        parts.number("Failing watches", f"sum({WATCHES}) or vector(0)", steps=ANY_IS_BAD),
        parts.number("Writes per second", f"sum({WRITES})", "reqps", text="Requests to the Kubernetes API that write."),
        parts.number("Memory", f"max({MEMORY})", "bytes", text="The larger of the operator's pods."),
        parts.number("CPU", f"sum({PROCESSOR})", "percentunit", text="Of one core."),
    )
    return Row("Overview", panels)


def _reconciliation() -> Row:
    metric = "qwen_operator_reconcile_seconds"
    results = Query(f"sum by (result) ({per_second('qwen_operator_reconciles_total', OPERATOR)})", "{{result}}")
    quantiles = (Query(quantile(share, metric, OPERATOR), f"p{share * 100:.0f}") for share in (0.5, 0.95, 0.99))
    panels = (
        parts.lines("Reconciliations by result", results, stacked=True, text="Per second."),
        parts.lines("Duration of a reconciliation", *quantiles, unit="s"),
        parts.lines("Queue", Query(f"sum by (pod) ({QUEUE})", "{{pod}}")),
        parts.spread("Durations of reconciliations", metric, OPERATOR, width=24),
    )
    return Row("Reconciliation", panels)


def _cluster() -> Row:
    writes = Query(f"sum by (kind) ({WRITES})", "{{kind}}")
    polls = Query(f"sum by (result) ({per_second('qwen_operator_polls_total', OPERATOR)})", "{{result}}")
    watches = Query(f"max by (kind) ({WATCHES})", "{{kind}}")
    panels = (
        parts.lines("API requests that write", writes, unit="reqps", stacked=True, text="By what is written."),
        parts.lines("Failing watches by kind", watches, text="Watches that have failed twice in a row or more."),
        parts.lines("Polls of pods", polls, unit="reqps", text="Reads of a pod's metrics, by result."),
    )
    return Row("API server and pods", panels)


def _remediation() -> Row:
    steps = Query(f"sum by (action, alert) ({grown(STEPS, ACTED)})", "{{action}} {{alert}}")
    restarts = increase("qwen_operator_restarts_total", ACTED, "1h")
    out = f"max by (namespace, qwenservice) (qwen_operator_pods_out_of_rotation{{{ACTED}}})"
    panels = (
        parts.lines("Remediation steps", steps, text="Of all services."),
        parts.lines("Restarts in the last hour", Query(f"sum by (namespace, qwenservice) ({restarts})", OF_SERVICE)),
        parts.lines("Pods out of rotation", Query(out, OF_SERVICE)),
    )
    return Row("Remediation", panels)


def _process() -> Row:
    leader = Query(f"max by (pod) ({LEADER})", "{{pod}}")
    panels = (
        parts.lines("Lease", leader, text="1 for the pod that holds the Lease.", stacked=True),
        parts.lines("Memory by pod", Query(f"max by (pod) ({MEMORY})", "{{pod}}"), unit="bytes"),
        parts.lines("CPU by pod", Query(f"sum by (pod) ({PROCESSOR})", "{{pod}}"), unit="percentunit"),
    )
    return Row("Process", panels)

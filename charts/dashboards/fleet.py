"""The fleet: all QwenServices of the chosen namespaces."""

from __future__ import annotations

from typing import Any, Final

from charts.dashboards import parts
from charts.dashboards.parts import ANY_IS_BAD, GREEN, ORANGE, RED, Column, Query, Row
from charts.dashboards.promql import (
    ALL,
    BY_SERVICE,
    increase,
    per_second,
    quantile,
    share_of_failed,
)

UID: Final = "qwen-fleet"
TITLE: Final = "Qwen / Fleet"
FAILING: Final[tuple[parts.Step, ...]] = ((None, GREEN), (0.01, ORANGE), (0.05, RED))
SLOW: Final[tuple[parts.Step, ...]] = ((None, GREEN), (2, ORANGE), (5, RED))
NAME: Final = "{{namespace}}/{{qwenservice}}"

ENDED: Final = per_second("qwen_requests_total", ALL)
OUTPUT: Final = per_second("qwen_tokens_total", f'{ALL},kind="output"')
READY: Final = f"qwen_ready{{{ALL}}}"
ACTIVE: Final = f"qwen_alert_active{{{ALL}}}"
OUT: Final = f"max by (namespace, qwenservice) (qwen_operator_pods_out_of_rotation{{{ALL}}})"
SUSPENDED: Final = f"max by (namespace, qwenservice) (qwen_operator_remediation_suspended{{{ALL}}})"
RESTARTS: Final = f"sum by (namespace, qwenservice) ({increase('qwen_operator_restarts_total', ALL, '1h')})"
TTFT: Final = quantile(0.95, "qwen_ttft_seconds", ALL, "namespace, qwenservice")


def dashboard() -> dict[str, Any]:
    """The dashboard in Grafana's JSON model."""
    namespaces = parts.choice("namespace", "Namespace", "label_values(qwen_build_info, namespace)", several=True)
    return parts.document(
        UID,
        TITLE,
        "All QwenServices: which are ready, how they answer, and what remediation does about them.",
        [namespaces],
        [_overview(), _services(), _traffic(), _health()],
    )


def _overview() -> Row:
    critical = f'sum(qwen_alert_active{{{ALL},severity="critical"}})'
    panels = (
        parts.number("Number of services", f"count(count {BY_SERVICE} (qwen_build_info{{{ALL}}}))"),
        parts.number("Ready pods", f"sum({READY})", steps=((None, RED), (1, GREEN))),
        parts.number("Requests per second", f"sum({ENDED})", "reqps"),
        parts.number("Failed requests", f"{share_of_failed(ALL)} or vector(0)", "percentunit", steps=FAILING),
        parts.number("Output tokens per second", f"sum({OUTPUT})"),
        parts.number("Pods out of rotation", f"sum({OUT})", steps=ANY_IS_BAD),
        parts.number("Remediation suspended", f"sum({SUSPENDED})", steps=ANY_IS_BAD, text="Services."),
        parts.number("Critical alerts", critical, steps=ANY_IS_BAD, text="Active alerts of all pods."),
    )
    return Row("Overview", panels)


def _services() -> Row:
    columns = (
        Column("Ready", f"sum {BY_SERVICE} ({READY})", steps=((None, RED), (1, GREEN))),
        Column("Pods", f"count {BY_SERVICE} ({READY})"),
        Column("Requests/s", f"sum {BY_SERVICE} ({ENDED})", "reqps"),
        Column("Failed", share_of_failed(ALL, f"{BY_SERVICE} "), "percentunit", FAILING),
        Column("TTFT, p95", TTFT, "s", SLOW),
        Column("Output tokens/s", f"sum {BY_SERVICE} ({OUTPUT})"),
        Column("Waiting", f"sum {BY_SERVICE} (qwen_requests_waiting{{{ALL}}})"),
        Column("Active alerts", f"sum {BY_SERVICE} ({ACTIVE})", steps=ANY_IS_BAD),
        Column("Out of rotation", _by_server_name(OUT), steps=ANY_IS_BAD),
        Column("Restarts in 1 h", _by_server_name(RESTARTS), steps=((None, GREEN), (1, ORANGE), (3, RED))),
        Column("Suspended", _by_server_name(SUSPENDED), steps=ANY_IS_BAD),
    )
    text = "Restarts by remediation count against the budget of the last hour, 3 by default."
    return Row("Services", (parts.services("Services", columns, text=text),))


def _traffic() -> Row:
    failed = Query(share_of_failed(ALL, f"{BY_SERVICE} "), NAME)
    panels = (
        parts.lines("Requests by service", Query(f"sum {BY_SERVICE} ({ENDED})", NAME), unit="reqps", stacked=True),
        parts.lines("Failed requests by service", failed, unit="percentunit"),
        parts.lines("Time to first token, p95", Query(TTFT, NAME), unit="s", text="From arrival, queue included."),
        parts.lines("Output tokens by service", Query(f"sum {BY_SERVICE} ({OUTPUT})", NAME), stacked=True),
        parts.lines("Waiting requests", Query(f"sum {BY_SERVICE} (qwen_requests_waiting{{{ALL}}})", NAME)),
        parts.lines("KV cache, fullest pod", Query(f"max {BY_SERVICE} (qwen_kv_cache_usage_ratio{{{ALL}}})", NAME),
                    unit="percentunit"),
    )  # fmt: skip
    return Row("Traffic", panels)


def _health() -> Row:
    active = Query(f"sum {BY_SERVICE} ({ACTIVE})", NAME)
    panels = (
        parts.states("Active alerts", active, {"0": "none"}, text="How many alerts of the service's pods are active."),
        parts.lines("Ready pods by service", Query(f"sum {BY_SERVICE} ({READY})", NAME), width=12),
        parts.lines("Pods out of rotation by service", Query(OUT, NAME)),
        parts.lines("Restarts in the last hour", Query(RESTARTS, NAME),
                    text="By remediation. They count against the restart budget, 3 in an hour by default."),
        parts.lines("Suspended remediation", Query(SUSPENDED, NAME),
                    text="1 while remediation of the service is suspended: its budget is used up, or restarts do "
                         "not solve the problem."),
    )  # fmt: skip
    return Row("Health", panels)


def _by_server_name(expression: str) -> str:
    """A column of the operator's figures, joined to the others by `qwenservice`."""
    return f"max {BY_SERVICE} ({expression})"

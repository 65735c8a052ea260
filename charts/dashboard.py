"""The Grafana dashboard of QwenServices, as data: `generate.py` writes it into the chart.

The metrics come from the server, the operator, vLLM and kube-state-metrics. A test compares the
metric names of the first two with what the programs export.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

Panel = dict[str, Any]
Kind = Literal["timeseries", "stat", "state-timeline"]

PODS = 'namespace="$namespace",service="$service"'
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24
RED, ORANGE, GREEN = "red", "orange", "green"


class Query(NamedTuple):
    """A PromQL expression and the legend of its series."""

    expr: str
    legend: str = ""


class Chart(NamedTuple):
    """One panel. `steps` color values from a number on; `width` is in 24ths of the page."""

    title: str
    queries: tuple[Query, ...]
    unit: str = "short"
    description: str = ""
    kind: Kind = "timeseries"
    width: int = 8
    height: int = 7
    steps: tuple[tuple[float | None, str], ...] = ((None, GREEN),)
    stacked: bool = False


def rate(metric: str, more: str = "") -> str:
    """The rate per second of a service's counter."""
    return f"rate({metric}{{{PODS}{more}}}[$__rate_interval])"


def quantiles(metric: str) -> tuple[Query, ...]:
    """Median, 95th and 99th percentile of a histogram over all pods."""
    buckets = f"sum by (le) ({rate(f'{metric}_bucket')})"
    return tuple(
        Query(f"histogram_quantile({quantile}, {buckets})", name)
        for quantile, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
    )


ENDED = f"sum({rate('qwen_requests_total')})"
FAILED = "sum(" + rate("qwen_requests_total", ',outcome="failed"') + ")"
OUTPUT = "sum(" + rate("qwen_tokens_total", ',kind="output"') + ")"
OVERVIEW = (
    Chart("Ready pods", (Query(f"sum(qwen_ready{{{PODS}}})"),), kind="stat", width=3, height=4,
          steps=((None, RED), (1, GREEN))),
    Chart("Requests per second", (Query(ENDED),), "reqps", kind="stat", width=3, height=4),
    Chart("Failed requests", (Query(f"{FAILED} / ({ENDED} > 0) or vector(0)"),), "percentunit",
          kind="stat", width=3, height=4, steps=((None, GREEN), (0.01, ORANGE), (0.05, RED))),
    Chart("TTFT, p95", (quantiles("qwen_ttft_seconds")[1],), "s", kind="stat", width=3, height=4,
          steps=((None, GREEN), (2, ORANGE), (5, RED))),
    Chart("Tokens per second", (Query(OUTPUT),), kind="stat", width=3,
          height=4),
    Chart("Waiting requests", (Query(f"sum(qwen_requests_waiting{{{PODS}}})"),), kind="stat", width=3, height=4,
          description="Requests in the queues of all pods. When this stays high, add replicas.",
          steps=((None, GREEN), (5, ORANGE), (10, RED))),
    Chart("KV cache, fullest pod", (Query(f"max(qwen_kv_cache_usage_ratio{{{PODS}}})"),), "percentunit", kind="stat",
          width=3, height=4, steps=((None, GREEN), (0.8, ORANGE), (0.95, RED))),
    Chart("Alerts", (Query(f"sum(qwen_alert_active{{{PODS}}})"),), kind="stat", width=3, height=4,
          steps=((None, GREEN), (1, RED))),
)  # fmt: skip
TRAFFIC = (
    Chart("Requests by outcome", (Query(f"sum by (outcome) ({rate('qwen_requests_total')})", "{{outcome}}"),), "reqps",
          "refused: 503 because of load; rejected: a client error; aborted: the client disconnected.",
          stacked=True),
    Chart("Refusals and failures", (
        Query(f"sum by (reason) ({rate('qwen_refusals_total')})", "refused: {{reason}}"),
        Query(f"sum by (type) ({rate('qwen_errors_total')})", "failed: {{type}}"),
    ), "reqps"),
    Chart("Tokens", (Query(f"sum by (kind) ({rate('qwen_tokens_total')})", "{{kind}}"),),
          description="Tokens per second of answered requests."),
)  # fmt: skip
LATENCY = (
    Chart("Time to first token", quantiles("qwen_ttft_seconds"), "s", "From arrival, queue wait included.", width=6),
    Chart("Inter-token latency", quantiles("qwen_inter_token_seconds"), "s", width=6),
    Chart("Request duration", quantiles("qwen_request_duration_seconds"), "s", width=6),
    Chart("Queue wait", quantiles("qwen_queue_wait_seconds"), "s", "From arrival to the engine.", width=6),
)
ENGINE = (
    Chart("Queue", (
        Query(f"sum by (pod) (qwen_requests_waiting{{{PODS}}})", "waiting {{pod}}"),
        Query(f"sum by (pod) (qwen_requests_running{{{PODS}}})", "running {{pod}}"),
        Query(f"max(qwen_requests_waiting_limit{{{PODS}}})", "waiting limit"),
    )),
    Chart("KV cache", (Query(f"qwen_kv_cache_usage_ratio{{{PODS}}}", "{{pod}}"),), "percentunit"),
    Chart("Preemptions and prefix cache", (
        Query(f"sum({rate('vllm:num_preemptions_total')})", "preemptions"),
        Query(f"sum({rate('vllm:prefix_cache_hits_total')}) / sum({rate('vllm:prefix_cache_queries_total')})",
              "prefix cache hit rate (prompt tokens)"),
    ), description="Preempted requests are computed again: the KV cache is too small for the running requests."),
)  # fmt: skip
GPU = (
    Chart("GPU memory", (
        Query(f"qwen_gpu_memory_allocated_bytes{{{PODS}}} / qwen_gpu_memory_total_bytes{{{PODS}}}", "{{pod}}"),
    ), "percentunit", "vLLM allocates its memory up front: a high value is normal."),
    Chart("GPU temperature", (Query(f"qwen_gpu_temperature_celsius{{{PODS}}}", "{{pod}}"),), "celsius",
          steps=((None, GREEN), (90, RED))),
    Chart("GPU faults", (Query(f"qwen_gpu_faults{{{PODS}}}", "{{pod}}"),),
          description="Faults that require a reset or a repair of the GPU."),
)  # fmt: skip
HEALTH = (
    Chart("Active alerts", (
        Query(f"max by (pod, name) (qwen_alert_active{{{PODS}}}) > 0", "{{name}} {{pod}}"),
    ), kind="state-timeline", width=12, steps=((None, GREEN), (1, RED))),
    Chart("Engine", (
        Query(f"qwen_engine_hung_seconds{{{PODS}}}", "hung {{pod}}"),
        Query(f"qwen_engine_stalled_seconds{{{PODS}}}", "stalled {{pod}}"),
    ), "s", "How long an engine with work has not answered (hung), or has made no token (stalled).", width=12),
    Chart("Out of rotation", (
        Query(f"max(qwen_operator_pods_out_of_rotation{{{PODS}}})", "pods out of rotation"),
        Query(f"max(qwen_operator_remediation_suspended{{{PODS}}})", "remediation suspended"),
    )),
    Chart("Remediation steps", (
        Query(f"sum by (alert, action, reason) (increase(qwen_operator_remediation_actions_total{{{PODS}}}"
              "[$__rate_interval]))", "{{action}} {{alert}} {{reason}}"),
    )),
    Chart("Container restarts", (
        Query('increase(kube_pod_container_status_restarts_total{namespace="$namespace",container="server",'
              'pod=~"$service-.*"}[$__rate_interval])', "{{pod}}"),
    ), description="From kube-state-metrics."),
)  # fmt: skip
OPERATOR = (
    Chart("Operator", (
        Query("sum(qwen_operator_leader)", "leaders"),
        Query("max(qwen_operator_services)", "services"),
        Query("max(qwen_operator_queue_length)", "queued reconciliations"),
    ), description="Exactly one operator pod is the leader."),
    Chart("Reconciliations", (
        Query("sum by (result) (rate(qwen_operator_reconciles_total[$__rate_interval]))", "{{result}}"),
        Query("histogram_quantile(0.95, sum by (le) (rate(qwen_operator_reconcile_seconds_bucket[$__rate_interval])))",
              "p95, seconds"),
    )),
    Chart("Pod polls", (
        Query("sum by (result) (rate(qwen_operator_polls_total[$__rate_interval]))", "{{result}}"),
    ), "reqps"),
)  # fmt: skip
ROWS = (
    ("Overview", OVERVIEW),
    ("Traffic", TRAFFIC),
    ("Latency", LATENCY),
    ("Engine", ENGINE),
    ("GPU", GPU),
    ("Health", HEALTH),
    ("Operator", OPERATOR),
)


def variable(name: str, label: str, query: str) -> dict[str, Any]:
    """A drop-down list with the values that Prometheus knows."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "includeAll": False,
        "multi": False,
    }


def panel(chart: Chart, number: int, x: int, y: int) -> Panel:
    """One panel at its position."""
    custom: dict[str, Any] = {}
    options: dict[str, Any] = {}
    if chart.kind == "timeseries":
        custom = {"drawStyle": "line", "fillOpacity": 20 if chart.stacked else 5, "showPoints": "never"}
        custom["stacking"] = {"mode": "normal" if chart.stacked else "none", "group": "A"}
        options = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi"},
        }
    elif chart.kind == "stat":
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
    steps = [{"color": color, "value": value} for value, color in chart.steps]
    return {
        "id": number,
        "title": chart.title,
        "description": chart.description,
        "type": chart.kind,
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": chart.width, "h": chart.height},
        "fieldConfig": {
            "defaults": {
                "unit": chart.unit,
                "min": 0,
                "custom": custom,
                "thresholds": {"mode": "absolute", "steps": steps},
            },
            "overrides": [],
        },
        "options": options,
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": DATASOURCE, "expr": query.expr, "legendFormat": query.legend}
            for index, query in enumerate(chart.queries)
        ],
    }


def panels() -> list[Panel]:
    """All panels, row by row, left to right."""
    placed: list[Panel] = []
    y = 0
    for title, charts in ROWS:
        place = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        placed.append(
            {"id": len(placed) + 1, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        )
        y += 1
        x = height = 0
        for chart in charts:
            if x + chart.width > WIDTH:
                x, y = 0, y + height
            placed.append(panel(chart, len(placed) + 1, x, y))
            x, height = x + chart.width, chart.height
        y += height
    return placed


def dashboard() -> dict[str, Any]:
    """The whole dashboard in Grafana's JSON model."""
    chosen = 'namespace="$namespace"'
    return {
        "uid": "qwen-services",
        "title": "Qwen services",
        "description": "QwenServices: traffic, latency, engine, GPU, health.",
        "tags": ["qwen", "vllm"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
                variable("namespace", "Namespace", "label_values(qwen_build_info, namespace)"),
                variable("service", "Service", f"label_values(qwen_build_info{{{chosen}}}, service)"),
            ]
        },
        "annotations": {"list": []},
        "panels": panels(),
    }

"""One QwenService: its requests, its engine, its GPUs, and what remediation did about it."""

from __future__ import annotations

from typing import Any, Final

from charts.dashboards import parts
from charts.dashboards.fleet import FAILING, SLOW
from charts.dashboards.parts import ANY_IS_BAD, BLUE, GREEN, ORANGE, RED, Mark, Query, Row
from charts.dashboards.promql import SERVER, STEPS, grown, increase, per_second, quantile, share_of_failed

UID: Final = "qwen-service"
TITLE: Final = "Qwen / Service"

ENDED: Final = per_second("qwen_requests_total", SERVER)
OUTPUT: Final = per_second("qwen_tokens_total", f'{SERVER},kind="output"')
WAITING: Final = f"qwen_requests_waiting{{{SERVER}}}"
STEP_NAMES: Final = "alert, action, reason"

MARKS: Final = (
    Mark(
        "Remediation steps",
        f"sum by ({STEP_NAMES}) ({grown(STEPS, SERVER, '2m')}) > 0",
        ORANGE,
        "{{action}}",
        "{{alert}} {{reason}}",
    ),
    Mark(
        "Restarts of servers",
        f"sum by (pod) (resets(qwen_uptime_seconds{{{SERVER}}}[2m])) > 0",
        BLUE,
        "Server restarted",
        "{{pod}}",
    ),
)


def dashboard() -> dict[str, Any]:
    """The dashboard in Grafana's JSON model."""
    named = 'label_values(qwen_build_info{namespace="$namespace"}, qwenservice)'
    variables = [
        parts.choice("namespace", "Namespace", "label_values(qwen_build_info, namespace)"),
        parts.choice("service", "Service", named),
    ]
    rows = [_overview(), _requests(), _latency(), _engine(), _gpu(), _remediation()]
    return parts.document(
        UID, TITLE, "One QwenService, with the history of its remediation.", variables, rows, marks=MARKS
    )


def _overview() -> Row:
    ttft = quantile(0.95, "qwen_ttft_seconds", SERVER)
    queued = "Requests in the queues of all pods. When this stays high, add replicas."
    fullest = f"max(qwen_kv_cache_usage_ratio{{{SERVER}}})"
    full = ((None, GREEN), (0.8, ORANGE), (0.95, RED))
    panels = (
        parts.number("Ready pods", f"sum(qwen_ready{{{SERVER}}})", steps=((None, RED), (1, GREEN))),
        parts.number("Requests per second", f"sum({ENDED})", "reqps"),
        parts.number("Failed requests", f"{share_of_failed(SERVER)} or vector(0)", "percentunit", steps=FAILING),
        parts.number("TTFT, p95", ttft, "s", steps=SLOW),
        parts.number("Output tokens per second", f"sum({OUTPUT})"),
        parts.number("Waiting requests", f"sum({WAITING})", steps=((None, GREEN), (5, ORANGE), (10, RED)), text=queued),
        parts.number("KV cache, fullest pod", fullest, "percentunit", steps=full),
        parts.number("Active alerts", f"sum(qwen_alert_active{{{SERVER}}})", steps=ANY_IS_BAD),
    )
    return Row("Overview", panels)


def _requests() -> Row:
    outcomes = Query(f"sum by (outcome) ({ENDED})", "{{outcome}}")
    refused = Query(f"sum by (reason) ({per_second('qwen_refusals_total', SERVER)})", "refused: {{reason}}")
    failed = Query(f"sum by (type) ({per_second('qwen_errors_total', SERVER)})", "failed: {{type}}")
    tokens = Query(f"sum by (kind) ({per_second('qwen_tokens_total', SERVER)})", "{{kind}}")
    meaning = "refused: 503 because of load; rejected: a client error; aborted: the client disconnected."
    panels = (
        parts.lines("Requests by outcome", outcomes, unit="reqps", text=meaning, stacked=True),
        parts.lines("Refusals and failures", refused, failed, unit="reqps"),
        parts.lines("Tokens", tokens, text="Tokens per second of answered requests."),
    )
    return Row("Requests", panels)


def _latency() -> Row:
    panels = (
        parts.spread("Time to first token", "qwen_ttft_seconds", SERVER, text="From arrival, queue wait included."),
        parts.spread("Request duration", "qwen_request_duration_seconds", SERVER, text="From arrival to the end."),
        parts.lines("Time to first token, quantiles", *_quantiles("qwen_ttft_seconds"), unit="s", width=6),
        parts.lines("Request duration, quantiles", *_quantiles("qwen_request_duration_seconds"), unit="s", width=6),
        parts.lines("Inter-token latency", *_quantiles("qwen_inter_token_seconds"), unit="s", width=6),
        parts.lines("Queue wait", *_quantiles("qwen_queue_wait_seconds"), unit="s", width=6,
                    text="From arrival to the engine."),
    )  # fmt: skip
    return Row("Latency", panels)


def _engine() -> Row:
    queue = (
        Query(f"sum by (pod) ({WAITING})", "waiting {{pod}}"),
        Query(f"sum by (pod) (qwen_requests_running{{{SERVER}}})", "running {{pod}}"),
        Query(f"max(qwen_requests_waiting_limit{{{SERVER}}})", "limit of waiting"),
    )
    cache = Query(f"max by (pod) (qwen_kv_cache_usage_ratio{{{SERVER}}})", "{{pod}}")
    preempted = Query(f"sum by (pod) ({per_second('vllm:num_preemptions_total', SERVER)})", "{{pod}}")
    hits = per_second("vllm:prefix_cache_hits_total", SERVER)
    asked = per_second("vllm:prefix_cache_queries_total", SERVER)
    again = "Preempted requests are computed again: the KV cache is too small for the running requests."
    silence = "How long an engine with work has not answered (hung), or has made no token (stalled)."
    panels = (
        parts.lines("Queue", *queue, width=12),
        parts.lines("KV cache", cache, unit="percentunit", width=12),
        parts.lines("Preemptions per second", preempted, text=again),
        parts.lines("Prefix cache hit rate", Query(f"sum({hits}) / sum({asked})", "prompt tokens"), unit="percentunit"),
        parts.lines("Silence of the engine",
                    Query(f"max by (pod) (qwen_engine_hung_seconds{{{SERVER}}})", "hung {{pod}}"),
                    Query(f"max by (pod) (qwen_engine_stalled_seconds{{{SERVER}}})", "stalled {{pod}}"),
                    unit="s", text=silence),
    )  # fmt: skip
    return Row("Engine", panels)


def _gpu() -> Row:
    total = f"max by (pod) (qwen_gpu_memory_total_bytes{{{SERVER}}})"
    allocated = f"max by (pod) (qwen_gpu_memory_allocated_bytes{{{SERVER}}})"
    memory = (Query(allocated, "in use {{pod}}"), Query(f"max({total})", "of one pod"))
    busy = Query(f"max by (pod) (qwen_gpu_utilization_ratio{{{SERVER}}})", "{{pod}}")
    temperature = Query(f"max by (pod) (qwen_gpu_temperature_celsius{{{SERVER}}})", "{{pod}}")
    faults = Query(f"max by (pod) (qwen_gpu_faults{{{SERVER}}})", "{{pod}}")
    panels = (
        parts.lines("GPU memory", *memory, unit="bytes", text="Summed over the GPUs of a pod."),
        parts.lines("GPU memory in use", Query(f"{allocated} / {total}", "{{pod}}"), unit="percentunit",
                    text="vLLM allocates its memory up front: a high value is normal."),
        parts.lines("GPU utilization", busy, unit="percentunit",
                    text="The share of the time in which the GPUs computed. 100 % does not mean that they are full."),
        parts.lines("GPU temperature", temperature, unit="celsius", width=12, text="The hottest GPU of a pod."),
        parts.lines("GPU faults", faults, width=12, text="Faults that require a reset or a repair of the GPU."),
    )  # fmt: skip
    return Row("GPU", panels)


def _remediation() -> Row:
    active = Query(f"sum by (name) (qwen_alert_active{{{SERVER}}})", "{{name}}")
    steps = Query(f"sum by ({STEP_NAMES}) ({grown(STEPS, SERVER)})", "{{action}} {{alert}} {{reason}}")
    pods = (
        Query(f"sum(qwen_ready{{{SERVER}}})", "ready"),
        Query(f"count(qwen_ready{{{SERVER}}})", "pods"),
        Query(f"max(qwen_operator_pods_out_of_rotation{{{SERVER}}})", "out of rotation"),
        Query(f"max(qwen_operator_remediation_suspended{{{SERVER}}})", "remediation suspended"),
    )
    restarts = (
        Query(f"sum({increase('qwen_operator_restarts_total', SERVER)})", "by remediation"),
        Query(f"sum by (pod) (resets(qwen_uptime_seconds{{{SERVER}}}[$__rate_interval]))", "server {{pod}}"),
        Query(f"sum by (pod, cause) ({grown('qwen_engine_restarts_total', SERVER)})", "engine {{pod}} {{cause}}"),
    )
    panels = (
        parts.states("Alerts", active, {"0": "ok"}, text="The number of pods in which the alert is active.", height=10),
        parts.lines("Pods", *pods, width=12),
        parts.lines("Remediation steps", steps, width=12, text="Also those that a dry run only reports."),
        parts.lines("Restarts", *restarts, width=12,
                    text="By remediation; of the server in its container; and of the engine in its server."),
    )  # fmt: skip
    return Row("Alerts and remediation", panels)


def _quantiles(metric: str) -> tuple[Query, ...]:
    """Median, 95th and 99th percentile of a histogram over all pods."""
    return tuple(Query(quantile(share, metric, SERVER), f"p{share * 100:.0f}") for share in (0.5, 0.95, 0.99))

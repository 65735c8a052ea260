"""The recording rules of a service: what its clients get, over the last five minutes.

A ratio or a quantile is NaN while there are no requests.
"""

from __future__ import annotations

from typing import Final

from qwen_operator.api import QwenService
from qwen_operator.api.objects import Object
from qwen_operator.planning.builders.promql import SUM, failed_or_refused, in_time, pods_of, ratio

_WINDOW: Final = "5m"
_QUANTILES: Final = ("0.5", "0.95", "0.99")
_LATENCIES: Final = (
    "qwen_ttft_seconds",
    "qwen_inter_token_seconds",
    "qwen_request_duration_seconds",
    "qwen_queue_wait_seconds",
)


def record_group(service: QwenService) -> Object:
    """The group of recording rules."""
    pods = pods_of(service)
    rules = [
        _record(
            f"{latency}:quantile_rate5m",
            f"histogram_quantile({quantile}, sum by (namespace, service, le) "
            f"(rate({latency}_bucket{{{pods}}}[{_WINDOW}])))",
            quantile=quantile,
        )
        for latency in _LATENCIES
        for quantile in _QUANTILES
    ]
    failed = f'qwen_requests_total{{{pods},outcome="failed"}}'
    accepted = f'qwen_requests_total{{{pods},outcome=~"successful|failed"}}'
    tokens = f"sum by (namespace, service, kind) (rate(qwen_tokens_total{{{pods}}}[{_WINDOW}]))"
    rules += [
        _record("qwen_requests:goodput_rate5m", f"{SUM} (rate({_good(service)}[{_WINDOW}]))"),
        _record("qwen_requests:error_ratio_rate5m", ratio(failed, accepted, _WINDOW)),
        _record("qwen_requests:availability_ratio_rate5m", f"1 - {failed_or_refused(service, _WINDOW)}"),
        _record("qwen_tokens:rate5m", tokens),
    ]
    return {"name": f"qwen-{service.name}-records", "rules": rules}


def _good(service: QwenService) -> str:
    """The counter of good answers: in time if there is an objective for that, else successful."""
    slo = service.spec.slo
    if slo is not None and slo.ttft is not None:
        return in_time(service, slo.ttft)
    return f'qwen_requests_total{{{pods_of(service)},outcome="successful"}}'


def _record(name: str, expression: str, **labels: str) -> Object:
    rule: Object = {"record": f"service:{name}", "expr": expression}
    return {**rule, "labels": labels} if labels else rule

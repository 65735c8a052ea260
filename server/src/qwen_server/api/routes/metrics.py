"""GET /api/v1/metrics, /stats, /metrics, /metrics/prometheus and /prometheus/metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from qwen_server.api.openapi.answers import errors, json_answer, succeeds, text_answer
from qwen_server.api.routes.common import service_of
from qwen_server.observe import snapshots
from qwen_server.observe.prometheus_page import CONTENT_TYPE, PrometheusPage

router = APIRouter(tags=["metrics"])

_JSON = json_answer("全部指标 (all metrics)", "Metrics", "Metrics")
_PAGE = text_answer("Prometheus 文本 (Prometheus text)", "text/plain", "Prometheus")
_KEY_MISSING = errors(401)  # only with --protect-metrics
_JSON_ANSWERS = succeeds(_JSON) | _KEY_MISSING
_PAGE_ANSWERS = succeeds(_PAGE) | _KEY_MISSING
_EITHER_ANSWERS = succeeds(_JSON | {"content": _JSON["content"] | _PAGE["content"]}) | _KEY_MISSING


def wants_text(accept: str) -> bool:
    """Returns whether an Accept header is that of a Prometheus scraper.

    Clients that accept anything, or also JSON, get JSON.
    """
    kinds = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    return "application/openmetrics-text" in kinds or ("text/plain" in kinds and "application/json" not in kinds)


def _text(request: Request) -> Response:
    page: PrometheusPage = request.app.state.prometheus
    return Response(page.render(), headers={"content-type": CONTENT_TYPE})


@router.get(
    "/api/v1/metrics",
    summary="可观测性API (Observability)",
    response_model=None,
    responses=_JSON_ANSWERS,
)
async def metrics_json(request: Request) -> Response:
    """Returns all metrics of the server as JSON."""
    return JSONResponse(snapshots.metrics(service_of(request).observe()))


@router.get("/stats", summary="统计信息 (Statistics)", response_model=None, responses=_JSON_ANSWERS)
async def stats(request: Request) -> Response:
    """Returns the same as /api/v1/metrics."""
    return await metrics_json(request)


@router.get(
    "/metrics",
    summary="Metrics (JSON; Prometheus text for a scraper)",
    response_model=None,
    responses=_EITHER_ANSWERS,
)
async def metrics(request: Request) -> Response:
    """Returns JSON, or the Prometheus page for a client that accepts only text."""
    if wants_text(request.headers.get("accept", "")):
        return _text(request)
    return await metrics_json(request)


@router.get(
    "/metrics/prometheus",
    summary="Metrics (Prometheus)",
    response_model=None,
    response_class=PlainTextResponse,
    responses=_PAGE_ANSWERS,
)
async def metrics_prometheus(request: Request) -> Response:
    """Returns the Prometheus page."""
    return _text(request)


@router.get(
    "/prometheus/metrics",
    summary="Metrics (Prometheus), for clients that append /metrics",
    response_model=None,
    response_class=PlainTextResponse,
    responses=_PAGE_ANSWERS,
)
async def prometheus_metrics(request: Request) -> Response:
    """Returns the Prometheus page.

    TensorRT-LLM has this path, and aiperf tries it where /metrics returns no text.
    """
    return _text(request)

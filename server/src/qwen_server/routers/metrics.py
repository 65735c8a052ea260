"""GET /api/v1/metrics, /stats, /metrics and /metrics/prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from qwen_server import snapshots
from qwen_server.prometheus import CONTENT_TYPE, PrometheusPage
from qwen_server.routers.context import service_of

router = APIRouter(tags=["metrics"])


def wants_text(accept: str) -> bool:
    """Whether an Accept header is a Prometheus scraper's; clients that take anything, or JSON too, get JSON."""
    kinds = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    return "application/openmetrics-text" in kinds or ("text/plain" in kinds and "application/json" not in kinds)


def _text(request: Request) -> Response:
    page: PrometheusPage = request.app.state.prometheus
    return Response(page.render(), headers={"content-type": CONTENT_TYPE})


@router.get("/api/v1/metrics", summary="可观测性API (Observability)")
@router.get("/stats", summary="统计信息 (Statistics)")
async def metrics_json(request: Request) -> Response:
    """Everything that the server counts, as JSON."""
    return JSONResponse(snapshots.metrics(service_of(request)))


@router.get("/metrics", summary="Metrics (JSON; Prometheus text for a scraper)")
async def metrics(request: Request) -> Response:
    """JSON, or the Prometheus page for a client that accepts only text."""
    if wants_text(request.headers.get("accept", "")):
        return _text(request)
    return await metrics_json(request)


@router.get("/metrics/prometheus", summary="Metrics (Prometheus)")
async def metrics_prometheus(request: Request) -> Response:
    """The Prometheus page."""
    return _text(request)

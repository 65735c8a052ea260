"""POST /v1/completions."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from qwen_server.routers.context import generation
from qwen_server.routers.schemas import COMPLETION

router = APIRouter(tags=["generation"])


@router.post("/v1/completions", summary="文本补全 (Text completion)", openapi_extra=COMPLETION)
async def completions(request: Request) -> Response:
    """Continues one or more prompts; with `stream`, as server-sent events."""
    return await generation(request, "completion")

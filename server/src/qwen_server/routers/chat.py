"""POST /v1/chat/completions."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from qwen_server.routers.context import generation
from qwen_server.routers.schemas import CHAT

router = APIRouter(tags=["generation"])


@router.post("/v1/chat/completions", summary="对话补全 (Chat completion)", openapi_extra=CHAT)
async def chat_completions(request: Request) -> Response:
    """Answers a conversation; with `stream`, as server-sent events."""
    return await generation(request, "chat")

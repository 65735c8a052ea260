"""POST /v1/chat/completions."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from qwen_server.api.openapi.answers import generated, request_body
from qwen_server.api.routes.common import GenerationRoute, generation

router = APIRouter(tags=["generation"], route_class=GenerationRoute)


@router.post(
    "/v1/chat/completions",
    summary="对话补全 (Chat completion)",
    response_model=None,
    openapi_extra=request_body("ChatRequest", example="ChatRequest"),
    responses=generated("回答 (the answer)", body="ChatAnswer", event="ChatChunk", stream="ChatStream"),
)
async def chat_completions(request: Request) -> Response:
    """Answers a conversation.

    With `stream`, sends server-sent events; the last is `data: [DONE]`.
    """
    return generation(request, "chat")

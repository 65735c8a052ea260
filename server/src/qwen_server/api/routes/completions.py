"""POST /v1/completions."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from qwen_server.api.openapi.answers import generated, request_body
from qwen_server.api.routes.common import GenerationRoute, generation

router = APIRouter(tags=["generation"], route_class=GenerationRoute)

_ANSWERS = generated("回答 (the answer)", body="CompletionAnswer", event="CompletionChunk", stream="CompletionStream")


@router.post(
    "/v1/completions",
    summary="文本补全 (Text completion)",
    response_model=None,
    openapi_extra=request_body("CompletionRequest", example="CompletionRequest"),
    responses=_ANSWERS,
)
async def completions(request: Request) -> Response:
    """Continues one or more prompts.

    With `stream`, sends server-sent events; the last is `data: [DONE]`.
    """
    return generation(request, "completion")

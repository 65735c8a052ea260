"""POST /tokenize and /detokenize, as in vLLM's server."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from qwen_server.api.openapi.answers import computed, request_body
from qwen_server.api.routes.common import GenerationRoute, generation

router = APIRouter(tags=["generation"], route_class=GenerationRoute)


@router.post(
    "/tokenize",
    summary="分词 (Tokenize a text or a conversation)",
    response_model=None,
    openapi_extra=request_body("TokenizeRequest", example="TokenizeRequest"),
    responses=computed("token (the tokens)", "TokenizeAnswer"),
)
async def tokenize(request: Request) -> Response:
    """Returns the tokens that the model would receive."""
    return generation(request, "tokenize")


@router.post(
    "/detokenize",
    summary="还原文本 (Detokenize)",
    response_model=None,
    openapi_extra=request_body("DetokenizeRequest", example="DetokenizeRequest"),
    responses=computed("文本 (the text)", "DetokenizeAnswer"),
)
async def detokenize(request: Request) -> Response:
    """Returns the text of token IDs."""
    return generation(request, "detokenize")

"""POST /tokenize and /detokenize, as vLLM's server has them."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from qwen_server.api.openapi.answers import computed, request_body
from qwen_server.api.routes.common import GenerationRoute, generation

router = APIRouter(tags=["generation"], route_class=GenerationRoute)


@router.post(
    "/tokenize",
    summary="分词 (Tokens of a text or a conversation)",
    response_model=None,
    openapi_extra=request_body("TokenizeRequest", example="TokenizeRequest"),
    responses=computed("token (the tokens)", "TokenizeAnswer"),
)
async def tokenize(request: Request) -> Response:
    """The tokens that the model would be given."""
    return generation(request, "tokenize")


@router.post(
    "/detokenize",
    summary="还原文本 (Text of tokens)",
    response_model=None,
    openapi_extra=request_body("DetokenizeRequest", example="DetokenizeRequest"),
    responses=computed("文本 (the text)", "DetokenizeAnswer"),
)
async def detokenize(request: Request) -> Response:
    """The text of token ids."""
    return generation(request, "detokenize")

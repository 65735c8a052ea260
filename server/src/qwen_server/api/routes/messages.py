"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's API, with its client errors."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from qwen_server.api.openapi.answers import computed, generated, request_body
from qwen_server.api.routes.common import GenerationRoute, generation

router = APIRouter(tags=["generation"], route_class=GenerationRoute)

_ANSWERS = generated(
    "回答 (the answer)",
    body="MessagesAnswer",
    event="MessagesEvent",
    stream="MessagesStream",
    typed=True,
    anthropic=True,
)


@router.post(
    "/v1/messages",
    summary="消息 (Message, Anthropic's API)",
    response_model=None,
    openapi_extra=request_body("MessagesRequest", example="MessagesRequest"),
    responses=_ANSWERS,
)
async def messages(request: Request) -> Response:
    """Answers a conversation. With `stream`, sends typed events; the last one is `message_stop`."""
    return generation(request, "messages")


@router.post(
    "/v1/messages/count_tokens",
    summary="统计提示词token数 (Count tokens)",
    response_model=None,
    openapi_extra=request_body("CountTokensRequest", example="CountTokensRequest"),
    responses=computed("token数 (the number of tokens)", "CountTokensAnswer", anthropic=True),
)
async def count_tokens(request: Request) -> Response:
    """Returns the number of prompt tokens of such a request."""
    return generation(request, "count_tokens")

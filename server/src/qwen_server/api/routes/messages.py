"""POST /v1/messages and /v1/messages/count_tokens, Anthropic's API, with its shape of the client's errors."""

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
    """Answers a conversation; with `stream`, as typed events, of which the last is `message_stop`."""
    return generation(request, "messages")


@router.post(
    "/v1/messages/count_tokens",
    summary="统计提示词token数 (Tokens of a message)",
    response_model=None,
    openapi_extra=request_body("CountTokensRequest", example="CountTokensRequest"),
    responses=computed("token数 (the count)", "CountTokensAnswer", anthropic=True),
)
async def count_tokens(request: Request) -> Response:
    """How many tokens the prompt of such a message has."""
    return generation(request, "count_tokens")

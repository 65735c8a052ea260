"""POST /v1/responses, OpenAI's newer API. Responses are not stored, so none can be retrieved."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from qwen_server.api.openapi.answers import generated, request_body
from qwen_server.api.routes.common import GenerationRoute, generation
from qwen_server.http.error_bodies import client_error

router = APIRouter(tags=["generation"], route_class=GenerationRoute)

_ANSWERS = generated(
    "回答 (the answer)", body="ResponsesAnswer", event="ResponsesEvent", stream="ResponsesStream", typed=True
)


@router.post(
    "/v1/responses",
    summary="回答 (Response, OpenAI's newer API)",
    response_model=None,
    openapi_extra=request_body("ResponsesRequest", example="ResponsesRequest"),
    responses=_ANSWERS,
)
async def responses(request: Request) -> Response:
    """Answers a text or a conversation.

    With `stream`, sends typed events; the last one is `response.completed`, or
    `response.incomplete` if the answer was cut.
    """
    return generation(request, "responses")


@router.api_route("/v1/responses/{response_id}", methods=["GET", "DELETE"], include_in_schema=False)
@router.get("/v1/responses/{response_id}/input_items", include_in_schema=False)
@router.post("/v1/responses/{response_id}/cancel", include_in_schema=False)
async def stored_response(request: Request) -> Response:
    """Returns 404 and says why."""
    name = request.path_params["response_id"][:100]
    raise client_error(404, f"there is no response {name}: this server stores none", param="response_id")

"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from qwen_server.api.openapi.answers import errors, json_answer, succeeds
from qwen_server.api.routes.common import service_of
from qwen_server.http.error_bodies import refused

router = APIRouter(tags=["models"])

_LIST = json_answer("模型列表 (the models)", "ModelList", "ModelList")
_LIST_ANSWERS = succeeds(_LIST) | errors(401, 500, 503)
_MODEL_ANSWERS = succeeds(json_answer("模型 (the model)", "Model", "Model")) | errors(401, 404, 500, 503)
# Declared by hand, because FastAPI would document a 422 that never occurs.
_MODEL_ID = {
    "name": "model_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1},
    "example": "qwen-news-classifier",
}


def _card(request: Request) -> dict[str, Any]:
    service = service_of(request)
    loading = "starting" in (service.lifecycle.state, service.engine.vitals().state)
    refusal = service.refusal() if loading else None
    if refusal is not None:  # the engine's info exists only after the model is loaded
        raise refused(refusal)
    info = service.engine.info
    return {
        "id": info.served_name,
        "object": "model",
        "created": service.created,
        "owned_by": "qwen-vllm",
        "root": info.root,
        "parent": None,
        "max_model_len": info.max_model_len,
    }


def _named(card: dict[str, Any], name: str) -> dict[str, Any]:
    """The card under one of the model's names. That of an alias has the model as its parent."""
    return card if name == card["id"] else card | {"id": name, "parent": card["id"]}


def _adapter(card: dict[str, Any], name: str, root: str) -> dict[str, Any]:
    """The card of a LoRA adapter, whose parent is the model."""
    return card | {"id": name, "root": root, "parent": card["id"]}


@router.get("/v1/models", summary="模型列表 (List models)", response_model=None, responses=_LIST_ANSWERS)
async def list_models(request: Request) -> Response:
    """Returns the one model that is served, then its aliases and its LoRA adapters."""
    card = _card(request)
    aliases = (name for name in service_of(request).settings.model_aliases if not name.endswith("*"))
    names = dict.fromkeys((card["id"], *aliases))
    adapters = [_adapter(card, name, root) for name, root in service_of(request).adapters.served().items()]
    return JSONResponse({"object": "list", "data": [*(_named(card, name) for name in names), *adapters]})


@router.get(
    "/v1/models/{model_id:path}",
    summary="模型 (One model)",
    response_model=None,
    responses=_MODEL_ANSWERS,
    openapi_extra={"parameters": [_MODEL_ID]},
)
async def get_model(request: Request) -> Response:
    """Returns the model with this name or alias, or the LoRA adapter; 404 for any other name."""
    card, name = _card(request), request.path_params["model_id"]
    root = service_of(request).adapters.served().get(name)
    if root is not None:
        return JSONResponse(_adapter(card, name, root))
    request.app.state.handler.bodies.check_model(name)
    return JSONResponse(_named(card, name))

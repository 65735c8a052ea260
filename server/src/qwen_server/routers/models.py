"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from qwen_server.routers.context import authorize, service_of

router = APIRouter(tags=["models"])


def _card(request: Request) -> dict[str, Any]:
    service = service_of(request)
    authorize(request)
    loading = "starting" in (service.lifecycle.state, service.engine.vitals().state)
    refusal = service.refusal() if loading else None
    if refusal is not None:  # what is served is known only once it is loaded
        raise refusal
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


@router.get("/v1/models", summary="模型列表 (List of models)")
async def list_models(request: Request) -> dict[str, Any]:
    """The one model that is served."""
    return {"object": "list", "data": [_card(request)]}


@router.get("/v1/models/{model_id:path}", summary="模型 (One model)")
async def get_model(request: Request, model_id: str) -> dict[str, Any]:
    """The model by its name; 404 for any other."""
    card = _card(request)
    service_of(request).protocol.check_model(model_id)
    return card

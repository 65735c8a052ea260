"""POST /v1/load_lora_adapter and /v1/unload_lora_adapter, with vLLM's paths and bodies."""

from __future__ import annotations

from typing import Final, TypeVar

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import PlainTextResponse, Response

from qwen_server.api.openapi.answers import errors, request_body, succeeds, text_answer
from qwen_server.api.openapi.schemas.adapters import LoadAdapterRequest, UnloadAdapterRequest
from qwen_server.api.routes.common import AdminRoute, require_engine, service_of
from qwen_server.control.adapters import AdapterError, Adapters
from qwen_server.control.refusals import BUSY_TEXT
from qwen_server.control.service import Service
from qwen_server.engine.base import EngineError
from qwen_server.http.body import UploadsFullError, parse_object
from qwen_server.http.error_bodies import HttpError, client_error, invalid, refused

router = APIRouter(tags=["administration"], route_class=AdminRoute)

_MISTAKES: Final = errors(400, 401, 403, 404, 408, 413, 415, 500, 503)
_LOADED = succeeds(text_answer("已加载 (loaded)", "text/plain", "AdapterLoaded")) | _MISTAKES
_UNLOADED = succeeds(text_answer("已卸载 (unloaded)", "text/plain", "AdapterUnloaded")) | _MISTAKES


Form = TypeVar("Form", LoadAdapterRequest, UnloadAdapterRequest)


async def _body_of(request: Request, form: type[Form]) -> Form:
    """The body of a request. Raises HttpError."""
    try:
        raw = await request.app.state.handler.reader.read(request.headers, request.receive)
    except UploadsFullError:
        raise refused(service_of(request).refuse("uploads_full", BUSY_TEXT)) from None
    try:
        return form.model_validate(parse_object(raw))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        param = str(first["loc"][0])[:64] if first["loc"] else None
        raise invalid(f"{param}: {first['msg']}", param) from None


def _require_service(request: Request) -> Service:
    service = service_of(request)
    if (refusal := service.refusal()) is not None:
        raise refused(refusal)
    return service


async def _order_of(request: Request, form: type[Form]) -> tuple[Form, Adapters]:
    """What is asked for, and who carries it out. Raises HttpError."""
    _require_service(request)
    body = await _body_of(request, form)
    return body, _require_service(request).adapters  # reading the body may have taken a while


def _refused(error: AdapterError) -> HttpError:
    return client_error(error.status, str(error), param=error.param)


@router.post(
    "/v1/load_lora_adapter",
    summary="加载 LoRA 适配器 (Load a LoRA adapter)",
    response_model=None,
    response_class=PlainTextResponse,
    responses=_LOADED,
    openapi_extra=request_body("LoadAdapterRequest", example="LoadAdapterRequest"),
)
async def load_lora_adapter(request: Request) -> Response:
    """Loads an adapter. Requests may name it as soon as this has answered."""
    body, adapters = await _order_of(request, LoadAdapterRequest)
    try:
        await adapters.load(body.lora_name, body.lora_path, in_place=body.load_inplace)
    except AdapterError as error:
        raise _refused(error) from error
    except EngineError:
        require_engine(request)  # 503: it died meanwhile, and another one comes
        raise
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")


@router.post(
    "/v1/unload_lora_adapter",
    summary="卸载 LoRA 适配器 (Unload a LoRA adapter)",
    response_model=None,
    response_class=PlainTextResponse,
    responses=_UNLOADED,
    openapi_extra=request_body("UnloadAdapterRequest", example="UnloadAdapterRequest"),
)
async def unload_lora_adapter(request: Request) -> Response:
    """Unloads an adapter. New requests get 404 at once; it answers when the last one has ended."""
    body, adapters = await _order_of(request, UnloadAdapterRequest)
    try:
        await adapters.unload(body.lora_name)
    except AdapterError as error:
        raise _refused(error) from error
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

"""The HTTP application. `create_app` wires the service, routes and error handlers.

There is no global state, so a process can hold several applications.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from fastapi import APIRouter, FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from qwen_server.api.bodies.checking import Bodies
from qwen_server.api.handler import Handler
from qwen_server.api.routes import (
    adapters,
    administration,
    chat,
    completions,
    docs,
    health,
    messages,
    metrics,
    models,
    pooling,
    responses,
    server,
    tokenize,
)
from qwen_server.config.patches import Patches
from qwen_server.config.settings import Settings
from qwen_server.control.adapters import Adapters, Fetch
from qwen_server.control.lifecycle import Lifecycle
from qwen_server.control.service import Service
from qwen_server.engine.base import Engine, EngineError
from qwen_server.http.administrators import Administrators
from qwen_server.http.api_keys import ApiKeys
from qwen_server.http.authentication import Authentication, cross_origin
from qwen_server.http.body import BodyReader
from qwen_server.http.dialects import worded_for
from qwen_server.http.early_writes import EARLY_WRITES
from qwen_server.http.error_bodies import ClientDisconnectedError, HttpError, client_error, engine_failure
from qwen_server.http.middleware import CLIENT_CLOSED_REQUEST, Surroundings
from qwen_server.http.paths import allowed_methods
from qwen_server.http.rate_limits import RateLimiter
from qwen_server.observe.gpu import GpuMonitor
from qwen_server.observe.prometheus_page import PrometheusPage

if TYPE_CHECKING:
    from qwen_server.observe.tracing import Tracing

ROUTERS: Final = tuple(
    module.router
    for module in (chat, completions, responses, messages, pooling, tokenize, models, health, server, metrics, docs)
)
# Their routes are `AdminRoute`s. They exist only where administrators have keys.
ADMIN_ROUTERS: Final[tuple[APIRouter, ...]] = (administration.router, adapters.router)


def create_app(
    settings: Settings,
    engine: Engine,
    lifecycle: Lifecycle,
    *,
    gpu: GpuMonitor | None = None,
    tracing: Tracing | None = None,
    fetch_adapter: Fetch | None = None,
) -> FastAPI:
    """Returns the application in front of `engine`.

    It can serve before the engine has started: requests are refused until `lifecycle` is ready. The
    ASGI lifespan runs the background work (alerts, reloads, GPU readings). `gpu` replaces the
    monitor in tests. Without `tracing`, no spans are created. `fetch_adapter` downloads LoRA
    adapters.
    """
    keys = ApiKeys(settings.api_keys_dir, settings.api_keys)
    tokens = ApiKeys(settings.metrics_tokens_dir)
    admins = Administrators(settings.admin_api_keys_dir, keys)
    patches = Patches(settings.patches)
    reloads = [keys.poll, tokens.poll, admins.poll]
    own = Adapters(settings, engine, fetch=fetch_adapter)
    service = Service(settings, engine, lifecycle, gpu=gpu, reloads=reloads, patches=patches, adapters=own)
    reader = BodyReader(settings.max_body_bytes, settings.body_timeout)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={
            HttpError: _answer_http_error,
            EngineError: _answer_engine_error,
            HTTPException: _answer_framework_error,
            ClientDisconnectedError: _answer_disconnected,
        },
    )
    app.state.service = service
    app.state.patches = patches
    app.state.handler = Handler(
        service,
        RateLimiter(settings.rate_limit),
        reader,
        Bodies(settings, own.find, own.why_missing),
        early_writes=patches.use(EARLY_WRITES),
    )
    app.state.administrators = admins
    app.state.prometheus = PrometheusPage(service.observe, service.clock)
    # The middleware that is added last is the outermost.
    if keys.required or tokens.required:
        app.add_middleware(Authentication, keys=keys, tokens=tokens, admins=admins, service=service)
    if settings.cors_origins:
        app.add_middleware(cross_origin, origins=settings.cors_origins)
    app.add_middleware(Surroundings, service=service, tracing=tracing)
    tokenizer = (server.tokenizer_router,) if settings.enable_tokenizer_info_endpoint else ()
    for router in (*ROUTERS, *tokenizer, *(ADMIN_ROUTERS if admins.enabled else ())):
        app.include_router(router)
    return app


async def _answer_http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HttpError):
        raise error
    error = worded_for(request.url.path, error)
    return JSONResponse(dict(error.body), error.status, error.headers)


async def _answer_engine_error(request: Request, error: Exception) -> Response:
    """Answers what an endpoint asked of the engine in vain. Generation answers for itself."""
    return await _answer_http_error(request, engine_failure(str(error)))


async def _answer_framework_error(request: Request, error: Exception) -> Response:
    """Answers the router's 404 and 405 in the format of the path's API, and OPTIONS."""
    if not isinstance(error, HTTPException):
        raise error
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = allowed_methods(headers.get("Allow", ""))
    asks_for_all = request.scope["path"] == "*"
    if request.method == "OPTIONS" and (error.status_code == 405 or asks_for_all):
        return Response(status_code=204, headers=headers or {"Allow": allowed_methods("GET, POST")})
    messages = {404: f"there is no {request.url.path[:200]}", 405: f"{request.method} is not allowed here"}
    message = messages.get(error.status_code, str(error.detail))
    return await _answer_http_error(request, client_error(error.status_code, message, headers=headers))


async def _answer_disconnected(_: Request, __: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)

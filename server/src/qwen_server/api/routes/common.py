"""What the routes share: access to the service, and the classes of routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from qwen_server.api.handler import RESTART_RETRY_SECONDS, Handler
from qwen_server.control.refusals import RESTARTING_TEXT
from qwen_server.control.service import Service
from qwen_server.engine.base import Kind
from qwen_server.http.error_bodies import refused


def service_of(request: Request) -> Service:
    """Returns the service of the application that serves `request`."""
    return cast("Service", request.app.state.service)


def require_ready(request: Request) -> None:
    """Raises HttpError 503 while it starts, restarts or drains, and 500 if the engine is dead."""
    service = service_of(request)
    refusal = None if service.lifecycle.state == "ready" else service.refusal()
    if refusal is not None:
        raise refused(refusal)
    require_engine(request)


def require_engine(request: Request) -> None:
    """Raises HttpError 503 while the engine is being replaced, or is dead and about to be."""
    service = service_of(request)
    if service.engine_is_away():
        raise refused(service.refuse("restarting", RESTARTING_TEXT, RESTART_RETRY_SECONDS))


class _Handled(Response):
    """Runs the handler, which needs the ASGI channels of the request and not a `Request`."""

    def __init__(self, handler: Handler, kind: Kind) -> None:
        super().__init__()
        self._handler = handler
        self._kind = kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._handler.serve(self._kind, scope, receive, send)


def generation(request: Request, kind: Kind) -> Response:
    """Returns the response to a request of `kind`. See `Handler.serve` for the steps."""
    return _Handled(request.app.state.handler, kind)


class AdminRoute(APIRoute):
    """A route for administrators: others get a 401 or a 403.

    Its router has the tag `administration` and is listed in `ADMIN_ROUTERS`.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns the handler, which checks the key before anything else."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            request.app.state.administrators.demand(request.headers.raw)
            return await handle(request)

        return answer


class GenerationRoute(APIRoute):
    """A route without parameters: its endpoint takes a Request and returns a Response.

    It bypasses FastAPI's dependency injection, which takes 5 % of the CPU time of a short answer.
    Errors are handled as usual.
    """

    def __init__(self, path: str, endpoint: Callable[[Request], Awaitable[Response]], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        if self.dependant.dependencies:
            raise TypeError(f"{path}: a GenerationRoute takes no dependencies")

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            response = await endpoint(Request(scope, receive, send))
            await response(scope, receive, send)

        self.app = answer

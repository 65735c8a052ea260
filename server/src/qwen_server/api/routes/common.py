"""How the routes reach what is behind them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from qwen_server.api.handler import Handler
from qwen_server.control.service import Service
from qwen_server.engine.base import Kind


def service_of(request: Request) -> Service:
    """The service of the application that serves `request`."""
    return cast("Service", request.app.state.service)


class _Handled(Response):
    """The answer of the handler, which needs the request's ASGI channels and not its representation."""

    def __init__(self, handler: Handler, kind: Kind) -> None:
        super().__init__()
        self._handler = handler
        self._kind = kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._handler.serve(self._kind, scope, receive, send)


def generation(request: Request, kind: Kind) -> Response:
    """The answer to a request of `kind`: see `Handler.serve` for all that happens to it."""
    return _Handled(request.app.state.handler, kind)


class GenerationRoute(APIRoute):
    """A route that takes nothing from its request but the request itself, and answers with a response.

    So FastAPI has nothing to inject, which costs a twentieth of a short answer's CPU time; errors go the usual way.
    """

    def __init__(self, path: str, endpoint: Callable[[Request], Awaitable[Response]], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        if self.dependant.dependencies:
            raise TypeError(f"{path}: a GenerationRoute takes no dependencies")

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            response = await endpoint(Request(scope, receive, send))
            await response(scope, receive, send)

        self.app = answer

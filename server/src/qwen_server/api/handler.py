"""How the routes reach the service behind them, and what every generation request goes through first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from qwen_server.api.generation import Generation
from qwen_server.control.service import Service
from qwen_server.engine.base import Kind
from qwen_server.http.body import UploadsFullError, parse_object
from qwen_server.http.error_bodies import BUSY_TEXT, HttpError
from qwen_server.observe.request_figures import Trace


def service_of(request: Request) -> Service:
    """The service of the application that serves `request`."""
    return cast("Service", request.app.state.service)


def trace_of(request: Request) -> Trace:
    """The request's own record."""
    return cast("Trace", request.state.trace)


def caller_of(request: Request) -> str:
    """An opaque name of the caller, whom the guard has let in; everyone is the same one where there are no keys."""
    return cast("str", getattr(request.state, "caller", ""))


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


async def body_of(request: Request) -> dict[str, Any]:
    """The JSON object in a request's body. Raises HttpError."""
    service = service_of(request)
    try:
        raw = await service.bodies.read(request.headers, request.receive)
    except UploadsFullError:
        raise service.unavailable("uploads_full", BUSY_TEXT) from None
    return parse_object(raw)


async def generation(request: Request, kind: Kind) -> Response:
    """Checks a generation request in the order of cost and hands it on. Raises HttpError."""
    service, trace = service_of(request), trace_of(request)
    try:
        await service.limiter.check(caller_of(request))
        if (refusal := service.refusal()) is not None:
            raise refusal
        body = await body_of(request)
        call = service.parsers[kind](body)
        if (refusal := service.refusal()) is not None:  # the body may have taken its time
            raise refusal
    except HttpError as error:
        service.telemetry.turn_away(trace, "rejected" if error.status < 500 else "refused", error.kind)
        raise
    return Generation(service, call, trace)

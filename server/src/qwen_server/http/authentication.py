"""Requires a key or token on protected paths, before anything else in the request is examined."""

from __future__ import annotations

from starlette.middleware.cors import CORSMiddleware

from qwen_server.config.settings import Settings
from qwen_server.control.service import Service
from qwen_server.http.administrators import Administrators
from qwen_server.http.api_keys import ApiKeys
from qwen_server.http.asgi import App, Receive, Scope, Send, send_error
from qwen_server.http.dialects import worded_for
from qwen_server.http.error_bodies import HttpError

_ALWAYS = ("/v1", "/v2", "/tokenize", "/detokenize", "/tokenizer_info", "/pooling", "/score", "/rerank", "/classify")
_METRICS = ("/metrics", "/api/v1/metrics", "/prometheus/metrics", "/stats", "/load")
_DOCS = ("/docs", "/redoc", "/openapi.json")
_PREFLIGHT_SECONDS = 600


def protected_paths(settings: Settings) -> tuple[str, ...]:
    """Returns the paths that require a key if keys or tokens are set.

    Each covers the paths below it.
    """
    keys = _ALWAYS if settings.api_keys is not None or settings.api_keys_dir is not None else ()
    docs = _DOCS if keys and settings.protect_docs else ()
    protects_metrics = settings.metrics_tokens_dir is not None or (keys and settings.protect_metrics)
    return (*keys, *docs, *(_METRICS if protects_metrics else ()))


class Authentication:
    """Stores the caller of a protected path in `scope["state"]["caller"]`, or answers 401.

    The request's record gets the name of the tenant, which only a key tells. `tokens` open the
    metrics paths and nothing else. The keys of `admins` are API keys, too.
    """

    def __init__(self, app: App, *, keys: ApiKeys, tokens: ApiKeys, admins: Administrators, service: Service) -> None:
        self._app = app
        self._keys = keys
        self._tokens = tokens
        self._admins = admins
        self._figures = service.figures
        self._paths = protected_paths(service.settings)
        self._below = tuple(f"{path}/" for path in self._paths)
        self._below_metrics = tuple(f"{path}/" for path in _METRICS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 401, or passes the request on."""
        if scope["type"] == "http" and self._protects(scope["path"]):
            try:
                caller = scope["state"]["caller"] = self._caller(scope)
                scope["state"]["record"].tenant = self._keys.tenant_of(caller)
            except HttpError as error:
                if scope["method"] == "POST":
                    self._figures.turn_away(scope["state"]["record"], "rejected", error.kind)
                await send_error(send, worded_for(scope["path"], error))
                return
        await self._app(scope, receive, send)

    def _caller(self, scope: Scope) -> str:
        """Returns who asks. Raises HttpError 401."""
        path, headers = scope["path"], scope["headers"]
        if admin := self._admins.known(headers):
            return admin
        if self._tokens.required and (path in _METRICS or path.startswith(self._below_metrics)):
            known = self._keys.known(headers)
            return known or self._tokens.caller(headers)
        return self._keys.caller(headers)

    def _protects(self, path: str) -> bool:
        return path in self._paths or path.startswith(self._below)


def cross_origin(app: App, origins: tuple[str, ...]) -> CORSMiddleware:
    """Opens `app` to web pages of `origins` (CORS). Preflight requests need no API key."""
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "POST"),
        allow_headers=("*",),
        expose_headers=("X-Request-Id", "Retry-After", "Server-Timing"),
        max_age=_PREFLIGHT_SECONDS,
    )

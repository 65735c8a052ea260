"""The outermost middleware: request ID, access log, trace span, and the handler of last resort."""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
from collections.abc import Iterable, MutableMapping
from typing import TYPE_CHECKING, Any

from qwen_server.control.service import Service
from qwen_server.http.asgi import App, Receive, Scope, Send, send_json
from qwen_server.http.error_bodies import INTERNAL_TEXT
from qwen_server.http.paths import routed
from qwen_server.observe import logs
from qwen_server.observe.request_figures import RequestRecord

_SAFE_ID = re.compile(r"[\x21-\x7e]{1,128}")
CLIENT_CLOSED_REQUEST = 499  # nginx's code, for the log only: the client is gone
_PARAMETER = re.compile(r"\w+(\[\d+\])*")
_QUIET = ("/health", "/metrics", "/api/v1/metrics", "/prometheus/metrics", "/stats", "/load", "/ping")

if TYPE_CHECKING:
    from qwen_server.observe.tracing import RequestSpan, Tracing

_log = logging.getLogger("qwen_server.access")


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Returns the client's X-Request-Id, or a new ID.

    The client's is used if it has 1 to 128 printable ASCII characters and no spaces.
    """
    for name, value in headers:
        if name.lower() == b"x-request-id":
            text = value.decode("latin-1")
            if _SAFE_ID.fullmatch(text):
                return text
    return secrets.token_hex(16)


class Surroundings:
    """The outermost ASGI layer. It is plain ASGI, so that `receive` stays uvicorn's own."""

    def __init__(self, app: App, service: Service, tracing: Tracing | None) -> None:
        self._app = app
        self._service = service
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a request with a RequestRecord in `scope["state"]["record"]`, then logs it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        service = self._service
        record = RequestRecord(request_id_of(scope["headers"]), service.clock())
        scope.setdefault("state", {})["record"] = record
        logs.request_id.set(record.request_id)  # each request runs in its own task
        status = 0
        # Who has to wait for the next engine reconnects afterwards, and may reach another replica.
        closes = service.closes_connections

        async def send_on(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", record.request_id.encode("latin-1"))]
                if closes or service.closes_connections:
                    headers.append((b"connection", b"close"))
                message["headers"] = headers
            await send(message)

        span = self._span(scope, record)
        try:
            with span or contextlib.nullcontext():
                await self._app(routed(scope), receive, send_on)
        except Exception:
            _log.exception("request %s failed", record.request_id)
            if status:
                raise
            await send_json(send_on, 500, {"error": INTERNAL_TEXT})
        finally:
            if span is not None:
                span.end(status)
            self._log_request(scope, record, status, span)

    def _span(self, scope: Scope, record: RequestRecord) -> RequestSpan | None:
        """Returns the span of the request, or None without tracing and for probes and scrapes."""
        if self._tracing is None or scope["path"].startswith(_QUIET):
            return None
        return self._tracing.begin(scope, record)

    def _log_request(self, scope: Scope, record: RequestRecord, status: int, span: RequestSpan | None) -> None:
        path = scope["path"]
        # A mistake in the setup of a probe or scrape, such as a missing key, is not quiet.
        quiet = path.startswith(_QUIET) and not 400 <= status < 500
        level = logging.DEBUG if quiet else logging.INFO
        if not _log.isEnabledFor(level):
            return
        seconds = self._service.clock() - record.arrival
        fields: dict[str, object | None] = {
            "status": status or CLIENT_CLOSED_REQUEST,
            "total_seconds": _rounded(seconds),
        }
        if record.outcome is not None:
            fields["outcome"] = record.outcome
            fields["error"] = record.error
            fields["adapter"] = record.adapter
            fields["param"] = _without_names(record.param)
            fields["prompt_tokens"] = record.prompt_tokens
            fields["completion_tokens"] = record.output_tokens
            fields["ttft_seconds"] = _rounded(record.ttft)
            fields["queue_seconds"] = _rounded(record.queue_wait)
        fields["request_id"] = record.request_id
        if span is not None:
            fields["trace_id"] = span.trace_id
        fields = {name: value for name, value in fields.items() if value is not None}
        # The client chooses the path. It is quoted, so that it cannot forge a log line.
        details = " ".join(f"{name}={value}" for name, value in fields.items())
        fields |= {"method": scope["method"], "path": path[:200]}
        _log.log(level, "%s %r %s", scope["method"], path[:200], details, extra=fields)


def _without_names(place: str | None) -> str | None:
    """The parameter at the top of the body, with its index. The client may have chosen the rest."""
    found = _PARAMETER.match(place) if place else None
    return found[0] if found else None


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)

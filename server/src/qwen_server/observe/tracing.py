"""OpenTelemetry traces: one span per request, from arrival to the last byte, with a child `queue`.

Tracing is off unless `--otlp-traces-endpoint` is set. The span is the current one while its request
is served, so that the engine's spans become its children. The engine sets up the exporter of the
process, see `prepare_environment`. Attributes follow OpenTelemetry's semantic conventions for HTTP
and generative AI.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, MutableMapping
from types import TracebackType
from typing import Any, Self

from opentelemetry import context as otel_context
from opentelemetry import trace as otel
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from qwen_server.observe.request_figures import RequestRecord

_PROTOCOL = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
_FLUSH_MILLISECONDS = 500  # a collector that does not answer must not delay the exit

_log = logging.getLogger(__name__)
_propagator = TraceContextTextMapPropagator()


def prepare_environment(endpoint: str) -> str:
    """Sets OpenTelemetry's service name and protocol for this process and the engine's processes.

    Variables that the user has set take precedence. Returns the endpoint as the exporter expects
    it.
    """
    os.environ.setdefault("OTEL_SERVICE_NAME", "qwen-server")
    os.environ.setdefault(_PROTOCOL, "grpc" if endpoint.startswith("grpc:") else "http/protobuf")
    return endpoint.removeprefix("grpc://")


class _ScopeHeaders(Getter[Mapping[str, str]]):
    def get(self, carrier: Mapping[str, str], key: str) -> list[str] | None:
        value = carrier.get(key.lower())
        return None if value is None else [value]

    def keys(self, carrier: Mapping[str, str]) -> list[str]:
        return list(carrier)


_getter = _ScopeHeaders()


class RequestSpan:
    """The span of one request. It is the current span inside its `with` block; `end` ends it."""

    def __init__(self, tracer: otel.Tracer, scope: MutableMapping[str, Any], record: RequestRecord) -> None:
        self._tracer = tracer
        self._scope = scope
        self._record = record
        self._arrival = time.time_ns()
        wanted = (b"traceparent", b"tracestate")
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in wanted}
        self._span = tracer.start_span(
            scope["method"],
            context=_propagator.extract(headers, getter=_getter),
            kind=otel.SpanKind.SERVER,
            start_time=self._arrival,
            attributes={"http.request.method": scope["method"], "url.path": scope["path"][:200]},
        )
        self._context = otel.set_span_in_context(self._span)
        self._token: Any = None

    @property
    def trace_id(self) -> str:
        """The trace ID in hexadecimal, for the log."""
        return otel.format_trace_id(self._span.get_span_context().trace_id)

    def __enter__(self) -> Self:
        self._token = otel_context.attach(self._context)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        otel_context.detach(self._token)

    def end(self, status: int) -> None:
        """Ends the span with the result of the request.

        `status` is 0 if no response was started.
        """
        span, record = self._span, self._record
        route = getattr(self._scope.get("route"), "path", None)
        if route is not None:
            span.update_name(f"{self._scope['method']} {route}")
        values: dict[str, Any] = {
            "http.route": route,
            "http.response.status_code": status or None,
            "qwen.request_id": record.request_id,
            "qwen.outcome": record.outcome,
            "error.type": record.error,
        }
        if record.outcome is not None:
            values |= {
                "gen_ai.usage.input_tokens": record.prompt_tokens,
                "gen_ai.usage.output_tokens": record.output_tokens,
                "gen_ai.latency.time_to_first_token": record.ttft,
                "gen_ai.latency.time_in_queue": record.queue_wait,
            }
        span.set_attributes({name: value for name, value in values.items() if value is not None})
        if status >= 500 or record.outcome == "failed":
            span.set_status(otel.StatusCode.ERROR, record.error)
        if record.granted is not None:
            self._add_queue_span(record.granted - record.arrival)
        span.end()

    def _add_queue_span(self, seconds: float) -> None:
        waiting = self._tracer.start_span("queue", context=self._context, start_time=self._arrival)
        waiting.end(end_time=self._arrival + int(seconds * 1e9))


class Tracing:
    """Creates the spans of requests.

    `provider` is for tests; by default it is the process's own.
    """

    def __init__(self, provider: otel.TracerProvider | None = None) -> None:
        self._tracer = otel.get_tracer("qwen_server", tracer_provider=provider)

    def begin(self, scope: MutableMapping[str, Any], record: RequestRecord) -> RequestSpan:
        """Starts the span of a request that arrives now.

        Its parent is the client's span, from the W3C header `traceparent`.
        """
        return RequestSpan(self._tracer, scope, record)


def current_headers() -> dict[str, str] | None:
    """Returns the W3C headers of the current span, for the engine; None without a span."""
    headers: dict[str, str] = {}
    _propagator.inject(headers)
    return headers or None


def flush() -> None:
    """Sends the remaining spans, within half a second."""
    provider = otel.get_tracer_provider()
    force = getattr(provider, "force_flush", None)
    if force is not None and not force(_FLUSH_MILLISECONDS):
        _log.warning("the last traces are lost: the collector did not accept them in time")

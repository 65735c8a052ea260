"""Traces of a real server on a real vLLM, received by an OTLP collector."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.integration.builtin_model import QUESTION
from tests.integration.server_process import ready_server

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900, func_only=True)]

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
CHAT = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 12}


class Collector:
    """OTLP over HTTP on loopback; `spans` contains (service name, span) of all received spans."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Logs nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/traces"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, request: Any) -> None:
        for resource in request.resource_spans:
            names = [item.value.string_value for item in resource.resource.attributes if item.key == "service.name"]
            for scope in resource.scope_spans:
                self.spans.extend((names[0], span) for span in scope.spans)

    def of_trace(self, trace_id: str) -> dict[str, Any]:
        """The spans of a trace by name."""
        return {span.name: span for _, span in self.spans if span.trace_id.hex() == trace_id}


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.server.shutdown()


def test_spans_reach_the_collector_from_the_request_to_the_engine(collector: Collector, tmp_path: Path) -> None:
    with ready_server(tmp_path, f"--otlp-traces-endpoint={collector.url}") as server:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            headers = {"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01"}
            for path, more in (("/v1/chat/completions", {}), ("/v1/chat/completions", {"logprobs": True})):
                assert client.post(path, json=CHAT | more, headers=headers).status_code == 200
                server.until(lambda: len(collector.of_trace(TRACE_ID)) == 3, 30, "the spans of both processes")
                spans = collector.of_trace(TRACE_ID)
                request, engine = spans["POST /v1/chat/completions"], spans["llm_request"]
                assert request.parent_span_id.hex() == "00f067aa0ba902b7"
                assert spans["queue"].parent_span_id == request.span_id
                assert engine.parent_span_id == request.span_id
                # Both start with the request's arrival; the tolerance covers two readings of the
                # clock.
                assert abs(request.start_time_unix_nano - engine.start_time_unix_nano) < 10_000_000
                collector.spans = [pair for pair in collector.spans if pair[1].trace_id.hex() != TRACE_ID]
            assert {service for service, _ in collector.spans} <= {"qwen-server"}
            client.post("/v1/chat/completions", json=CHAT, headers=headers)
        os.kill(server.process.pid, signal.SIGTERM)
        assert server.exit_code() == 0
        assert "POST /v1/chat/completions" in collector.of_trace(TRACE_ID), "the last span is sent before the end"
        assert all("trace_id" in line for line in server.lines if "'/v1/chat/completions'" in line)

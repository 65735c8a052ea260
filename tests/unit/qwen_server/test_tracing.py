"""Traces: one span per request, with the client's span as parent; none unless enabled."""

from __future__ import annotations

import os

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, format_trace_id

from qwen_server.config.command_line import load_settings
from qwen_server.config.settings import ConfigurationError
from qwen_server.observe.tracing import Tracing, current_headers, prepare_environment
from tests.unit.qwen_server.serving import serve, until

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"
CHAT = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 3}


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter: InMemorySpanExporter) -> Tracing:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracing(provider)


async def test_a_request_is_a_span_below_its_clients(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    async with serve(tracing=tracing) as served:
        headers = {"traceparent": PARENT, "x-request-id": "req-7"}
        answer = await served.client.post("/v1/chat/completions", json=CHAT, headers=headers)
        assert answer.status_code == 200
        await until(lambda: len(exporter.get_finished_spans()) == 2)
    queue, request = exporter.get_finished_spans()
    assert (queue.name, request.name) == ("queue", "POST /v1/chat/completions")
    assert request.parent is not None
    assert request.context is not None
    assert request.parent.span_id == 0xB7AD6B7169203331
    assert format_trace_id(request.context.trace_id) == TRACE_ID
    assert queue.parent is not None
    assert queue.parent.span_id == request.context.span_id
    assert request.attributes is not None
    usage = answer.json()["usage"]
    assert request.attributes["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert request.attributes["gen_ai.usage.output_tokens"] == usage["completion_tokens"] == 3
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["http.route"] == "/v1/chat/completions"
    assert request.attributes["qwen.request_id"] == "req-7"
    assert request.attributes["qwen.outcome"] == "successful"
    assert None not in (request.start_time, request.end_time, queue.start_time, queue.end_time)
    assert request.start_time == queue.start_time <= queue.end_time <= request.end_time  # type: ignore[operator]


async def test_mistakes_failures_and_streams_end_their_spans(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    async with serve(tracing=tracing) as served:
        assert (await served.client.post("/v1/chat/completions", json={})).status_code == 400
        async with served.client.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as stream:
            await stream.aread()
        assert (await served.client.get("/nowhere", headers={"traceparent": "rubbish"})).status_code == 404
        served.lifecycle.mark_dead("CUDA out of memory")
        assert (await served.client.post("/v1/chat/completions", json=CHAT)).status_code == 500
        await until(lambda: len(exporter.get_finished_spans()) == 5)
    spans = [span for span in exporter.get_finished_spans() if span.name != "queue"]
    codes = [(span.attributes or {})["http.response.status_code"] for span in spans]
    assert codes == [400, 200, 404, 500]
    assert [span.status.status_code for span in spans] == [StatusCode.UNSET] * 3 + [StatusCode.ERROR]
    assert [span.parent for span in spans] == [None] * 4
    assert spans[2].name == "GET"  # a path of the client's own invention names nothing


async def test_probes_and_scrapes_make_no_spans(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    async with serve(tracing=tracing) as served:
        for path in ("/health", "/health/ready", "/api/v1/metrics", "/metrics/prometheus"):
            assert (await served.client.get(path)).status_code == 200
        assert (await served.client.get("/v1/models")).status_code == 200
    assert [span.name for span in exporter.get_finished_spans()] == ["GET /v1/models"]


def test_outside_of_a_request_there_are_no_headers() -> None:
    assert current_headers() is None


@pytest.mark.parametrize(
    ("endpoint", "exported", "protocol"),
    [
        ("http://collector:4318/v1/traces", "http://collector:4318/v1/traces", "http/protobuf"),
        ("grpc://collector:4317", "collector:4317", "grpc"),
    ],
)
def test_the_protocol_follows_from_the_url(
    endpoint: str, exported: str, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OTEL_SERVICE_NAME", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    assert load_settings([f"--otlp-traces-endpoint={endpoint}"]).otlp_traces_endpoint == endpoint
    assert prepare_environment(endpoint) == exported
    assert os.environ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] == protocol
    assert os.environ["OTEL_SERVICE_NAME"] == "qwen-server"


@pytest.mark.parametrize("text", ["collector:4317", "ftp://x", "http://", "http://host:port", "grpc://"])
def test_a_bad_endpoint_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--otlp-traces-endpoint"):
        load_settings([f"--otlp-traces-endpoint={text}"])
    assert load_settings(["--otlp-traces-endpoint="]).otlp_traces_endpoint is None

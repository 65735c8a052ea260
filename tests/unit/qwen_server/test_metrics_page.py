"""The metrics as JSON and as Prometheus text, and which one a client gets."""

import asyncio
import math
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import qwen_server
from qwen_server.api.routes.metrics import wants_text
from qwen_server.http.error_bodies import failure_kind
from qwen_server.observe.gpu import GpuMonitor, GpuReading
from qwen_server.observe.prometheus_page import number
from qwen_server.observe.request_figures import ERRORS, REFUSALS
from qwen_server.observe.snapshots import human_duration
from tests.unit.qwen_server.serving import Served, serve, until

GIB = 1024**3
SCRAPER = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
SECTIONS: Mapping[str, set[str]] = {
    "uptime": {"seconds", "human"},
    "requests": {
        "waiting",
        "running",
        "peak_concurrent",
        "total",
        "successful",
        "failed",
        "success_rate_percent",
        "error_rate_percent",
        "requests_per_second",
        "aborted",
        "refused",
    },
    "tokens": {"total_input", "total_output", "avg_per_request"},
    "slo": {"ttft", "throughput", "sample_size"},
    "latency": {"mean", "p50", "p95", "p99", "min", "max", "unit"},
    "latency_histogram": {"0-100ms", "100-500ms", "500-1000ms", "1-2s", "2-5s", "5-10s", ">10s"},
    "gpu": {"name", "allocated_gb", "total_gb", "free_gb", "utilization_percent"},
    "errors": {"total", "by_type"},
    "engine": {"restarts", "restarting_seconds", "standby_bytes"},
}
SPECIFIED = """\
# HELP vllm_num_waiting_requests Number of requests waiting in queue
# TYPE vllm_num_waiting_requests gauge
vllm_num_waiting_requests 0

# HELP vllm_num_running_requests Number of requests currently running
# TYPE vllm_num_running_requests gauge
vllm_num_running_requests 0

# HELP vllm_ttft_p95 P95 time to first token in seconds
# TYPE vllm_ttft_p95 gauge
vllm_ttft_p95 NaN

# HELP vllm_decoding_throughput_mean Mean decoding throughput in tokens/sec
# TYPE vllm_decoding_throughput_mean gauge
vllm_decoding_throughput_mean NaN
"""


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serve() as served:
        yield served


async def test_the_json_has_the_documented_fields_and_no_other(served: Served) -> None:
    await served.chat()
    for path in ("/api/v1/metrics", "/stats", "/metrics"):
        response = await served.client.get(path)
        assert response.headers["content-type"] == "application/json"
        body = response.json()
        assert {name: set(body[name]) for name in SECTIONS} == SECTIONS
        scalars = {"timestamp", "service", "version", "status", "alerts", "alerts_count"}
        assert set(body) == set(SECTIONS) | scalars
        assert (body["service"], body["version"], body["status"]) == ("qwen-vllm", "1.0.0", "healthy")
        assert set(body["slo"]["ttft"]) == {"mean", "p50", "p95", "p99", "unit"}
        assert set(body["slo"]["throughput"]) == {"decoding_mean", "decoding_p50", "total", "unit"}


async def test_before_any_request_what_is_unknown_is_null(served: Served) -> None:
    body = await served.metrics()
    assert body["slo"]["ttft"]["p95"] is None
    assert body["latency"]["mean"] is None
    assert body["slo"]["throughput"]["total"] is None
    assert (body["slo"]["sample_size"], body["requests"]["total"]) == (0, 0)
    assert body["requests"]["success_rate_percent"] == 100.0


async def test_the_four_specified_gauges_come_word_for_word(served: Served) -> None:
    for path in ("/metrics/prometheus", "/prometheus/metrics"):
        response = await served.client.get(path)
        assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert response.text.startswith(SPECIFIED)


async def test_the_page_has_the_counters_and_histograms(served: Served) -> None:
    await asyncio.gather(*(served.chat() for _ in range(3)))
    await served.chat('@{"fail": "boom"}')
    await served.chat(max_tokens=0)
    response = await served.client.get("/metrics/prometheus")
    samples = {
        (sample.name, tuple(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }
    assert samples["qwen_requests_total", (("outcome", "successful"),)] == 3
    assert samples["qwen_requests_total", (("outcome", "failed"),)] == 1
    assert samples["qwen_requests_total", (("outcome", "rejected"),)] == 1
    assert samples["qwen_errors_total", (("type", "engine_error"),)] == 1
    assert samples["qwen_tokens_total", (("kind", "output"),)] == 39
    for name in ("ttft", "request_duration"):
        assert samples[f"qwen_{name}_seconds_count", ()] == 3
        assert samples[f"qwen_{name}_seconds_bucket", (("le", "+Inf"),)] == 3
    assert samples["qwen_queue_wait_seconds_count", ()] == 4
    assert samples["qwen_inter_token_seconds_count", ()] == 36
    assert samples["qwen_alert_active", (("name", "EngineUnresponsive"), ("severity", "critical"))] == 0
    assert samples["qwen_ready", ()] == 1


async def test_gpu_figures_are_the_specifications() -> None:
    reading = GpuReading("NVIDIA GeForce RTX 3080", int(7.64 * GIB), int(9.64 * GIB), 66.0, faults=("Xid 79",))
    async with serve(gpu=GpuMonitor(lambda: reading)) as served:
        served.engine.reserved_bytes = int(7.02 * GIB)
        await until(lambda: served.service.gpu.latest is reading)
        assert (await served.metrics())["gpu"] == {
            "name": "NVIDIA GeForce RTX 3080",
            "allocated_gb": 7.64,
            "total_gb": 9.64,
            "free_gb": 2.0,
            "utilization_percent": 79.3,
        }
        health = (await served.client.get("/health")).json()
        assert health["gpu"] == {"allocated_gb": 7.64, "reserved_gb": 7.02, "free_gb": 2.0}
        served.service.tick()
        assert [alert["name"] for alert in (await served.metrics())["alerts"]] == ["GPUUnhealthy"]
        page = (await served.client.get("/metrics/prometheus")).text
        assert "qwen_gpu_temperature_celsius 66" in page
        assert 'qwen_alert_value{name="GPUUnhealthy"} 1\n' in page
        assert 'qwen_alert_value{name="HighTTFT"} NaN\n' in page


async def test_a_fault_is_shown_also_if_the_gpu_gives_no_figures() -> None:
    reading = GpuReading("unknown GPU", faults=("the driver reports: GPU is lost",))
    async with serve(gpu=GpuMonitor(lambda: reading)) as served:
        await until(lambda: served.service.gpu.latest is reading)
        assert "qwen_gpu_faults 1" in (await served.client.get("/metrics/prometheus")).text


async def test_the_uuids_of_the_gpus_are_shown() -> None:
    reading = GpuReading("NVIDIA GeForce RTX 3080", 1, 2, uuids=("GPU-1", "GPU-2"))
    async with serve(gpu=GpuMonitor(lambda: reading)) as served:
        await until(lambda: served.service.gpu.latest is reading)
        assert (await served.metrics())["gpu"]["uuids"] == ["GPU-1", "GPU-2"]


async def test_failures_and_refusals_begin_with_zero_and_the_json_shows_none(served: Served) -> None:
    page = (await served.client.get("/metrics/prometheus")).text
    assert [f'qwen_errors_total{{type="{kind}"}} 0\n' in page for kind in ERRORS] == [True] * len(ERRORS)
    assert [f'qwen_refusals_total{{reason="{kind}"}} 0\n' in page for kind in REFUSALS] == [True] * len(REFUSALS)
    assert (await served.metrics())["errors"]["by_type"] == {}


def test_every_reason_to_refuse_is_known_beforehand() -> None:
    rooms = [Path(qwen_server.__file__).parent / room for room in ("api", "control", "http")]
    source = "".join(module.read_text(encoding="utf-8") for room in rooms for module in room.rglob("*.py"))
    named = set(re.findall(r'(?:\brefuse|\bRefusal)\(\s*"(\w+)"', source))
    assert named - {"timeout"} == set(REFUSALS)
    assert {failure_kind(text) for text in ("out of memory", "the engine died", "")} < set(ERRORS)


async def test_promtool_finds_nothing_to_complain_about(served: Served) -> None:
    promtool = shutil.which("promtool")
    assert promtool, "promtool is needed (apt-get install prometheus)"
    await served.chat()
    page = (await served.client.get("/metrics/prometheus")).content
    check = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, check=False)  # noqa: ASYNC221
    assert (check.returncode, check.stderr + check.stdout) == (0, b"")


async def test_the_page_is_rendered_once_a_second(served: Served) -> None:
    first = (await served.client.get("/metrics/prometheus")).content
    await served.chat()
    assert (await served.client.get("/metrics/prometheus")).content == first


async def test_metrics_are_text_for_a_scraper_and_json_for_others(served: Served) -> None:
    response = await served.client.get("/metrics", headers={"accept": SCRAPER})
    assert response.headers["content-type"].startswith("text/plain")
    response = await served.client.get("/metrics", headers={"accept": "*/*"})
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("accept", "text"),
    [
        ("", False),
        ("*/*", False),
        ("application/json, text/plain, */*", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        ("text/plain", True),
        ("text/plain;version=0.0.4;q=1,*/*;q=0.1", True),
        (SCRAPER, True),
    ],
)
def test_only_a_scrapers_accept_header_asks_for_text(accept: str, text: bool) -> None:
    assert wants_text(accept) is text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "NaN"), (math.nan, "NaN"), (math.inf, "+Inf"), (0.0, "0"), (3, "3"), (0.68, "0.68")]
)
def test_numbers_are_written_as_the_specification_does(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(117.3, "0h 1m"), (0, "0h 0m"), (90061, "25h 1m")])
def test_uptime_is_given_in_hours_and_minutes(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text

"""aiperf, NVIDIA's load generator: what it counts is what the server counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.clients.programs import run
from tests.clients.questions import NAME
from tests.integration.server_process import ServerProcess

REQUESTS = 8
TOKENS = 32

pytestmark = pytest.mark.timeout(420)


def profile(target: tuple[str, ...], folder: Path, *options: str) -> dict[str, Any]:
    """Runs aiperf with prompts of its own making. Returns the figures that it exports."""
    load = ("--request-count", str(REQUESTS), "--concurrency", "2", "--random-seed", "1")
    prompts = ("--synthetic-input-tokens-mean", "24", "--output-tokens-mean", str(TOKENS))
    exact = ("--extra-inputs", "ignore_eos:true")
    artifacts = ("--artifact-dir", str(folder / "artifacts"), "--ui", "none")
    run("aiperf", "profile", *target, *load, *prompts, *exact, *artifacts, *options, folder=folder)
    (export,) = (folder / "artifacts").rglob("profile_export_aiperf.json")
    figures: dict[str, Any] = json.loads(export.read_text())
    return figures


@pytest.fixture
def target(server: ServerProcess, key: str, model_folder: Path) -> tuple[str, ...]:
    return ("--model", NAME, "--url", server.url, "--api-key", key, "--tokenizer", str(model_folder))


@pytest.mark.parametrize("endpoint", ["chat", "completions", "responses"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_run_counts_what_the_server_counted(
    server: ServerProcess, target: tuple[str, ...], tmp_path: Path, endpoint: str, streamed: bool
) -> None:
    before = server.metrics()
    options = ("--endpoint-type", endpoint, *(["--streaming"] if streamed else []))
    figures = profile(target, tmp_path, *options)
    after = server.metrics()
    assert after["requests"]["successful"] - before["requests"]["successful"] == REQUESTS
    assert after["errors"]["total"] == before["errors"]["total"]
    assert figures["request_count"]["avg"] == REQUESTS
    assert "error_request_count" not in figures
    made = after["tokens"]["total_output"] - before["tokens"]["total_output"]
    assert made == REQUESTS * TOKENS
    (metrics,) = (tmp_path / "artifacts").rglob("server_metrics_export.json")
    assert "qwen_requests" in metrics.read_text()
    if streamed:
        assert figures["time_to_first_token"]["avg"] > 0
        assert figures["inter_token_latency"]["avg"] > 0

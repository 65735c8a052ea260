"""The metrics of the server are what the operator reads, and are not too long for it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from qwen_operator.remediation.poll import MAX_BODY, parse_metrics
from qwen_server.control import alerts
from qwen_server.observe import snapshots
from qwen_server.observe.gpu import GpuReading
from qwen_server.observe.observation import Observation
from qwen_server.observe.request_figures import RequestFigures


def test_the_longest_answer_of_a_server_is_read() -> None:
    wall = datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None)
    begun = wall - timedelta(seconds=3)
    active = [alerts.ActiveAlert(rule, 12345.6789, 2.0, begun).as_json() for rule in alerts.catalogue("cuda")]
    gpu = GpuReading(name="NVIDIA H200", uuids=tuple(f"GPU-{number:036d}" for number in range(16)))
    seen = Observation(
        now=5.0,
        wall=wall,
        started_at=0.0,
        model="qwen",
        state="ready",
        status="unhealthy",
        asleep=False,
        answers=False,
        accepts=True,
        waiting=30,
        running=256,
        peak_running=256,
        waiting_limit=30,
        running_limit=256,
        rate_limit=None,
        figures=RequestFigures(),
        gpu=gpu,
        gpu_reserved_bytes=0,
        rules=(),
        alerts=tuple(active),
        hung_seconds=20.0,
        stalled_seconds=20.0,
        kv_cache_usage=0.5,
        patches={},
    )
    body = json.dumps(snapshots.metrics(seen)).encode()
    assert len(body) < MAX_BODY // 4
    evidence = parse_metrics(body)
    assert evidence is not None
    assert evidence.alerts == {rule.name for rule in alerts.catalogue("cuda")}
    assert (evidence.uptime, evidence.busy, evidence.gpus) == (5.0, 286, gpu.uuids)
    assert evidence.active_for == dict.fromkeys(evidence.alerts, 3.0)

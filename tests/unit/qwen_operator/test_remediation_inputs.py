"""What remediation works with: policies, the answers of pods, and objects of the API."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_operator.api.catalogue import NAMES
from qwen_operator.remediation.policy import policy_of
from qwen_operator.remediation.poll import parse_metrics, pod_url
from qwen_operator.remediation.values import Gate, Rollout
from qwen_operator.remediation.views import gate_of, newest_revision, pod_view, rollout_view
from qwen_operator.remediation.writes import gate_patch
from tests.unit.qwen_operator.remediation_world import EPOCH, spec


def metrics(**changes: Any) -> bytes:
    body = {"uptime": {"seconds": 5.0}, "requests": {"running": 1, "waiting": 2}, "alerts": [{"name": "HighTTFT"}]}
    return json.dumps({**body, **changes}).encode()


# Policy.


def test_defaults_take_out_and_restart_what_does_no_work() -> None:
    rules = policy_of(spec()).alerts
    assert rules["EngineUnresponsive"].unready_after == 0.0
    assert rules["EngineUnresponsive"].restart_after == 60.0
    assert rules["HighErrorRate"].restart_after == 120.0
    assert rules["HighTTFT"].unready_after is None
    assert rules["HighTTFT"].report_after == 0.0
    assert "HighLatency" not in rules


def test_rules_shorten_and_replace() -> None:
    remediation = {
        "rules": [
            {"alert": "EngineUnresponsive", "action": "Restart", "for": "5s"},
            {"alert": "HighErrorRate", "action": "Unready", "for": "10s"},
            {"alert": "HighTTFT", "action": "None"},
        ]
    }
    rules = policy_of(spec(remediation=remediation)).alerts
    assert (rules["EngineUnresponsive"].unready_after, rules["EngineUnresponsive"].restart_after) == (0.0, 5.0)
    assert (rules["HighErrorRate"].unready_after, rules["HighErrorRate"].restart_after) == (10.0, None)
    assert rules["HighTTFT"].report_after is None


def test_thresholds_follow_the_device_and_the_spec() -> None:
    assert policy_of(spec(engine={"device": "cpu"})).alerts["EngineUnresponsive"].threshold == 60.0
    changed = spec(alerts=[{"name": "EngineUnresponsive", "threshold": 5}])
    assert policy_of(changed).alerts["EngineUnresponsive"].threshold == 5.0


def test_every_alert_of_the_catalogue_has_a_class_that_remediation_knows() -> None:
    rules = policy_of(spec(alerts=[{"name": name, "threshold": 1} for name in NAMES])).alerts
    assert set(rules) == set(NAMES)


# Evidence.


def test_metrics_become_evidence() -> None:
    evidence = parse_metrics(metrics())
    assert evidence is not None
    assert (evidence.uptime, evidence.alerts, evidence.busy) == (5.0, frozenset({"HighTTFT"}), 3)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"<html>",
        b"[" * 100_000,
        metrics(uptime=None),
        metrics(uptime={"seconds": "5"}),
        metrics(uptime={"seconds": float("nan")}),
        metrics(uptime={"seconds": -1}),
        metrics(uptime={"seconds": True}),
        metrics(alerts={"EngineUnresponsive": True}),
        metrics(alerts="EngineUnresponsive"),
        metrics(requests={"running": 1}),
        metrics(requests={"running": 1e308, "waiting": 1e308}),
        metrics(uptime={"seconds": 10**400}),
    ],
)
def test_garbled_metrics_are_no_evidence(body: bytes) -> None:
    assert parse_metrics(body) is None


@pytest.mark.parametrize(
    ("gpu", "uuids"),
    [
        ({"uuids": ["GPU-1", 3, "", "x" * 65, "GPU-\ud800", "GPU 2", "MIG-3/1/0"]}, ("GPU-1", "MIG-3/1/0")),
        ({"uuids": "GPU-1"}, ()),
        ({}, ()),
        (None, ()),
        ([], ()),
    ],
)
def test_the_uuids_of_the_gpus_are_read(gpu: Any, uuids: tuple[str, ...]) -> None:
    evidence = parse_metrics(metrics(gpu=gpu))
    assert evidence is not None
    assert evidence.gpus == uuids


def test_garbled_alerts_are_ignored() -> None:
    evidence = parse_metrics(metrics(alerts=[None, 3, {}, {"name": 4}, {"name": "x" * 65}, {"name": "HighTTFT"}]))
    assert evidence is not None
    assert evidence.alerts == {"HighTTFT"}


@pytest.mark.parametrize(
    ("timestamp", "since", "age"),
    [
        ("2026-01-01T00:00:10.500000", "2026-01-01T00:00:08.000000", 2.5),
        ("2026-01-01T00:00:10", "2026-01-01T00:00:10", 0.0),
        # The server has been up for five seconds.
        ("2026-01-01T01:00:00", "2026-01-01T00:00:00", 5.0),
        ("2026-01-01T00:00:10Z", "2026-01-01T00:00:08", 2.0),
        ("2026-01-01T00:00:08", "2026-01-01T00:00:10", None),
        (None, "2026-01-01T00:00:08", None),
        ("2026-01-01T00:00:10", None, None),
        ("2026-01-01T00:00:10", 1767225608, None),
        ("today", "2026-01-01T00:00:08", None),
    ],
)
def test_an_alert_is_as_old_as_the_pod_says(timestamp: Any, since: Any, age: float | None) -> None:
    evidence = parse_metrics(metrics(timestamp=timestamp, alerts=[{"name": "HighTTFT", "since": since}]))
    assert evidence is not None
    assert evidence.active_for == ({} if age is None else {"HighTTFT": age})


@given(st.binary(max_size=200))
def test_no_answer_breaks_the_parser(body: bytes) -> None:
    parse_metrics(body)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.fixed_dictionaries({"uptime": json_values, "requests": json_values, "alerts": json_values}))
def test_no_json_breaks_the_parser(body: dict[str, Any]) -> None:
    parse_metrics(json.dumps(body).encode())


def test_addresses_of_both_families_become_urls() -> None:
    assert pod_url("10.0.0.1") == "http://10.0.0.1:8000"
    assert pod_url("fd00::1") == "http://[fd00::1]:8000"


# Views.


def pod(**changes: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "p", "uid": "u", "namespace": "n", **changes.pop("metadata", {})},
        "spec": {"nodeName": "node1", "readinessGates": [{"conditionType": "qwen-vllm.io/slo-ready"}]},
        "status": changes,
    }


def gate(status: str, **changes: Any) -> dict[str, Any]:
    return {"type": "qwen-vllm.io/slo-ready", "status": status, **changes}


def test_each_state_of_a_gate_is_recognized() -> None:
    assert gate_of(pod()) is Gate.UNSET
    assert gate_of(pod(conditions=[gate("True")])) is Gate.OPEN
    assert gate_of(pod(conditions=[gate("False")])) is Gate.CLOSED
    assert gate_of({"metadata": {}, "spec": {}, "status": {}}) is Gate.MISSING


def test_a_pod_is_read_from_the_api() -> None:
    obj = pod(
        metadata={"annotations": {"qwen-vllm.io/restart": "r1"}, "labels": {"pod-template-hash": "new"}},
        conditions=[
            {"type": "Ready", "status": "False"},
            {"type": "ContainersReady", "status": "True"},
            {"type": "PodScheduled", "status": "True"},
            gate("False", reason="EngineUnresponsive", lastTransitionTime="2026-01-01T00:00:00Z"),
        ],
        containerStatuses=[{"name": "sidecar", "restartCount": 9}, {"name": "server", "restartCount": 2}],
    )
    view = pod_view(obj, newest_hash="new")
    assert (view.ready, view.running, view.restarts, view.restart_id, view.newest) == (False, True, 2, "r1", True)
    assert (view.closed_for, view.closed_since) == ("EngineUnresponsive", EPOCH)
    assert pod_view(obj, newest_hash="old").newest is False
    assert not view.unschedulable
    assert pod_view(pod(conditions=[{"type": "PodScheduled", "status": "False"}])).unschedulable


def deployment(reason: str, **status: int) -> dict[str, Any]:
    condition = {"type": "Progressing", "reason": reason}
    return {
        "metadata": {"generation": 2},
        "spec": {"replicas": 3},
        "status": {"observedGeneration": 2, "conditions": [condition], **status},
    }


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        (None, Rollout()),
        (deployment("NewReplicaSetAvailable", replicas=3, updatedReplicas=3), Rollout()),
        (deployment("ReplicaSetUpdated", replicas=3, updatedReplicas=1), Rollout(under_way=True)),
        (deployment("ReplicaSetUpdated", replicas=4, updatedReplicas=3), Rollout(under_way=True)),
        (deployment("NewReplicaSetAvailable", replicas=1, updatedReplicas=1), Rollout()),
        (deployment("ProgressDeadlineExceeded", replicas=3, updatedReplicas=1), Rollout(stalled=True)),
        (
            deployment("NewReplicaSetAvailable", replicas=3, updatedReplicas=3, observedGeneration=1),
            Rollout(under_way=True),
        ),
    ],
)
def test_scaling_is_not_a_rollout(obj: dict[str, Any] | None, expected: Rollout) -> None:
    assert rollout_view(obj) == expected


def test_the_newest_revision_has_the_highest_number() -> None:
    def replica_set(revision: str, digest: str) -> dict[str, Any]:
        annotations = {"deployment.kubernetes.io/revision": revision}
        return {"metadata": {"annotations": annotations, "labels": {"pod-template-hash": digest}}}

    assert newest_revision([replica_set("9", "a"), replica_set("10", "b")]) == "b"
    assert newest_revision([]) is None


def test_the_gates_patch_names_the_pod_by_uid() -> None:
    patch = gate_patch("u", is_open=False, reason="GPUUnhealthy", message="m", now=EPOCH)
    assert patch["metadata"] == {"uid": "u"}
    [condition] = patch["status"]["conditions"]
    assert condition == {
        "type": "qwen-vllm.io/slo-ready",
        "status": "False",
        "reason": "GPUUnhealthy",
        "message": "m",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }

"""The parts of remediation: policies, evidence, the ledger, and when which step is decided."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_operator.api import HistoryEntry, QwenServiceSpec, RemediationStatus, RestartIntent
from qwen_operator.api.catalogue import NAMES
from qwen_operator.remediation import ledger as ledgers
from qwen_operator.remediation.policy import policy_of
from qwen_operator.remediation.poll import parse_metrics, pod_url
from qwen_operator.remediation.steps import (
    BeginRestart,
    CloseGate,
    Died,
    ExecuteRestart,
    FinishRestart,
    OpenGate,
    Prove,
    Report,
)
from qwen_operator.remediation.values import Gate, Rollout
from qwen_operator.remediation.views import gate_of, newest_revision, pod_view, rollout_view
from qwen_operator.remediation.writes import gate_patch, remediation_patch
from tests.unit.qwen_operator.remediation_world import EPOCH, World, policy

HUNG = frozenset({"EngineUnresponsive"})


def spec(**changes: Any) -> QwenServiceSpec:
    return QwenServiceSpec.model_validate({"model": {"source": {"builtin": "news-classifier"}}, **changes})


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


# The ledger.


def intent(seconds: float = 0.0, **changes: Any) -> RestartIntent:
    time = ledgers.whole_second(EPOCH + timedelta(seconds=seconds))
    return RestartIntent(**{"pod_uid": "u0", "pod": "p0", "method": "InPlace", "time": time, **changes})


def test_backoff_doubles_up_to_its_maximum() -> None:
    rules = policy(backoff_base=30.0, backoff_max=100.0, max_restarts=10)
    ledger = RemediationStatus()
    pauses = []
    for number in range(4):
        now = EPOCH + timedelta(seconds=number)
        ledger = ledgers.finish(ledgers.begin(ledger, intent(number), rules, ledger.restart_times), intent(number))
        assert ledger.backoff_until is not None
        pauses.append((ledger.backoff_until - now).total_seconds())
    assert pauses == [30.0, 60.0, 100.0, 100.0]


def test_restarts_leave_the_window() -> None:
    rules = policy(window=600.0, max_restarts=1)
    ledger = ledgers.begin(RemediationStatus(), intent(), rules, [])
    assert ledgers.budget_left(ledger, rules, EPOCH + timedelta(seconds=599)) == 0
    assert ledgers.budget_left(ledger, rules, EPOCH + timedelta(seconds=600)) == 1


def test_a_refunded_restart_does_not_count() -> None:
    rules = policy(max_restarts=1)
    ledger = ledgers.begin(RemediationStatus(), intent(), rules, [])
    refunded = ledgers.finish(ledger, intent(), refund=True)
    assert refunded.intents == []
    assert ledgers.budget_left(refunded, rules, EPOCH) == 1


def test_a_clock_that_jumps_back_does_not_block_restarts_forever() -> None:
    rules = policy(backoff_max=60.0, window=600.0)
    ahead = RemediationStatus(backoff_until=EPOCH + timedelta(days=1), restart_times=[EPOCH + timedelta(days=1)])
    assert ledgers.backoff_left(ahead, rules, EPOCH) <= 60.0
    assert ledgers.budget_left(ahead, rules, EPOCH) == 2


def test_history_keeps_the_last_twenty() -> None:
    world = World.of(1)
    ledger = world.ledger
    for number in range(30):
        entry: Any = {"time": EPOCH, "pod": f"p{number}", "action": "Unready"}
        ledger = ledgers.remember(ledger, [HistoryEntry(**entry)])
    assert [entry.pod for entry in ledger.history] == [f"p{number}" for number in range(10, 30)]


def test_the_patch_of_status_removes_what_is_no_longer_there() -> None:
    patch = remediation_patch(RemediationStatus(), "7")
    assert patch["metadata"] == {"resourceVersion": "7"}
    assert patch["status"]["remediation"]["backoffUntil"] is None
    assert patch["status"]["remediation"]["intents"] == []


# Decisions.


def test_two_polls_take_a_hung_pod_out() -> None:
    world = World.of(2)
    world["u0"].alerts = HUNG
    world.round()
    assert world.steps(CloseGate) == []
    world.round()
    assert [step.pod.uid for step in world.steps(CloseGate)] == ["u0"]  # type: ignore[union-attr]


def test_a_hung_pod_is_restarted_a_minute_after_it_was_taken_out() -> None:
    world = World.of(2)
    world["u0"].alerts, world["u0"].generates = HUNG, False
    world.rounds(200.0)
    taken = next(at for at, step in world.log if isinstance(step, CloseGate))
    begun = next(at for at, step in world.log if isinstance(step, BeginRestart))
    done = next(at for at, step in world.log if isinstance(step, ExecuteRestart))
    assert 60.0 <= begun - taken <= 62.0
    assert done - begun <= 2 * world.policy.poll


def test_a_busy_pod_is_drained_before_it_is_restarted() -> None:
    world = World.of(3, policy(drain=30.0))
    world["u0"].alerts, world["u0"].busy = frozenset({"HighErrorRate"}), 1
    world.rounds(125.0)
    begun = next(at for at, step in world.log if isinstance(step, BeginRestart))
    world.rounds(10.0)
    assert world.steps(ExecuteRestart) == []
    world.rounds(30.0)
    done = next(at for at, step in world.log if isinstance(step, ExecuteRestart))
    assert 28.0 <= done - begun <= 34.0


def test_an_idle_pod_is_not_waited_for() -> None:
    world = World.of(3, policy(drain=300.0))
    world["u0"].alerts = frozenset({"HighErrorRate"})
    world.rounds(140.0)
    assert len(world.steps(ExecuteRestart)) == 1


def test_a_pod_that_a_restart_in_place_does_not_help_is_evicted() -> None:
    world = World.of(2, policy(backoff_base=0.0))
    world["u0"].alerts, world["u0"].generates, world["u0"].cured_by_restart = HUNG, False, False
    history: list[HistoryEntry] = []
    for _ in range(300):
        for step in world.round().steps:
            if isinstance(step, BeginRestart):
                entry: Any = {"time": world.wall, "pod": "p0", "pod_uid": "u0", "action": step.intent.method}
                history.append(HistoryEntry(**entry))
                world.ledger = ledgers.remember(world.ledger, history[-1:])
        if len(history) == 2:
            break
    assert [entry.action for entry in history] == ["InPlace", "Evict"]


def test_broken_hardware_is_evicted_at_once() -> None:
    world = World.of(2)
    world["u0"].alerts = frozenset({"GPUUnhealthy"})
    world.rounds(80.0)
    begun = world.steps(BeginRestart)
    assert [step.intent.method for step in begun] == ["Evict"]  # type: ignore[union-attr]


def test_a_pod_taken_out_twice_in_ten_minutes_is_restarted_at_once() -> None:
    world = World.of(2)
    world["u0"].alerts = HUNG
    world.rounds(6.0)
    world["u0"].alerts = frozenset()
    world.rounds(50.0)
    assert world.gate("u0") == Gate.OPEN
    world["u0"].alerts, world["u0"].generates = HUNG, False
    world.rounds(10.0)
    assert len(world.steps(BeginRestart)) == 1


def test_without_peers_errors_never_restart() -> None:
    world = World.of(1, policy(min_ready=0))
    world["u0"].alerts = frozenset({"HighErrorRate"})
    world.rounds(400.0)
    assert world.steps(BeginRestart, CloseGate) == []


def test_a_pod_on_a_lost_node_is_left_alone() -> None:
    world = World.of(2, node_ready=False)
    world["u0"].alerts = HUNG
    world.rounds(200.0)
    assert world.steps(CloseGate, BeginRestart) == []


def test_a_closed_gate_without_evidence_opens_after_a_minute() -> None:
    world = World.of(2)
    world["u0"].alerts = HUNG
    world.rounds(6.0)
    world["u0"].silent = True
    world.rounds(50.0)
    assert world.gate("u0") == Gate.CLOSED
    world.rounds(14.0)
    assert world.gate("u0") == Gate.OPEN
    assert [step.reason for step in world.steps(OpenGate)] == ["NoEvidence"]  # type: ignore[union-attr]


def test_three_proofs_spread_over_recover_after() -> None:
    world = World.of(2, policy(recover_after=30.0))
    world["u0"].alerts = HUNG
    world.rounds(6.0)
    world["u0"].alerts = frozenset()
    world.rounds(60.0)
    asked = [at for at, step in world.log if isinstance(step, Prove)]
    assert len(asked) == 3
    assert asked[2] - asked[0] >= 30.0


def test_a_failed_proof_starts_over() -> None:
    world = World.of(2, policy(recover_after=10.0))
    world["u0"].alerts = HUNG
    world.rounds(6.0)
    world["u0"].alerts, world["u0"].generates = frozenset(), False
    world.rounds(40.0)
    assert world.gate("u0") == Gate.CLOSED
    world["u0"].generates = True
    world.rounds(20.0)
    assert world.gate("u0") == Gate.OPEN


def test_a_hung_pod_without_a_gate_is_restarted() -> None:
    world = World.of(2, gate=Gate.MISSING)
    world["u0"].alerts, world["u0"].generates = HUNG, False
    world.rounds(120.0)
    assert world.steps(CloseGate, OpenGate) == []
    assert world["u0"].pod.restarts == 1
    assert world.ledger.intents == []


def test_a_restart_that_times_out_frees_its_slot() -> None:
    world = World.of(2, policy(startup=100.0, drain=10.0))
    world.start_seconds = 10_000.0
    world["u0"].alerts, world["u0"].generates = HUNG, False
    world.rounds(250.0)
    assert [step.outcome for step in world.steps(FinishRestart)] == ["ReplacementPending"]  # type: ignore[union-attr]
    assert world.ledger.intents == []


def test_off_opens_gates_and_cancels_restarts() -> None:
    world = World.of(2)
    world["u0"].alerts, world["u0"].generates = HUNG, False
    world.rounds(70.0)
    assert world.ledger.intents
    world.policy = replace(world.policy, mode="Off")
    world.round()
    assert world.ledger.intents == []
    assert world.gate("u0") == Gate.OPEN


def die(world: World, uid: str) -> None:
    """The engine dies, the server exits and the kubelet restarts the container."""
    patient = world.patients[uid]
    world.change(uid, restarts=patient.pod.restarts + 1, exit_code=70)
    patient.down_until, patient.uptime = world.mono + 30.0, 0.0


def test_a_dead_engine_is_left_to_the_kubelet() -> None:
    world = World.of(2)
    world.round()
    for _ in range(2):
        die(world, "u0")
        world.rounds(10.0)
    assert len(world.steps(Died)) == 2
    assert world.steps(BeginRestart) == []
    world.rounds(60.0)
    assert world.memory.pods["u0"].deaths == 0


def test_a_pod_whose_engine_keeps_dying_is_evicted() -> None:
    world = World.of(2)
    world.round()
    for _ in range(3):
        die(world, "u0")
        world.rounds(10.0)
    assert [step.intent.method for step in world.steps(BeginRestart)] == ["Evict"]  # type: ignore[union-attr]
    assert "u0" not in world.patients


def test_a_container_that_exits_for_another_reason_is_left_to_the_kubelet() -> None:
    world = World.of(2)
    world.round()
    for _ in range(5):
        die(world, "u0")
        world.change("u0", exit_code=78)
        world.rounds(10.0)
    assert world.steps(BeginRestart, Died) == []


def test_saturation_is_reported_once_per_occurrence() -> None:
    world = World.of(1)
    world["u0"].alerts = frozenset({"QueueSaturated"})
    world.rounds(60.0)
    world["u0"].alerts = frozenset()
    world.rounds(310.0)
    world["u0"].alerts = frozenset({"QueueSaturated"})
    world.rounds(60.0)
    assert len(world.steps(Report)) == 2


def test_saturation_that_comes_and_goes_is_reported_every_five_minutes() -> None:
    world = World.of(1)
    for _ in range(60):
        world["u0"].alerts = frozenset({"QueueSaturated"})
        world.rounds(6.0)
        world["u0"].alerts = frozenset()
        world.rounds(4.0)
    assert len(world.steps(Report)) == 2  # in ten minutes


def test_a_pod_that_is_kept_in_rotation_is_not_reported_each_time_that_its_alert_returns() -> None:
    world = World.of(1)
    for _ in range(20):
        world["u0"].alerts = frozenset({"GPUUnhealthy"})
        world.rounds(6.0)
        world["u0"].alerts = frozenset()
        world.rounds(6.0)
    assert len(world.steps(Report)) == 1  # in four minutes


def test_a_closed_gate_is_remembered_by_the_pod_itself() -> None:
    closed = EPOCH - timedelta(seconds=50)
    world = World.of(2, gate=Gate.CLOSED, closed_for="EngineUnresponsive", closed_since=closed)
    world["u0"].alerts, world["u0"].generates = HUNG, False
    world.rounds(20.0)
    assert len(world.steps(BeginRestart)) == 1


def test_the_new_value_of_the_annotation_resets_the_budget_once() -> None:
    world = World.of(2, policy(max_restarts=1))
    world.ledger = ledgers.begin(RemediationStatus(), intent(), world.policy, []).model_copy(update={"intents": []})
    world.reset = "again"
    world.round()
    assert world.ledger.handled_reset == "again"
    assert ledgers.budget_left(world.ledger, world.policy, world.wall) == 1
    assert world.round().steps == ()


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
            gate("False", reason="EngineUnresponsive", lastTransitionTime="2026-01-01T00:00:00Z"),
        ],
        containerStatuses=[{"name": "sidecar", "restartCount": 9}, {"name": "server", "restartCount": 2}],
    )
    view = pod_view(obj, newest_hash="new")
    assert (view.ready, view.running, view.restarts, view.restart_id, view.newest) == (False, True, 2, "r1", True)
    assert (view.closed_for, view.closed_since) == ("EngineUnresponsive", EPOCH)
    assert pod_view(obj, newest_hash="old").newest is False


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


def test_every_alert_of_the_catalogue_has_a_class_that_remediation_knows() -> None:
    rules = policy_of(spec(alerts=[{"name": name, "threshold": 1} for name in NAMES])).alerts
    assert set(rules) == set(NAMES)


def test_a_lone_pod_that_fails_requests_and_then_hangs_is_restarted() -> None:
    world = World.of(1)
    world["u0"].alerts = frozenset({"HighErrorRate"})
    world.rounds(30)
    assert world.gate("u0") is Gate.OPEN  # nobody else is there to answer
    world["u0"].alerts = frozenset({"HighErrorRate", "EngineUnresponsive"})
    world.rounds(120)
    assert [step.intent.alert for _, step in world.log if isinstance(step, BeginRestart)] == ["EngineUnresponsive"]


def test_a_pod_that_is_out_for_errors_and_then_hangs_is_restarted_without_peers() -> None:
    world = World.of(2)
    world["u0"].alerts = frozenset({"HighErrorRate"})
    world.rounds(10)
    assert world.gate("u0") is Gate.CLOSED
    world["u0"].alerts = HUNG
    world["u1"].down_until = world.mono + 10_000
    world.rounds(90)
    assert [step.pod.uid for _, step in world.log if isinstance(step, BeginRestart)] == ["u0"]


@pytest.mark.parametrize("mode", ["Off", "DryRun"])
def test_a_triggered_restart_is_not_refunded_by_a_change_of_mode(mode: str) -> None:
    world = World.of(2)
    world.start_seconds = 1000.0
    world["u0"].alerts = HUNG
    while not world.steps(ExecuteRestart):
        world.round()
    world.policy = replace(world.policy, mode=mode)  # type: ignore[arg-type]
    world.round()
    (finished,) = world.steps(FinishRestart)
    assert isinstance(finished, FinishRestart)
    assert finished.outcome == "Unattended"
    assert len(world.ledger.restart_times) == 1


# Rules for a dead engine.


def dead_rule(**rule: Any) -> World:
    """A world whose spec has one rule for EngineDead."""
    remediation = {"rules": [{"alert": "EngineDead", **rule}]}
    world = World.of(2, policy_of(spec(engine={"device": "cuda"}, remediation=remediation)))
    world.round()
    return world


def test_a_dead_engine_is_reported_and_replaced_by_default() -> None:
    rule = policy_of(spec()).alerts["EngineDead"]
    assert (rule.unready_after, rule.restart_after, rule.report_after) == (None, 0.0, 0.0)


def test_no_action_for_a_dead_engine_leaves_it_to_the_kubelet_silently() -> None:
    world = dead_rule(action="None")
    for _ in range(5):
        die(world, "u0")
        world.rounds(10.0)
    assert world.steps(Died, BeginRestart) == []


def test_an_event_for_a_dead_engine_never_evicts() -> None:
    world = dead_rule(action="Event")
    for _ in range(5):
        die(world, "u0")
        world.rounds(10.0)
    assert len(world.steps(Died)) == 5
    assert world.steps(BeginRestart) == []


def test_for_delays_the_replacement_of_a_dying_pod() -> None:
    world = dead_rule(action="Restart", **{"for": "2m"})
    for _ in range(11):
        die(world, "u0")
        world.rounds(10.0)
    assert world.steps(BeginRestart) == []
    for _ in range(2):
        die(world, "u0")
        world.rounds(10.0)
    assert len(world.steps(BeginRestart)) == 1


def test_an_alert_that_is_off_has_no_consequence() -> None:
    world = World.of(2, policy_of(spec(alerts=[{"name": "EngineDead", "enabled": False}])))
    world.round()
    for _ in range(5):
        die(world, "u0")
        world.rounds(10.0)
    assert world.steps(Died, BeginRestart) == []


# Refused evictions.


def test_refused_evictions_share_one_entry_and_wait_longer_each_time() -> None:
    rules = policy(backoff_base=30.0, backoff_max=600.0)
    earlier: Any = {"time": EPOCH, "pod": "p9", "action": "Unready"}
    ledger = ledgers.remember(RemediationStatus(), [HistoryEntry(**earlier)])
    now, pauses = EPOCH, []
    for _ in range(8):
        tried = intent((now - EPOCH).total_seconds(), method="Evict")
        decided: Any = {"time": now, "pod": "p0", "pod_uid": "u0", "action": "Evict"}
        ledger = ledgers.remember(ledgers.begin(ledger, tried, rules, ledger.restart_times), [HistoryEntry(**decided)])
        refused: Any = {**decided, "time": now + timedelta(seconds=1), "action": "Blocked"}
        ledger = ledgers.blocked(ledger, tried, HistoryEntry(**refused), rules)
        assert ledger.backoff_until is not None
        pauses.append((ledger.backoff_until - now).total_seconds())
        now = ledger.backoff_until
    assert [(entry.pod, entry.action) for entry in ledger.history] == [("p9", "Unready"), ("p0", "Blocked")]
    assert ledger.history[-1].time == EPOCH  # since when
    assert pauses == [30.0, 30.0, 60.0, 120.0, 240.0, 480.0, 600.0, 600.0]
    assert ledger.restart_times == []

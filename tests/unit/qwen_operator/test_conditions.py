"""Conditions: Ready is true only while a pod serves, and every false one says what to do."""

from __future__ import annotations

import copy
from datetime import timedelta

import pytest

from qwen_operator.api import RemediationStatus
from qwen_operator.api.names import READINESS_GATE, selector_labels
from qwen_operator.planning.plan import PlanWarning
from qwen_operator.planning.plan_warnings import YOUNG_PODS
from qwen_operator.status.conditions import ApplyError, Observed, Suspension, evaluate
from tests.unit.qwen_operator.objects import (
    NOW,
    READY_POD,
    Object,
    crashed,
    deployment,
    gpu_service,
    pod,
    service,
)
from tests.unit.qwen_operator.statuses import LOADING, SERVES, T0, T1, at, condition, ready, status_of

STALLED: Object = {"conditions": [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]}


def test_a_service_that_serves_is_ready_complete_and_not_degraded() -> None:
    status = status_of(READY_POD)
    facts = {found.type: (found.status, found.reason) for found in status.conditions}
    assert facts == {
        "Ready": ("True", "Serving"),
        "Progressing": ("False", "Complete"),
        "Available": ("True", "MinimumReplicasAvailable"),
        "Degraded": ("False", "AsExpected"),
        "RemediationSuspended": ("False", "Active"),
        "HasWarnings": ("False", "None"),
    }
    assert (status.replicas, status.ready_replicas, status.reason) == (1, 1, "Serving")


def test_status_tells_clients_and_autoscalers_where_to_look() -> None:
    status = status_of(READY_POD, subject=gpu_service())
    assert status.url == "http://news.default.svc:8000"
    assert status.model == "qwen-news-classifier"
    assert status.selector == "app.kubernetes.io/name=qwen-server,qwen-vllm.io/service=news"
    assert status.observed_generation == 3
    assert status.gpus == 1


def test_a_missing_replacement_says_how_long_it_may_take() -> None:
    intent = {"podUID": "u", "pod": "news-7", "method": "Evict", "phase": "Waiting", "time": "2026-01-02T03:00:00Z"}
    subject = service(rollout={"startupTimeout": "20m"}, drain={"timeout": "1m"})
    memory = RemediationStatus.model_validate({"intents": [intent]})
    found = condition(status_of(READY_POD, subject=subject, remediation=memory), "Progressing")
    assert "news-7" in found.message
    assert "may take until 2026-01-02T03:21:00Z" in found.message


def test_a_child_that_is_fought_over_degrades_the_service_and_leaves_it_ready() -> None:
    error = ApplyError("Contested", "Deployment news was changed and was set back: ...", "Deployment")
    status = status_of(READY_POD, apply_errors=[error])
    assert condition(status, "Ready").status == "True"
    assert condition(status, "Degraded").reason == condition(status, "Progressing").reason == "Contested"


def test_a_pod_before_its_first_probe_is_not_degraded() -> None:
    status = status_of(pod(server={**SERVES, "ready": False}, containers=at("False", T0)))
    assert condition(status, "Degraded").status == "False"


def gated(since: str, *gates: str, name: str = "news-1", **status: Object) -> Object:
    """A pod that is ready since then but for its readiness gates."""
    found = pod(name, server=SERVES, containers=at("True", since), ready=at("False", T0), **status)
    return {**found, "spec": {"readinessGates": [{"conditionType": gate} for gate in gates]}}


def test_a_gate_that_stays_shut_degrades_the_service_after_five_minutes() -> None:
    """Nothing else would say it: outside of a rollout, a Deployment has no deadline."""
    soon, late = gated(T1, READINESS_GATE), gated(T0, READINESS_GATE)
    assert condition(status_of(soon), "Degraded").status == "False"
    found = condition(status_of(late), "Degraded")
    assert (found.status, found.reason) == ("True", "GatePending")
    assert "since 2026-01-02T02:59:00Z" in found.message
    assert condition(status_of(late), "Ready").message == found.message
    # A pod that only loads meanwhile does not hide it.
    assert condition(status_of(LOADING, late, replicas=2), "Degraded").reason == "GatePending"


def test_the_patience_with_a_gate_counts_from_when_it_was_shut() -> None:
    foreign = "target-health.example.org"
    for shut, degraded in ((T0, "True"), (T1, "False")):
        found = gated(T0, READINESS_GATE, foreign, gate=at("True", T0))
        found["status"]["conditions"].append({"type": foreign, **at("False", shut)})
        assert condition(status_of(found), "Degraded").status == degraded
        assert foreign in condition(status_of(found), "Ready").message


def test_a_pod_that_never_gets_its_images_degrades_the_service_when_its_start_is_over() -> None:
    """One that replaces a lost one belongs to no rollout, and the Deployment has no deadline."""
    waiting = pod(scheduled=at("True", T0))
    for minutes, degraded in (("5m", "True"), ("6m", "False")):
        status = status_of(waiting, subject=service(rollout={"startupTimeout": minutes}))
        assert condition(status, "Ready").reason == "Starting"
        assert condition(status, "Degraded").status == degraded
    status = status_of(waiting, subject=service(rollout={"startupTimeout": "5m"}))
    assert "since 2026-01-02T02:59:00Z, longer than rollout.startupTimeout" in condition(status, "Ready").message


def test_loading_is_progress_and_no_degradation() -> None:
    status = status_of(LOADING, deployment=deployment(availableReplicas=0))
    assert condition(status, "Progressing").status == "True"
    assert condition(status, "Degraded").status == "False"
    assert status.reason == "ModelLoading"


def test_failed_update_keeps_ready_and_degrades() -> None:
    status = status_of(READY_POD, pod("news-2", server=crashed(78, "bad")), deployment=deployment(updatedReplicas=0))
    assert condition(status, "Ready").status == "True"
    assert condition(status, "Degraded").reason == "ModelLoadFailed"
    assert condition(status, "Progressing").status == "True"
    assert status.reason == "ModelLoadFailed"


def test_stalled_rollout_has_stopped_progressing_with_its_cause() -> None:
    status = status_of(READY_POD, pod("news-2", server=crashed(78, "bad config")), deployment=deployment(**STALLED))
    progressing = condition(status, "Progressing")
    assert (progressing.status, progressing.reason) == ("False", "RolloutStalled")
    assert "bad config" in progressing.message


def test_stalled_rollout_degrades_even_without_a_failing_pod() -> None:
    status = status_of(READY_POD, LOADING, deployment=deployment(**STALLED))
    assert condition(status, "Degraded").reason == "RolloutStalled"


def test_refused_pod_template_is_named_while_old_pods_serve() -> None:
    status = status_of(
        READY_POD, apply_errors=[ApplyError("InvalidPodTemplate", "spec.containers[1].image: Required", "Deployment")]
    )
    assert condition(status, "Ready").status == "True"
    assert condition(status, "Progressing").reason == "InvalidPodTemplate"
    assert "Required" in condition(status, "Degraded").message


def test_refused_pod_template_is_why_nothing_is_ready() -> None:
    error = ApplyError("InvalidPodTemplate", "spec.containers[1].image: Required", "Deployment")
    assert ready(deployment=None, apply_errors=[error]).reason == "InvalidPodTemplate"


TAKEN = ApplyError("NameTaken", "Service news exists and belongs to something else. Rename one of the two.", "Service")


def test_pods_behind_a_service_of_somebody_else_do_not_make_it_ready() -> None:
    status = status_of(READY_POD, selector=None, apply_errors=[TAKEN])
    found = condition(status, "Ready")
    assert (found.status, found.reason) == ("False", "NameTaken")
    assert "Service news exists" in found.message
    assert status.ready_replicas == 0
    assert status.reason == "NameTaken"
    assert condition(status, "Degraded").reason == "NameTaken"


def test_pods_of_a_deployment_of_somebody_else_do_not_make_it_ready() -> None:
    taken = ApplyError("NameTaken", "Deployment news exists and belongs to something else.", "Deployment")
    found = ready(READY_POD, deployment=None, apply_errors=[taken])
    assert (found.status, found.reason) == ("False", "NameTaken")


def test_pods_that_the_service_does_not_select_are_not_counted() -> None:
    other = copy.deepcopy(READY_POD)
    other["metadata"]["labels"]["app.kubernetes.io/name"] = "debugging"
    assert status_of(READY_POD, other).ready_replicas == 1
    found = ready(other)
    assert (found.status, found.reason) == ("False", "NotSelected")
    assert "news-1" in found.message


def test_an_error_of_a_child_that_serves_nobody_leaves_the_reason_of_the_pods() -> None:
    error = ApplyError("ApplyFailed", "NetworkPolicy news: forbidden", "NetworkPolicy")
    status = status_of(LOADING, apply_errors=[error])
    assert condition(status, "Ready").reason == "ModelLoading"
    assert condition(status, "Degraded").message == "NetworkPolicy news: forbidden"


def test_all_children_that_could_not_be_applied_are_named_the_service_first() -> None:
    budget = ApplyError("ApplyFailed", "PodDisruptionBudget news: refused.", "PodDisruptionBudget")
    found = condition(status_of(READY_POD, apply_errors=[budget, TAKEN]), "Degraded")
    assert found.reason == "NameTaken"
    assert "Service news exists" in found.message
    assert "PodDisruptionBudget news" in found.message


def test_pods_that_may_not_be_created_are_reported() -> None:
    refused = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"}
    status = status_of(deployment=deployment(availableReplicas=0, conditions=[refused]))
    assert condition(status, "Ready").reason == "PodsRefused"
    assert "exceeded quota" in condition(status, "Degraded").message


def test_scaled_to_zero_is_not_ready_and_not_degraded() -> None:
    status = status_of(replicas=0)
    assert condition(status, "Ready").reason == status.reason == "ScaledToZero"
    assert condition(status, "Degraded").status == "False"


@pytest.mark.parametrize("reason", ["InvalidPodTemplate", "ApplyFailed", "NameTaken"])
def test_scaled_to_zero_hides_no_fault(reason: str) -> None:
    status = status_of(replicas=0, deployment=None, apply_errors=[ApplyError(reason, "refused", "Deployment")])
    assert condition(status, "Ready").reason == "ScaledToZero"
    assert status.reason == condition(status, "Degraded").reason == reason


def test_while_pods_are_replaced_no_more_replicas_serve_than_there_are() -> None:
    others = [{**READY_POD, "metadata": {**READY_POD["metadata"], "uid": uid}} for uid in ("a", "b")]
    assert ready(READY_POD).message.startswith("1 of 1 replicas serve at http")
    assert ready(READY_POD, *others[:1]).message.startswith("1 of 1 replicas and 1 more pod serve at http")
    assert ready(READY_POD, *others).message.startswith("1 of 1 replicas and 2 more pods serve at http")


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ({}, "AvailabilityPending"),
        ({"updatedReplicas": 0}, "RollingOut"),
        ({"replicas": 2}, "RollingOut"),
        ({"observedGeneration": 0}, "RollingOut"),
    ],
    ids=["young", "to be replaced", "to be removed", "not seen"],
)
def test_pods_that_are_only_young_are_no_rollout(counts: Object, reason: str) -> None:
    status = status_of(READY_POD, deployment=deployment(availableReplicas=0, **counts))
    found = condition(status, "Progressing")
    assert (found.status, found.reason, status.reason) == ("True", reason, reason)


def test_pods_that_are_being_deleted_do_not_count() -> None:
    leaving = pod("news-9", ready=True)
    leaving["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:05Z"
    evicted = pod("news-8", ready=False, phase="Failed")
    status = status_of(leaving, evicted)
    assert (status.replicas, status.ready_replicas) == (0, 0)
    assert condition(status, "Ready").reason == "Starting"


def test_available_waits_for_min_ready_seconds() -> None:
    waiting = deployment(availableReplicas=0, conditions=[{"type": "Available", "status": "False"}])
    status = status_of(READY_POD, deployment=waiting)
    assert condition(status, "Ready").status == "True"
    assert condition(status, "Available").status == "False"
    assert condition(status, "Progressing").status == "True"


def test_warnings_have_a_condition_of_their_own() -> None:
    warnings = [PlanWarning("RolloutMeansDowntime", "one replica."), PlanWarning("GPUsIdle", "two of four.")]
    status = status_of(READY_POD, warnings=warnings)
    found = condition(status, "HasWarnings")
    assert (found.status, found.reason) == ("True", "RolloutMeansDowntime")
    assert "GPUsIdle: two of four." in found.message
    assert condition(status, "Degraded").status == "False"


def test_pods_that_have_not_been_ready_for_long_enough_are_not_available() -> None:
    unavailable = deployment(2, conditions=[{"type": "Available", "status": "False"}])
    status = status_of(READY_POD, replicas=2, deployment=unavailable)
    assert condition(status, "Ready").status == "True"
    found = condition(status, "Available")
    assert (found.status, found.reason) == ("False", "MinimumReplicasUnavailable")


def test_pending_update_is_seen_where_one_looks_for_rollouts() -> None:
    status = status_of(READY_POD, warnings=[PlanWarning("UpdatePending", "operator 2 would change the pods")])
    assert condition(status, "Progressing").reason == "UpdatePending"


def test_a_change_that_waits_for_young_pods_is_seen_before_what_is_wrong_with_the_update_before_it() -> None:
    found = deployment(updatedReplicas=0, availableReplicas=0)
    status = status_of(READY_POD, deployment=found, warnings=[YOUNG_PODS])
    assert condition(status, "Progressing").reason == "UpdatePending"
    assert condition(status, "Progressing").status == "True"


def test_suspended_remediation_degrades() -> None:
    status = status_of(READY_POD, suspended=Suspension("BudgetExhausted", "3 restarts in 1h"))
    assert condition(status, "RemediationSuspended").status == "True"
    assert condition(status, "Degraded").reason == "BudgetExhausted"
    assert condition(status, "Ready").status == "True"


def test_missing_replacement_is_progress() -> None:
    intent = {"podUID": "u", "pod": "news-7", "method": "Evict", "phase": "Waiting", "time": "2026-01-02T03:00:00Z"}
    memory = RemediationStatus.model_validate({"intents": [intent]})
    status = status_of(READY_POD, remediation=memory)
    assert condition(status, "Progressing").reason == "ReplacementPending"
    assert status.remediation == memory


def test_what_remediation_remembers_is_kept() -> None:
    subject = service(status={"remediation": {"restartsInWindow": 2}})
    assert status_of(READY_POD, subject=subject).remediation.restarts_in_window == 2


def test_transition_time_stays_while_the_status_stays() -> None:
    before = status_of(READY_POD)
    subject = service(status=before.to_dict())
    later = evaluate(subject, Observed(deployment(), [LOADING], selector_labels("news")), NOW + timedelta(hours=1))
    assert condition(later, "Degraded").last_transition_time == NOW
    assert condition(later, "Ready").last_transition_time == NOW + timedelta(hours=1)


def test_an_unchanged_world_gives_an_unchanged_status() -> None:
    before = status_of(LOADING).to_dict()
    again = evaluate(
        service(status=before), Observed(deployment(), [LOADING], selector_labels("news")), NOW + timedelta(minutes=7)
    )
    assert again.to_dict() == before


def test_pods_without_the_port_of_the_service_get_no_requests() -> None:
    renamed = copy.deepcopy(READY_POD)
    renamed["spec"] = {"containers": [{"name": "server", "ports": [{"containerPort": 8000, "name": "api"}]}]}
    found = ready(renamed, port="http")
    assert (found.status, found.reason) == ("False", "PortMissing")
    assert "news-1 has the port http" in found.message
    renamed["spec"]["containers"].append({"name": "proxy", "ports": [{"containerPort": 8000, "name": "http"}]})
    assert ready(renamed, port="http").status == "True"
    sidecar = {"name": "proxy", "restartPolicy": "Always", "ports": [{"containerPort": 8000, "name": "http"}]}
    renamed["spec"] = {"containers": [{"name": "server"}], "initContainers": [sidecar]}
    assert ready(renamed, port="http").status == "True"

"""Planning: which objects must exist, which must not, and the warnings."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest

from qwen_operator.api import QwenService
from qwen_operator.planning.plan import Reference
from qwen_operator.planning.replicas import replicas_left_out
from tests.unit.qwen_operator.objects import UID, Object, child, gpu_service, live, planned, service, serving

ROLLED_OUT = [{"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}]
OLD_IMAGES = {"cpu": "registry/server:old", "cuda": "registry/server:old"}


def reasons(subject: Any, **changes: Any) -> list[str]:
    return [warning.reason for warning in planned(subject, **changes).warnings]


def budget(selector: Any, owner: str = "somebody") -> Object:
    return {"metadata": {"name": "mine", "ownerReferences": [{"uid": owner}]}, "spec": {"selector": selector}}


def image(obj: Object) -> str:
    return str(obj["spec"]["template"]["spec"]["containers"][0]["image"])


def test_plain_service_needs_four_objects_and_no_warning() -> None:
    found = planned(service())
    assert [obj["kind"] for obj in found.children] == ["ConfigMap", "Service", "Deployment", "PodDisruptionBudget"]
    assert list(found.warnings) == []


def test_config_exists_before_the_pods_that_mount_it() -> None:
    found = [obj["kind"] for obj in planned(service(cache={"size": "1Gi"})).children]
    assert found.index("Deployment") > max(found.index("ConfigMap"), found.index("PersistentVolumeClaim"))


def test_what_is_not_asked_for_is_removed_where_its_api_exists() -> None:
    assert Reference("networking.k8s.io/v1", "NetworkPolicy", "news") in planned(service()).removed
    assert "ServiceMonitor" not in {reference.kind for reference in planned(service()).removed}
    off = service(monitoring={"serviceMonitor": "Disabled"})
    assert "ServiceMonitor" in {reference.kind for reference in planned(off, has_service_monitor=True).removed}


def test_nothing_is_both_wanted_and_removed() -> None:
    found = planned(service(networkPolicy={"enabled": True}, autoscaling={"maxReplicas": 2}), has_service_monitor=True)
    wanted = {(obj["kind"], obj["metadata"]["name"]) for obj in found.children}
    assert not wanted & {(reference.kind, reference.name) for reference in found.removed}


def test_claim_is_never_removed() -> None:
    assert "PersistentVolumeClaim" not in {reference.kind for reference in planned(service()).removed}


@pytest.mark.parametrize(
    ("selector", "ours"),
    [
        ({"matchLabels": {"qwen-vllm.io/service": "news"}}, False),
        ({"matchLabels": {"team": "news"}}, False),
        ({"matchExpressions": [{"key": "team", "operator": "Exists"}]}, False),
        ({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["sports"]}]}, False),
        ({}, False),
        (None, True),
        ({"matchLabels": {"team": "sports"}}, True),
        ({"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}, True),
        ({"matchExpressions": [{"key": "team", "operator": "In", "values": ["sports"]}]}, True),
    ],
)
def test_budget_gives_way_to_one_of_the_users(selector: Any, ours: bool) -> None:
    subject = service(podTemplate={"metadata": {"labels": {"team": "news"}}})
    found = planned(subject, budgets=[budget(selector)])
    assert ("PodDisruptionBudget" in {obj["kind"] for obj in found.children}) is ours
    assert ("PodDisruptionBudget" in {reference.kind for reference in found.removed}) is not ours


def test_own_budget_does_not_count_as_the_users() -> None:
    own = budget({"matchLabels": {"qwen-vllm.io/service": "news"}}, owner=UID)
    assert child(service(), "PodDisruptionBudget", budgets=[own])


def test_single_gpu_replica_gets_a_warning_about_downtime() -> None:
    assert reasons(gpu_service()) == ["RolloutMeansDowntime"]
    assert reasons(gpu_service(replicas=2)) == []
    assert reasons(gpu_service(rollout={"maxSurge": 1})) == []
    assert reasons(gpu_service(replicas=2, rollout={"maxUnavailable": "100%"})) == ["RolloutMeansDowntime"]
    assert reasons(gpu_service(replicas=2, rollout={"maxSurge": 0, "maxUnavailable": "10%"})) == []


def test_scaled_to_zero_means_no_downtime() -> None:
    assert reasons(gpu_service(replicas=0)) == []


def test_unshared_cache_of_several_replicas_is_reported() -> None:
    assert reasons(service(cache={"size": "1Gi"}, replicas=2)) == ["CacheNotShared"]
    assert reasons(service(cache={"size": "1Gi"}, autoscaling={"maxReplicas": 2})) == ["CacheNotShared"]
    assert reasons(gpu_service(cache={"size": "1Gi"})) == ["RolloutMeansDowntime"]
    assert reasons(service(cache={"size": "1Gi", "accessModes": ["ReadWriteMany"]}, replicas=2)) == []


def test_rollout_with_a_surge_needs_a_shared_cache() -> None:
    (warning,) = planned(service(cache={"size": "1Gi"})).warnings
    assert warning.reason == "CacheNotShared"
    assert "rollout.maxSurge to 0" in warning.message


def test_missing_default_image_is_reported() -> None:
    assert reasons(service(), server_images={}) == ["ImageMissing"]
    assert reasons(service(engine={"image": "mine:1"}), server_images={}) == []


def test_existing_claim_is_judged_by_its_own_access_modes() -> None:
    subject = service(cache={"existingClaim": "mine"}, replicas=2)
    claim = {"spec": {"accessModes": ["ReadWriteOnce"]}}
    assert reasons(subject, claims={"mine": claim}) == ["CacheNotShared"]
    assert reasons(subject) == []


TO_ZERO = {
    "minReplicas": 0,
    "maxReplicas": 2,
    "scaler": "KEDA",
    "prometheusAddress": "http://prometheus:9090",
    "activationQuery": "sum(gateway_requests)",
}


@pytest.mark.parametrize(
    ("spec", "running", "expected"),
    [
        ({}, None, 1),
        ({}, 5, 5),
        ({}, 0, 0),
        ({"replicas": 3}, 5, None),
        ({"autoscaling": {"minReplicas": 2, "maxReplicas": 8}}, None, 2),
        ({"autoscaling": {"minReplicas": 2, "maxReplicas": 8}}, 5, 5),
        ({"autoscaling": {"minReplicas": 2, "maxReplicas": 8}}, 1, 2),
        ({"autoscaling": {"minReplicas": 2, "maxReplicas": 8}}, 9, 8),
        ({"autoscaling": TO_ZERO}, None, 0),
        ({"autoscaling": TO_ZERO}, 0, 0),
        ({"autoscaling": TO_ZERO}, 3, 2),
    ],
)
def test_replicas_that_are_left_out_stay_what_they_are(spec: Object, running: int | None, expected: int | None) -> None:
    deployment = None if running is None else {"spec": {"replicas": running}}
    assert replicas_left_out(service(**spec), deployment) == expected


def test_minimum_above_the_replicas_is_reported() -> None:
    minimum = {"minReadyReplicas": 3}
    assert reasons(service(remediation=minimum, replicas=2)) == ["MinReadyAboveReplicas"]
    assert reasons(service(remediation=minimum, replicas=3)) == []
    assert reasons(service(remediation=minimum, replicas=0)) == []
    assert reasons(service(remediation=minimum, autoscaling={"maxReplicas": 3})) == []


def test_idle_gpus_are_reported() -> None:
    reported = reasons(gpu_service(gpu={"count": 4}, engine={"tensorParallelSize": 2}, replicas=2))
    assert reported == ["GPUsIdle"]
    assert reasons(gpu_service(gpu={"count": 2}, engine={"tensorParallelSize": 2}, replicas=2)) == []


def test_missing_apis_are_reported_if_the_spec_needs_them() -> None:
    assert reasons(service(monitoring={"serviceMonitor": "Enabled"})) == ["MonitoringUnavailable"]
    assert reasons(service(route={"parentRefs": [{"name": "gateway"}]})) == ["RouteUnavailable"]


class TestYoungPods:
    """One more change while a rollout goes on, and pods that answer are not available yet."""

    changed = service(replicas=1, limits={"maxQueueSize": 12})

    def image_of(self, wish: QwenService, deployment: Object, **facts: Any) -> tuple[str, bool]:
        found = planned(wish, live_deployment=deployment, **facts)
        (made,) = [obj for obj in found.children if obj["kind"] == "Deployment"]
        return image(made), found.waits_for_young_pods

    def stuck(self, **status: int) -> Object:
        """A rollout of a wrong image beside a pod that has just become ready."""
        deployment = live(child(service(replicas=1, engine={"image": "wrong"}), "Deployment"))
        counts = {"replicas": 2, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 0}
        return {**deployment, "status": {**counts, **status}}

    def test_a_change_waits(self) -> None:
        assert self.image_of(self.changed, self.stuck()) == ("wrong", True)
        assert "UpdatePending" in reasons(self.changed, live_deployment=self.stuck())

    def test_it_does_not_wait_for_ever(self) -> None:
        assert self.image_of(self.changed, self.stuck(), waited_seconds=64.0)[1]
        assert not self.image_of(self.changed, self.stuck(), waited_seconds=65.0)[1]

    @pytest.mark.parametrize(
        "status",
        [
            {"availableReplicas": 1},  # the pod counts as available
            {"readyReplicas": 0},  # no pod answers
            {"replicas": 1},  # the first change since the last rollout
        ],
    )
    def test_a_change_that_costs_no_answer_does_not_wait(self, status: dict[str, int]) -> None:
        assert not self.image_of(self.changed, self.stuck(**status))[1]

    def test_enough_other_pods_are_available(self) -> None:
        three = {"replicas": 4, "updatedReplicas": 1, "readyReplicas": 3, "availableReplicas": 2}
        found = {**live(child(service(replicas=3, engine={"image": "wrong"}), "Deployment")), "status": three}
        assert self.image_of(service(replicas=3), found)[1]
        spread = {"maxUnavailable": 1, "maxSurge": 1}
        found = {
            **live(child(service(replicas=3, engine={"image": "wrong"}, rollout=spread), "Deployment")),
            "status": three,
        }
        assert not self.image_of(service(replicas=3, rollout=spread), found)[1]

    def test_the_same_template_does_not_wait(self) -> None:
        assert not self.image_of(service(replicas=1, engine={"image": "wrong"}), self.stuck())[1]


class TestOperatorUpgrade:
    """A pod template that only the operator's version or its default images would change."""

    before = serving(child(gpu_service(), "Deployment", operator_version="0.9.0", server_images=OLD_IMAGES))

    def test_is_deferred_with_a_warning(self) -> None:
        found = planned(gpu_service(), live_deployment=self.before)
        (deployment,) = [obj for obj in found.children if obj["kind"] == "Deployment"]
        assert image(deployment) == "registry/server:old"
        assert deployment["metadata"]["annotations"] == self.before["metadata"]["annotations"]
        assert "UpdatePending" in [warning.reason for warning in found.warnings]

    def test_stays_deferred_in_the_next_reconciliation(self) -> None:
        once = serving(child(gpu_service(), "Deployment", live_deployment=self.before))
        assert "UpdatePending" in reasons(gpu_service(), live_deployment=once)

    def test_does_not_hold_back_replicas(self) -> None:
        found = child(gpu_service(replicas=3), "Deployment", live_deployment=self.before)
        assert found["spec"]["replicas"] == 3
        assert image(found) == "registry/server:old"

    def test_is_rolled_out_with_the_next_change_of_the_spec(self) -> None:
        found = child(gpu_service(engine={"maxModelLen": 200}), "Deployment", live_deployment=self.before)
        assert image(found) == "registry/server:cuda"

    def test_is_applied_when_asked_for(self) -> None:
        found = child(gpu_service(rollout={"onOperatorUpgrade": "Apply"}), "Deployment", live_deployment=self.before)
        assert image(found) == "registry/server:cuda"

    def test_is_silent_without_effect_on_the_pods(self) -> None:
        same = live(child(gpu_service(), "Deployment", operator_version="0.9.0"))
        assert "UpdatePending" not in reasons(gpu_service(), live_deployment=same)

    def test_a_new_default_image_alone_is_deferred_too(self) -> None:
        before = serving(child(gpu_service(), "Deployment", server_images=OLD_IMAGES))
        assert image(child(gpu_service(), "Deployment", live_deployment=before)) == "registry/server:old"

    def test_is_applied_where_no_pod_serves(self) -> None:
        before = live(child(gpu_service(), "Deployment", server_images=OLD_IMAGES))
        for seconds, expected in ((5.0, "old"), (61.0, "cuda"), (math.inf, "cuda")):
            found = child(gpu_service(), "Deployment", live_deployment=before, unready_seconds=seconds)
            assert image(found) == f"registry/server:{expected}"

    def test_drift_of_the_same_version_is_repaired(self) -> None:
        drifted = live(child(gpu_service(), "Deployment"))
        drifted["spec"]["template"]["spec"]["containers"][0]["image"] = "intruder"
        assert image(child(gpu_service(), "Deployment", live_deployment=drifted)) == "registry/server:cuda"

    def test_does_not_take_over_what_somebody_changed_meanwhile(self) -> None:
        drifted = copy.deepcopy(self.before)
        drifted["spec"]["template"]["spec"]["containers"][0]["image"] = "intruder"
        found = planned(gpu_service(), live_deployment=drifted)
        (deployment,) = [obj for obj in found.children if obj["kind"] == "Deployment"]
        assert image(deployment) == "registry/server:old"
        assert "UpdatePending" in [warning.reason for warning in found.warnings]

    def test_applies_the_same_template_as_before_without_the_api_servers_defaults(self) -> None:
        before = child(gpu_service(), "Deployment", operator_version="0.9.0", server_images=OLD_IMAGES)
        kept = child(gpu_service(), "Deployment", live_deployment=serving(before))
        assert kept["spec"]["template"] == before["spec"]["template"]

    @pytest.mark.parametrize("recorded", [None, "", "no base64!", "bm8gemxpYg=="])
    def test_keeps_the_live_template_where_none_was_recorded(self, recorded: str | None) -> None:
        before = copy.deepcopy(self.before)
        before["metadata"]["annotations"]["qwen-vllm.io/applied-template"] = recorded
        if recorded is None:
            del before["metadata"]["annotations"]["qwen-vllm.io/applied-template"]
        once = child(gpu_service(), "Deployment", live_deployment=before)
        assert image(once) == "registry/server:old"
        drifted = serving(once)
        drifted["spec"]["template"]["spec"]["containers"][0]["image"] = "intruder"
        assert image(child(gpu_service(), "Deployment", live_deployment=drifted)) == "registry/server:old"

    @pytest.mark.parametrize("seconds", [None, 3.0, 600.0])
    def test_a_blip_of_readiness_is_no_reason_to_roll_out(self, seconds: float | None) -> None:
        blip = {**self.before, "status": {"replicas": 1, "conditions": ROLLED_OUT}}
        found = child(gpu_service(), "Deployment", live_deployment=blip, unready_seconds=seconds)
        assert image(found) == "registry/server:old"

    def test_is_applied_where_no_pod_has_served_for_as_long_as_a_start_may_take(self) -> None:
        dead = {**self.before, "status": {"replicas": 1, "conditions": ROLLED_OUT}}
        found = child(gpu_service(), "Deployment", live_deployment=dead, unready_seconds=2000.0)
        assert image(found) == "registry/server:cuda"

    def test_is_applied_to_a_service_that_is_scaled_to_zero(self) -> None:
        subject = gpu_service(replicas=0)
        before = live(child(subject, "Deployment", server_images=OLD_IMAGES))
        before["status"] = {"conditions": ROLLED_OUT}
        assert image(child(subject, "Deployment", live_deployment=before)) == "registry/server:cuda"

"""Pods without a container: what their Events say, and those that were rejected or evicted."""

from __future__ import annotations

from typing import Any

import pytest

from qwen_operator.status.diagnosis import diagnose, is_held_up
from tests.unit.qwen_operator.objects import READY_POD, Object, crashed, pod
from tests.unit.qwen_operator.statuses import LOADING, T0, T1, T2, condition, ready, status_of


def event(reason: str, message: str, time: str = T1, **fields: Any) -> Object:
    return {"reason": reason, "message": message, "lastTimestamp": time, **fields}


NO_SECRET = event("FailedMount", 'MountVolume.SetUp failed for volume "hf" : secret "hf" not found')


@pytest.mark.parametrize(
    ("events", "reason", "text"),
    [
        ([NO_SECRET], "ContainerConfigError", 'secret "hf" not found'),
        ([event("FailedMount", 'configmap "news-alerts" not found')], "ContainerConfigError", "news-alerts"),
        ([event("FailedMount", 'configmap "company-ca" not found')], "ContainerConfigError", "company-ca"),
        (
            [event("FailedMount", "configmap references non-existent config key: ca.pem")],
            "ContainerConfigError",
            "ca.pem",
        ),
        (
            [event("FailedMount", 'references non-existent secret key: "token"')],
            "ContainerConfigError",
            '"token"',
        ),
        ([event("FailedMount", "mount failed: exit status 32")], "VolumeNotMounted", "exit status 32"),
        ([event("FailedAttachVolume", "Multi-Attach error")], "VolumeNotMounted", "Multi-Attach"),
        ([event("FailedCreatePodSandBox", "cni plugin not initialized")], "SandboxFailed", "cni plugin"),
        ([NO_SECRET, event("Pulling", 'Pulling image "server:1"', T2)], "Starting", 'Pulling image "server:1"'),
        ([event("Pulled", "already present", T2), NO_SECRET], "Starting", "images"),
        ([event("Pulled", "already present", T0), NO_SECRET], "ContainerConfigError", '"hf"'),
        ([event("Scheduled", "assigned"), {"reason": "FailedMount", "eventTime": T1}], "VolumeNotMounted", "Mount"),
        ([], "Starting", "images and volumes"),
    ],
)
def test_events_say_why_a_pod_is_held_up(events: list[Object], reason: str, text: str) -> None:
    waiting = pod(scheduled=True, server={"state": {"waiting": {"reason": "ContainerCreating"}}})
    assert is_held_up(waiting)
    found = ready(waiting, events={"uid-news-1": events})
    assert found.reason == reason
    assert text in found.message


def test_a_pod_whose_claim_cannot_be_made_is_held_up_before_it_has_a_node() -> None:
    claimed = {**pod(), "spec": {"resourceClaims": [{"name": "gpu"}]}}
    refused = event("FailedResourceClaimCreation", 'PodResourceClaim gpu: resourceclaimtemplate "one-gpu" not found')
    assert is_held_up(claimed)
    found = diagnose(claimed, [refused])
    assert found is not None
    assert found.reason == "ResourceClaimMissing"
    assert "one-gpu" in found.detail
    assert not is_held_up(pod())
    assert not is_held_up({**pod(scheduled=False), "spec": claimed["spec"]})


def test_only_a_pod_that_has_a_node_and_no_container_is_held_up() -> None:
    assert not is_held_up(pod(scheduled=False))
    assert not is_held_up(LOADING)
    assert not is_held_up(pod(scheduled=True, server=crashed(1) | {"state": {"terminated": {"exitCode": 1}}}))
    assert is_held_up(pod(scheduled=True))


def failed(reason: str, message: str, time: str = "2026-01-02T03:03:00Z") -> Object:
    return pod("news-0", phase="Failed", reason=reason, message=message, startTime=time)


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (failed("UnexpectedAdmissionError", "Allocate failed due to no healthy devices"), "PodRejected"),
        (failed("OutOfcpu", "Node didn't have enough resource: cpu"), "PodRejected"),
        (failed("Evicted", "The node was low on resource: memory."), "Evicted"),
    ],
)
def test_a_rejected_or_evicted_pod_is_reported_until_the_next_one_runs(last: Object, reason: str) -> None:
    waiting = pod(scheduled=True)
    for pods in ([last], [last, waiting]):
        status = status_of(*pods)
        found = condition(status, "Ready")
        assert found.reason == reason
        assert last["status"]["message"] in found.message
        assert condition(status, "Degraded").reason == reason
    assert ready(last, LOADING).reason == "ModelLoading"
    assert ready(last, READY_POD).status == "True"
    assert condition(status_of(last, READY_POD), "Degraded").status == "False"


def test_a_pod_that_failed_long_ago_explains_nothing() -> None:
    old = failed("Evicted", "disk", "2026-01-01T00:00:00Z")
    assert ready(old, pod()).reason == "Starting"
    assert ready(failed("UnexpectedAdmissionError", "now"), old).reason == "PodRejected"

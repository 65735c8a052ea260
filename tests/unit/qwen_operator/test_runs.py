"""Who has ended a container: a startup probe, a request, or something that does it again and again.

The times are those of a pod whose startup probe allows ten minutes.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest

from qwen_operator.kube.projection import keeper
from qwen_operator.kube.resources import PODS
from qwen_operator.status.diagnosis import FAILURES, diagnose
from tests.unit.qwen_operator.objects import Object, container, deployment, pod, service
from tests.unit.qwen_operator.statuses import condition, status_of

STARTED, NEVER_READY, READY_BEFORE, SERVED = (
    "2026-01-02T02:00:00Z",
    "2026-01-02T01:59:50Z",
    "2026-01-01T09:00:00Z",
    "2026-01-02T02:09:00Z",
)
SERVER = container(service(rollout={"startupTimeout": "10m"}))
GRACE = 90


def ended(
    finished: str, code: int = 0, *, unready: str = NEVER_READY, state: Object | None = None, **last: Any
) -> Object:
    """A pod whose server has ended, and runs again unless `state` says something else."""
    run = {"exitCode": code, "reason": "Completed", "startedAt": STARTED, "finishedAt": finished, **last}
    server = {
        "ready": False,
        "started": False,
        "restartCount": 1,
        "state": state or {"running": {"startedAt": finished}},
        "lastState": {"terminated": run},
    }
    found = pod(server=server, containers={"status": "False", "lastTransitionTime": unready})
    found["spec"] = {"terminationGracePeriodSeconds": GRACE, "containers": [copy.deepcopy(SERVER)]}
    return found


def reason(found: Object) -> str:
    problem = diagnose(found)
    assert problem is not None
    return problem.reason


@pytest.mark.parametrize(
    ("finished", "code"),
    [
        ("2026-01-02T02:09:58Z", 0),  # the first probe came at once
        ("2026-01-02T02:10:05Z", 0),
        ("2026-01-02T02:10:05Z", 143),  # it was not yet able to end in order
        ("2026-01-02T02:11:37Z", 137),  # it did not end within the grace period
    ],
)
def test_a_container_that_a_startup_probe_has_ended_is_reported(finished: str, code: int) -> None:
    problem = diagnose(ended(finished, code))
    assert problem is not None
    assert problem.reason == "StartupTimeout"
    assert "container server was ended by the kubelet because it had not started within 600 s" in problem.detail
    assert "restarts: 1" in problem.detail
    assert "rollout.startupTimeout" in problem.remedy


def test_it_is_also_reported_after_a_time_of_service_and_in_a_back_off() -> None:
    finished, message = "2026-01-02T02:10:05Z", "back-off 20s restarting failed container"
    assert reason(ended(finished, unready=READY_BEFORE)) == "StartupTimeout"
    looping = ended(finished, state={"waiting": {"reason": "CrashLoopBackOff", "message": message}})
    problem = diagnose(looping)
    assert problem is not None
    assert problem.reason == "StartupTimeout"
    assert "back-off 20s until 2026-01-02T02:10:25Z" in problem.detail


@pytest.mark.parametrize(
    "found",
    [
        ended("2026-01-02T02:09:50Z"),  # earlier than the probe
        ended("2026-01-02T02:12:00Z"),  # later than the probe and the grace period
        ended("2026-01-02T02:10:05Z", unready=SERVED),
        ended("2026-01-02T02:10:05Z", unready=""),
        ended("2026-01-02T02:10:05Z", startedAt=None, finishedAt=None),
    ],
)
def test_a_container_that_ended_otherwise_is_restarted(found: Object) -> None:
    assert reason(found) == "Restarting"


def test_a_container_without_a_startup_probe_is_restarted() -> None:
    found = ended("2026-01-02T02:10:05Z")
    del found["spec"]["containers"][0]["startupProbe"]
    assert reason(found) == "Restarting"


@pytest.mark.parametrize(
    ("code", "last", "expected"),
    [
        (78, {}, "ModelLoadFailed"),
        (70, {}, "EngineFailed"),
        (1, {}, "EngineFailed"),
        (137, {"reason": "OOMKilled"}, "OutOfMemory"),
        (137, {"message": "torch.OutOfMemoryError: CUDA out of memory."}, "OutOfMemory"),
    ],
)
def test_a_cause_of_its_own_comes_before_the_time(code: int, last: Object, expected: str) -> None:
    assert reason(ended("2026-01-02T02:10:05Z", code, **last)) == expected


def test_times_of_the_probe_that_are_left_out_are_those_of_kubernetes() -> None:
    found = ended("2026-01-02T02:00:41Z")
    found["spec"]["containers"][0]["startupProbe"] = {"httpGet": {}, "initialDelaySeconds": 5}
    problem = diagnose(found)
    assert problem is not None
    assert "within 35 s" in problem.detail


def test_a_sidecar_that_does_not_start_has_failed() -> None:
    found = ended("2026-01-02T02:10:05Z")
    found["spec"]["containers"][0]["name"] = "proxy"
    found["status"]["containerStatuses"][0]["name"] = "proxy"
    problem = diagnose(found)
    assert problem is not None
    assert problem.reason == "SidecarFailed"
    assert "had not started within 600 s" in problem.detail


def test_the_conditions_of_a_start_that_takes_too_long_agree() -> None:
    status = status_of(ended("2026-01-02T02:10:05Z"), deployment=deployment(availableReplicas=0))
    assert status.reason == "StartupTimeout"
    for kind in ("Ready", "Progressing", "Available", "Degraded"):
        assert condition(status, kind).reason == "StartupTimeout"
    assert condition(status, "Progressing").status == condition(status, "Degraded").status == "True"
    assert FAILURES["StartupTimeout"] in condition(status, "Ready").message


def test_the_cache_keeps_what_this_is_seen_by() -> None:
    found = ended("2026-01-02T02:10:05Z")
    probe = found["spec"]["containers"][0]["startupProbe"]
    probe["httpGet"]["httpHeaders"] = [{"name": "x", "value": "y" * 9_999}]
    probe["terminationGracePeriodSeconds"] = 30
    kept = keeper(PODS)(found)
    assert diagnose(kept) == diagnose(found)
    assert kept["spec"]["containers"][0]["startupProbe"] == {
        "periodSeconds": 2,
        "timeoutSeconds": 2,
        "failureThreshold": 300,
        "terminationGracePeriodSeconds": 30,
    }


def again(restarts: int, finished: str, state: Object | None = None) -> Object:
    found = ended(finished, unready=SERVED, state=state)
    found["status"]["containerStatuses"][0]["restartCount"] = restarts
    return found


def test_a_container_that_ends_again_and_again_is_not_merely_restarted() -> None:
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    for found in (again(1, "2026-01-02T02:05:00Z", waiting), again(2, "2026-01-02T02:05:00Z")):
        problem = diagnose(found)
        assert problem is not None
        assert problem.reason == "CrashLoopBackOff"
        assert "exited with code 0" in problem.detail
        assert "failed probes" in problem.remedy


def test_two_ends_with_a_long_time_in_between_are_restarts() -> None:
    assert reason(again(2, "2026-01-02T02:20:00Z")) == "Restarting"
    assert reason(again(1, "2026-01-02T02:05:00Z")) == "Restarting"
    now_ended = {"terminated": {"exitCode": 0, "startedAt": STARTED, "finishedAt": "2026-01-02T02:05:00Z"}}
    assert reason(again(0, "2026-01-02T02:05:00Z", now_ended)) == "Restarting"
    assert reason(again(1, "2026-01-02T02:05:00Z", now_ended)) == "CrashLoopBackOff"

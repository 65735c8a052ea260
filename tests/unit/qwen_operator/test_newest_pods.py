"""While pods are replaced, the status tells of the newest revision, which can be corrected."""

from __future__ import annotations

import copy

import pytest

from tests.unit.qwen_operator.objects import READY_POD, Object, crashed, deployment, pod
from tests.unit.qwen_operator.statuses import LOADING, condition, status_of

NO_IMAGE = pod("news-1", server={"ready": False, "state": {"waiting": {"reason": "ErrImagePull", "message": "typo"}}})
NO_NODE = pod("news-1", scheduled={"status": "False", "message": "Insufficient memory"})
BROKEN = pod("news-2", server=crashed(78, "unrecognized arguments: --no-such"))
ROLLING = deployment(replicas=2, updatedReplicas=1, availableReplicas=0)


def of(revision: str, given: Object, **metadata: str) -> Object:
    """A pod of a revision."""
    found = copy.deepcopy(given)
    found["metadata"] |= metadata
    found["metadata"]["labels"]["pod-template-hash"] = revision
    return found


@pytest.mark.parametrize("old", [NO_IMAGE, NO_NODE], ids=["image", "node"])
def test_an_error_that_was_corrected_does_not_hide_the_next_one(old: Object) -> None:
    status = status_of(of("a", old), of("b", BROKEN), newest="b", deployment=ROLLING)
    for kind in ("Ready", "Progressing", "Degraded"):
        found = condition(status, kind)
        assert (found.reason, "--no-such" in found.message) == ("ModelLoadFailed", True)
    assert status.reason == "ModelLoadFailed"


@pytest.mark.parametrize(
    ("new", "ready", "reason"), [(READY_POD, "True", "Serving"), (LOADING, "False", "ModelLoading")]
)
def test_a_failing_pod_of_an_older_revision_does_not_degrade(new: Object, ready: str, reason: str) -> None:
    status = status_of(of("a", BROKEN), of("b", new), newest="b", deployment=ROLLING)
    assert condition(status, "Degraded").status == "False"
    assert (condition(status, "Ready").status, condition(status, "Ready").reason) == (ready, reason)


def test_before_the_newest_revision_has_a_pod_the_older_ones_count() -> None:
    leaving = of("b", LOADING, deletionTimestamp="2026-01-02T03:04:05Z")
    status = status_of(of("a", NO_IMAGE), leaving, newest="b", deployment=ROLLING)
    assert condition(status, "Degraded").reason == "ImagePullError"


def test_a_pod_of_the_newest_revision_that_a_node_has_refused_counts() -> None:
    refused = of("b", pod("news-2", phase="Failed", reason="UnexpectedAdmissionError"))
    refused["metadata"]["creationTimestamp"] = "2026-01-02T03:04:00Z"
    status = status_of(of("a", NO_IMAGE), refused, newest="b", deployment=ROLLING)
    assert condition(status, "Degraded").reason == "PodRejected"

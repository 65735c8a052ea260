"""ResourceClaims that a pod needs and that do not exist: who says it, and how long it counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from aiohttp import web

from qwen_operator.api.names import CLAIM_NOT_FOUND
from qwen_operator.kube import pod_events
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.pod_events import PodEvents
from qwen_operator.status.diagnosis import diagnose, is_held_up
from tests.unit.qwen_operator.kube_server import Server, refusal
from tests.unit.qwen_operator.objects import Object, pod
from tests.unit.qwen_operator.test_pod_events import KEY, settle

MISSING = {"reason": CLAIM_NOT_FOUND, "message": 'resourceclaim "shared" not found'}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets Events be read when a pod is seen for the first time."""
    monkeypatch.setattr(pod_events, "FIRST_SECONDS", 0.0)


def claiming(*names: str, **status: Any) -> Object:
    """A pod that names these claims itself."""
    claims = [{"name": f"claim-{number}", "resourceClaimName": name} for number, name in enumerate(names)]
    return {**pod(**status), "spec": {"resourceClaims": claims}}


class Claims:
    """An API server without Events, and with the claims that exist."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.asked: list[str] = []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        if "/resourceclaims/" not in request.path:
            return web.json_response({"items": [], "metadata": {}})
        assert request.path.startswith("/apis/resource.k8s.io/v1/namespaces/default/")
        name = request.path.rpartition("/")[2]
        self.asked.append(name)
        if name in self.names:
            return web.json_response({"metadata": {"name": name}})
        return refusal(404, f'resourceclaims.resource.k8s.io "{name}" not found')


async def read(kube: KubeClient, waiting: Object) -> Sequence[Object]:
    """What is known of a pod that is held up."""
    events = PodEvents(kube, lambda key, after: None)
    await events.of(KEY, [waiting])
    await settle(events)
    return (await events.of(KEY, [waiting]))["uid-news-1"]


async def test_claims_that_a_pod_names_are_looked_for(server: Server, kube: KubeClient) -> None:
    server.answer = Claims("there")
    message = 'resourceclaim "gone" not found, resourceclaim "lost" not found'
    found = await read(kube, claiming("there", "gone", "lost"))
    assert found == [{"reason": CLAIM_NOT_FOUND, "message": message}]
    assert await read(kube, claiming("there")) == []


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (403, 'resourceclaims.resource.k8s.io "shared" is forbidden: User "u" cannot get resource "resourceclaims"'),
        (404, "the server could not find the requested resource"),
        (500, "no"),
    ],
)
async def test_a_claim_that_cannot_be_looked_for_is_not_missing(
    status: int, message: str, server: Server, kube: KubeClient
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if "/resourceclaims/" in request.path:
            return refusal(status, message)
        return web.json_response({"items": [{"reason": "FailedMount"}], "metadata": {}})

    server.answer = answer
    assert await read(kube, claiming("shared")) == [{"reason": "FailedMount"}]


async def test_claims_are_looked_for_until_the_scheduler_has_seen_the_pod(server: Server, kube: KubeClient) -> None:
    server.answer = claims = Claims()
    assert await read(kube, claiming("shared", scheduled=True)) == []
    assert claims.asked == []
    await read(kube, claiming(*(f"shared-{number}" for number in range(100))))
    assert len(claims.asked) == 8


def test_a_missing_claim_is_the_reason_until_the_pod_has_a_node() -> None:
    waiting = claiming("shared")
    assert is_held_up(waiting)
    problem = diagnose(waiting, [MISSING])
    assert problem is not None
    assert (problem.reason, problem.detail) == ("ResourceClaimMissing", 'resourceclaim "shared" not found')
    for event in (MISSING, {"reason": "FailedResourceClaimCreation", "message": "no template"}):
        scheduled = diagnose(claiming("shared", scheduled=True), [event])
        assert scheduled is not None
        assert scheduled.reason == "Starting"


@pytest.mark.parametrize(
    "message",
    [
        '0/3 nodes are available: resourceclaim.resource.k8s.io "shared" not found. preemption: not helpful.',
        'pod "default/news-1": ResourceClaim not created yet',
        'resourceclaim "shared" is being deleted',
    ],
)
def test_a_scheduler_that_says_that_a_claim_is_missing_is_believed(message: str) -> None:
    problem = diagnose(claiming("shared", scheduled={"status": "False", "reason": "Unschedulable", "message": message}))
    assert problem is not None
    assert (problem.reason, problem.detail) == ("ResourceClaimMissing", message)


def test_claims_without_a_device_are_a_matter_of_nodes() -> None:
    message = "0/3 nodes are available: 3 cannot allocate all claims."
    problem = diagnose(claiming("shared", scheduled={"status": "False", "message": message}))
    assert problem is not None
    assert problem.reason == "Unschedulable"

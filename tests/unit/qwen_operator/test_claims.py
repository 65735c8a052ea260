"""How often the claim is read that a user has made for a service's cache."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from qwen_operator.api import QwenService
from qwen_operator.controller import Controller
from qwen_operator.kube.claims import Claims
from qwen_operator.kube.client import KubeClient
from qwen_operator.process.health import Health
from qwen_operator.process.operator_metrics import REGISTRY
from tests.unit.qwen_operator.kube_server import Server, refusal, until
from tests.unit.qwen_operator.objects import Object, pod, service_object
from tests.unit.qwen_operator.test_requests import SETTINGS, Api

PATH = "/api/v1/namespaces/default/persistentvolumeclaims/models"
KNOWN = {"models": {"spec": {"accessModes": ["ReadWriteMany"]}}}


def user(generation: int = 3, claim: str = "models") -> QwenService:
    """A service with a claim of its user."""
    obj = service_object(cache={"existingClaim": claim} if claim else {})
    obj["metadata"]["generation"] = generation
    return QwenService.parse(obj)


class OneClaim:
    """An API server with one claim, and how often it was read."""

    def __init__(self) -> None:
        self.asked = 0
        self.metadata: Object = {"name": "models", "uid": "c"}
        self.refusal: int | None = None

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        assert request.path == PATH
        self.asked += 1
        if self.refusal is not None:
            return refusal(self.refusal)
        spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "100Gi"}}}
        return web.json_response({"metadata": self.metadata, "spec": spec})


@pytest.fixture
def claim(server: Server) -> OneClaim:
    server.answer = answer = OneClaim()
    return answer


async def test_a_claim_is_read_again_only_if_it_may_be_another_one(claim: OneClaim, kube: KubeClient) -> None:
    claims = Claims(kube)
    one, two, three = (pod(f"news-{number}") for number in (1, 2, 3))
    ended = pod("news-1", phase="Failed")
    looks: list[tuple[list[Object], int]] = [
        ([], 1),
        ([], 1),
        ([one], 2),  # another claim could have got its name while there was no pod
        ([one, two], 2),
        ([two], 2),
        ([], 3),
        ([one], 4),
        ([ended, two], 5),  # a pod that has ended keeps no claim
        ([two, three], 5),
    ]
    for pods, asked in looks:
        assert await claims.of(user(), pods) == KNOWN
        assert claim.asked == asked
    assert await claims.of(user(generation=4), [two]) == KNOWN
    assert claim.asked == 6
    claims.forget(("default", "news"))
    await claims.of(user(generation=4), [two])
    assert claim.asked == 7


async def test_a_claim_that_is_missing_or_being_deleted_is_looked_for_each_time(
    claim: OneClaim, kube: KubeClient
) -> None:
    claims = Claims(kube)
    claim.refusal = 404
    assert [await claims.of(user(), []) for _ in range(2)] == [{}, {}]
    claim.refusal, claim.metadata["deletionTimestamp"] = None, "2026-01-02T03:04:05Z"
    assert [await claims.of(user(), []) for _ in range(2)] == [KNOWN, KNOWN]
    assert claim.asked == 4
    del claim.metadata["deletionTimestamp"]
    assert [await claims.of(user(), []) for _ in range(2)] == [KNOWN, KNOWN]
    assert claim.asked == 5


async def test_a_claim_that_cannot_be_read_for_a_moment_is_the_one_that_is_known(
    claim: OneClaim, kube: KubeClient
) -> None:
    claims = Claims(kube)
    claim.refusal = 403
    assert await claims.of(user(), []) == {}
    claim.refusal = None
    assert await claims.of(user(), []) == KNOWN
    claim.refusal = 403
    assert await claims.of(user(generation=4), []) == KNOWN
    claim.refusal = None
    assert await claims.of(user(generation=4), []) == KNOWN
    assert claim.asked == 4


async def test_a_service_without_a_claim_of_its_user_reads_none(claim: OneClaim, kube: KubeClient) -> None:
    claims = Claims(kube)
    assert await claims.of(user(claim=""), []) == {}
    assert await claims.of(QwenService.parse(service_object()), []) == {}
    assert claim.asked == 0


class ApiWithClaim(Api):
    """An API server with a claim that is not the operator's."""

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        if request.path == PATH:
            return web.json_response({"metadata": {"name": "models"}, "spec": {"accessModes": ["ReadWriteMany"]}})
        return await super().__call__(request)


def reconciled() -> float:
    return REGISTRY.get_sample_value("qwen_operator_reconciles_total", {"result": "ok"}) or 0.0


async def reconcile_again(controller: Controller) -> None:
    """What a resync does, until it is done."""
    before = reconciled()
    controller._all_due()
    await until(lambda: reconciled() > before)


async def test_a_resync_reads_no_claim(server: Server, kube: KubeClient) -> None:
    """Each reconciliation read it: with 300 such services these were 300 requests a minute."""
    server.answer = api = ApiWithClaim()
    controller = Controller(kube, SETTINGS, Health())
    task = asyncio.create_task(controller.run())
    await until(lambda: api.watches)
    api.put(service_object(cache={"existingClaim": "models"}))
    await until(lambda: api.items[("default", "news")]["status"].get("conditions"))
    for _ in range(3):
        await reconcile_again(controller)
    task.cancel()
    await asyncio.wait((task,))
    asked = [path for method, path, *_ in server.asked if (method, path) == ("GET", PATH)]
    assert len(asked) == 1

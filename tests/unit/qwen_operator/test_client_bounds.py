"""How much the client reads at once, whatever the API server holds."""

from __future__ import annotations

import json

import pytest
from aiohttp import web

from qwen_operator.kube import client
from qwen_operator.kube.client import PAGE, KubeClient
from qwen_operator.kube.errors import (
    MAX_MESSAGE,
    GoneError,
    InvalidError,
    KubeError,
    RefusedError,
    TooLargeError,
    error_of,
    worse,
)
from qwen_operator.kube.resources import PODS
from tests.unit.qwen_operator.kube_server import Server, refusal
from tests.unit.qwen_operator.objects import Object


class Pages:
    """An API server with pods of a size, which it lists in pages."""

    def __init__(self, pods: int, size: int = 10) -> None:
        self.pods = [{"metadata": {"name": f"p{number}"}, "text": "x" * size} for number in range(pods)]
        self.limits: list[int] = []
        self.expired = False

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        limit, start = int(request.query["limit"]), int(request.query.get("continue", 0))
        self.limits.append(limit)
        if start and self.expired:
            return refusal(410)
        following = {"continue": str(start + limit)} if start + limit < len(self.pods) else {}
        metadata = {"resourceVersion": "7", **following}
        return web.json_response({"metadata": metadata, "items": self.pods[start : start + limit]})


def names(pods: int) -> list[str]:
    return [f"p{number}" for number in range(pods)]


async def listed(kube: KubeClient) -> tuple[list[str], str]:
    items, version = await kube.list(PODS, "n")
    return [item["metadata"]["name"] for item in items], version


async def test_a_list_is_read_in_pages(server: Server, kube: KubeClient) -> None:
    server.answer = pages = Pages(2 * PAGE + 1)
    assert await listed(kube) == (names(2 * PAGE + 1), "7")
    assert pages.limits == [PAGE, PAGE, PAGE]
    assert server.asked[0][1] == "/api/v1/namespaces/n/pods"


async def test_of_a_page_is_kept_what_the_caller_wants(server: Server, kube: KubeClient) -> None:
    server.answer = Pages(2)

    def keep(pod: Object) -> Object:
        assert pod["kind"] == "Pod"
        return {"metadata": pod["metadata"]}

    items, _ = await kube.list(PODS, "n", keep=keep)
    assert items == [{"metadata": {"name": "p0"}}, {"metadata": {"name": "p1"}}]


async def test_large_objects_are_read_in_smaller_pages(
    server: Server, kube: KubeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_BODY", 10_000)
    server.answer = pages = Pages(20, size=1_000)
    assert await listed(kube) == (names(20), "7")
    assert pages.limits == [500, 125, 31, 7, 14, 3, 6, 12]


async def test_one_object_is_read_whatever_its_size(
    server: Server, kube: KubeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_BODY", 10_000)
    server.answer = Pages(3, size=20_000)
    assert await listed(kube) == (names(3), "7")


async def test_a_list_that_has_expired_between_two_pages_is_an_error(server: Server, kube: KubeClient) -> None:
    server.answer = pages = Pages(PAGE + 1)
    pages.expired = True
    with pytest.raises(GoneError):
        await listed(kube)


async def test_no_answer_is_read_without_end(server: Server, kube: KubeClient) -> None:
    sent = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(status=500 if "error" in request.path else 200)
        await response.prepare(request)
        for _ in range(200):
            await response.write(b" " * 1024 * 1024)
            sent += 1
        return response

    server.answer = answer
    with pytest.raises(TooLargeError):
        await kube.get(PODS, "large", "n")
    with pytest.raises(KubeError) as caught:
        await kube.get(PODS, "error", "n")
    assert (caught.value.status, caught.value.message) == (500, "HTTP 500")
    assert sent < 100


def test_a_message_is_cut_in_its_middle() -> None:
    body = json.dumps({"message": "Deployment is invalid: " + "x" * 1_000_000 + ": must be a number"}).encode()
    message = error_of(422, body).message
    assert len(message) <= MAX_MESSAGE
    assert message.startswith("Deployment is invalid")
    assert message.endswith("must be a number")


def test_an_error_that_is_nested_too_deep_is_an_error() -> None:
    nested = b'{"message":"no","details":{"causes":[' + b"[" * 5_000 + b"]" * 5_000 + b"]}}"
    assert error_of(500, nested).status == 500


@pytest.mark.parametrize(
    ("message", "refused"),
    [
        ('services "news" is forbidden: exceeded quota: q, requested: services=1, used: services=2', True),
        ('admission webhook "policy.example.org" denied the request: label owner is missing', True),
        (
            'services is forbidden: User "system:serviceaccount:a:b" cannot create resource "services" in API group ""',
            False,
        ),
    ],
)
def test_a_refusal_by_the_cluster_is_told_from_a_missing_right(message: str, *, refused: bool) -> None:
    assert isinstance(error_of(403, json.dumps({"message": message}).encode()), RefusedError) is refused


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (413, "the request is too large"),
        (500, "etcdserver: request is too large"),
        (500, "failed to create typed patch object: .spec.template.spec.x: field not declared in schema"),
    ],
)
def test_an_object_that_is_too_large_or_has_an_unknown_field_is_not_valid(status: int, message: str) -> None:
    assert isinstance(error_of(status, json.dumps({"message": message}).encode()), InvalidError)


def test_of_two_errors_the_one_that_is_no_refusal_matters() -> None:
    refusal_by_quota, failure = RefusedError(403, "exceeded quota"), KubeError(500, "no")
    assert worse(None, None) is None
    assert worse(refusal_by_quota, None) is worse(None, refusal_by_quota) is refusal_by_quota
    assert worse(refusal_by_quota, failure) is worse(failure, refusal_by_quota) is failure

"""What an informer bears: no fault of a watch leaves it deaf, or the API server without a pause."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from qwen_operator.api import InvalidSpecError, QwenService
from qwen_operator.kube import client as clients
from qwen_operator.kube import informer as informers
from qwen_operator.kube import retries
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.errors import ForbiddenError, GoneError, KubeError, NotFoundError, TooManyRequestsError
from qwen_operator.kube.informer import Informer
from qwen_operator.kube.reading import lines, prune, read_json
from qwen_operator.kube.resources import QWEN_SERVICES
from qwen_operator.kube.retries import must_list, pause
from qwen_operator.process.health import Health
from qwen_operator.process.operator_metrics import REGISTRY
from tests.unit.qwen_operator.kube_server import Objects, Server, refusal, until

Object = dict[str, Any]


def item(name: str = "news", namespace: str = "n", **spec: Any) -> Object:
    uid = spec.pop("uid", f"uid-{name}")
    return {"metadata": {"name": name, "namespace": namespace, "uid": uid}, "spec": spec}


@asynccontextmanager
async def informer(
    kube: KubeClient,
    *namespaces: str,
    on_change: Callable[[Object], None] = lambda _: None,
    relist: float = 60.0,
    removable: bool = True,
    health: Health | None = None,
) -> AsyncIterator[Informer]:
    """A running informer of QwenServices."""
    subject = Informer(
        kube, QWEN_SERVICES, namespaces, on_change, selector="", relist=relist, removable=removable, health=health
    )
    task = asyncio.create_task(subject.run())
    try:
        yield subject
        assert not task.done()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def objects(server: Server) -> Objects:
    """QwenServices in the API server."""
    server.answer = found = Objects()
    return found


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has failed is tried again ten times as soon."""
    monkeypatch.setattr(retries, "_PAUSES", tuple(seconds / 10 for seconds in retries._PAUSES))


def names(subject: Informer) -> list[str]:
    return sorted(name for _, name in subject.objects)


async def test_a_change_is_followed_within_a_resync_if_no_event_ever_comes(kube: KubeClient, objects: Objects) -> None:
    objects.silent = True
    objects.put(item(replicas=1))
    async with informer(kube, relist=1.0) as subject:
        await until(lambda: names(subject) == ["news"])
        objects.put(item(replicas=2))
        await until(lambda: subject.objects[("n", "news")]["spec"]["replicas"] == 2)


async def test_a_deletion_in_a_gap_is_found_by_comparing_lists(kube: KubeClient, objects: Objects) -> None:
    changed: list[tuple[str, bool]] = []
    objects.put(item("a"))
    objects.put(item("b"))

    def note(obj: Object) -> None:
        name = obj["metadata"]["name"]
        changed.append((name, subject.get("n", name) is not None))

    async with informer(kube, on_change=note, relist=1.0) as subject:
        await until(lambda: names(subject) == ["a", "b"])
        objects.delete("a", quietly=True)
        await until(lambda: names(subject) == ["b"])
    assert changed == [("a", True), ("b", True), ("a", False)]


async def test_another_object_with_the_same_name_is_a_deletion_and_a_creation(
    kube: KubeClient, objects: Objects
) -> None:
    changed: list[tuple[str, bool]] = []
    objects.put(item(uid="one"))

    def note(obj: Object) -> None:
        changed.append((obj["metadata"]["uid"], subject.get("n", "news") is not None))

    async with informer(kube, on_change=note, relist=1.0) as subject:
        await until(lambda: names(subject) == ["news"])
        objects.delete("news", quietly=True)
        objects.put(item(uid="two"), quietly=True)
        await until(lambda: len(changed) == 3)
    assert changed == [("one", True), ("one", False), ("two", True)]


async def test_versions_that_went_backwards_are_believed_after_a_list(kube: KubeClient, objects: Objects) -> None:
    objects.version = 5000
    objects.put(item(replicas=2))
    async with informer(kube) as subject:
        await until(lambda: objects.watches and names(subject) == ["news"])
        objects.version = 100  # etcd was restored from a backup
        objects.put(item(replicas=1))
        assert subject.objects[("n", "news")]["spec"]["replicas"] == 2
        objects.send(b'{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old"}}')
        await until(lambda: subject.objects[("n", "news")]["spec"]["replicas"] == 1)
        objects.put(item(replicas=3))
        await until(lambda: subject.objects[("n", "news")]["spec"]["replicas"] == 3)


async def test_a_write_during_a_list_is_not_undone(kube: KubeClient, objects: Objects, server: Server) -> None:
    asked, go = asyncio.Event(), asyncio.Event()

    async def slowly(request: web.Request) -> web.StreamResponse:
        answer = await objects(request)
        if objects.lists.count("") == 2 and "watch" not in request.query:
            asked.set()
            await go.wait()
        return answer

    server.answer = slowly
    objects.put(item())
    async with informer(kube, relist=1.0) as subject:
        await asyncio.wait_for(asked.wait(), 30)
        written = item(replicas=7)
        written["metadata"]["resourceVersion"] = "99"
        subject.store(written)
        go.set()
        await until(lambda: len(objects.watches) >= 2)
        assert subject.objects[("n", "news")] == written


NESTED = 5000


def deep(name: str = "deep") -> bytes:
    nested = b'{"a":' * NESTED + b"[1]" + b"}" * NESTED
    metadata = {"name": name, "namespace": "n", "uid": "u", "resourceVersion": "12"}
    return b'{"metadata":' + json.dumps(metadata).encode() + b',"spec":{"podTemplate":' + nested + b',"replicas":3}}'


async def test_an_object_that_is_nested_too_deep_does_not_stop_the_others(kube: KubeClient, objects: Objects) -> None:
    async with informer(kube) as subject:
        await until(lambda: objects.watches)
        objects.send(b'{"type":"ADDED","object":' + deep() + b"}")
        objects.put(item("other"))
        await until(lambda: names(subject) == ["deep", "other"])
        assert subject.objects[("n", "deep")]["spec"]["replicas"] == 3
        assert len(objects.lists) == 1


async def test_a_list_with_an_object_that_is_nested_too_deep_is_read(
    kube: KubeClient, objects: Objects, server: Server
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.query.get("watch"):
            return await objects(request)
        other = json.dumps(
            {**item("other"), "metadata": {**item("other")["metadata"], "resourceVersion": "1"}}
        ).encode()
        return web.Response(body=b'{"metadata":{"resourceVersion":"12"},"items":[' + deep() + b"," + other + b"]}")

    server.answer = answer
    async with informer(kube) as subject:
        await until(lambda: names(subject) == ["deep", "other"])


@pytest.mark.parametrize("levels", [100, 300, 1500, NESTED])
def test_a_service_that_is_nested_too_deep_is_invalid_and_the_field_is_named(levels: int) -> None:
    nested = b'{"a":' * levels + b"[1]" + b"}" * levels
    text = b'{"metadata":{"name":"x"},"spec":{"model":{"source":{"builtin":"x"}},"podTemplate":' + nested + b"}}"
    with pytest.raises(InvalidSpecError, match="nested deeper than 64 levels") as caught:
        QwenService.parse(read_json(text))
    assert caught.value.field == "spec.podTemplate"


async def test_an_object_of_a_megabyte_does_not_stop_the_others(kube: KubeClient, objects: Objects) -> None:
    async with informer(kube) as subject:
        await until(lambda: objects.watches)
        objects.put(item("large", text="x" * 1_000_000))
        objects.put(item("other"))
        await until(lambda: names(subject) == ["large", "other"])
        assert len(objects.watches) == 1


async def test_an_object_that_cannot_be_handled_does_not_stop_the_others(kube: KubeClient, objects: Objects) -> None:
    changed: list[str] = []

    def note(obj: Object) -> None:
        changed.append(obj["metadata"]["name"])
        if obj["metadata"]["name"] == "bad":
            raise KeyError("bad")

    objects.put(item("bad"))
    objects.put(item("good"))
    async with informer(kube, on_change=note):
        await until(lambda: changed == ["bad", "good"])
        objects.put(item("bad"))
        objects.put(item("good"))
        await until(lambda: changed == ["bad", "good", "bad", "good"])
        assert len(objects.lists) == 1


async def test_a_denied_namespace_affects_no_other_and_is_followed_again_later(
    kube: KubeClient, objects: Objects
) -> None:
    denied = True
    objects.refuse = lambda request: refusal(403) if denied and "/namespaces/b/" in request.path else None
    objects.put(item("one", "a"))
    objects.put(item("two", "b"))
    async with informer(kube, "a", "b") as subject:
        await until(lambda: names(subject) == ["one"])
        assert not subject.synced.is_set()
        assert subject.sees("a")
        assert not subject.sees("b")
        await asyncio.wait_for(subject.synced.wait(), 10)  # the start does not wait for ever
        objects.put(item("three", "a"))
        await until(lambda: names(subject) == ["one", "three"], 5)
        denied = False
        await until(lambda: subject.sees("b"))
        assert names(subject) == ["one", "three", "two"]


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
async def test_a_refusal_of_a_moment_keeps_the_view_and_costs_no_list(
    kube: KubeClient, objects: Objects, status: int
) -> None:
    objects.put(item())
    async with informer(kube) as subject:
        await until(lambda: objects.watches)
        objects.refuse = lambda _: refusal(status)
        objects.end_watches()
        await until(lambda: len(objects.watches) >= 3)
        assert names(subject) == ["news"]
        objects.refuse = lambda _: None
        objects.put(item(replicas=2), quietly=True)
        await until(lambda: len(objects.watches) >= 4)
    assert len(objects.lists) == 1
    assert {version for _, version in objects.watches} == {"11"}


@pytest.mark.usefixtures("soon")
async def test_without_its_definition_a_kind_has_no_objects_until_it_is_back(
    kube: KubeClient, objects: Objects
) -> None:
    objects.put(item("old"))
    async with informer(kube) as subject:
        await until(lambda: names(subject) == ["old"])
        objects.delete("old", quietly=True)
        objects.refuse = lambda _: refusal(404)
        objects.end_watches()
        await until(lambda: not subject.objects)
        assert subject.silence() == float("inf")
        objects.refuse = lambda _: None
        objects.put(item("new"))
        await until(lambda: names(subject) == ["new"])
        assert subject.silence() < 5


@pytest.mark.usefixtures("soon")
async def test_a_404_for_a_kind_that_is_always_there_is_not_believed(kube: KubeClient, objects: Objects) -> None:
    objects.put(item())
    async with informer(kube, removable=False) as subject:
        await until(lambda: objects.watches)
        objects.refuse = lambda _: refusal(404)
        objects.end_watches()
        await until(lambda: len(objects.lists) == 4)
        assert names(subject) == ["news"]


async def test_a_version_that_does_not_exist_yet_is_listed_again(kube: KubeClient, objects: Objects) -> None:
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    async with informer(kube):
        await until(lambda: objects.watches)
        objects.refuse = lambda request: refusal(504, causes=[cause]) if "watch" in request.query else None
        objects.end_watches()
        await until(lambda: len(objects.lists) == 2)


@pytest.mark.parametrize("ending", ["410", "end"])
async def test_a_watch_that_always_ends_at_once_is_not_tried_without_pause(
    kube: KubeClient, objects: Objects, ending: str
) -> None:
    def refuse(request: web.Request) -> web.Response | None:
        if "watch" not in request.query:
            return None
        return refusal(410) if ending == "410" else web.Response(body=b"")

    objects.refuse = refuse
    async with informer(kube):
        await asyncio.sleep(2.0)
    assert 2 <= len(objects.watches) <= 5
    assert len(objects.lists) <= 5


def test_pauses_grow_are_spread_and_follow_the_api_server() -> None:
    assert 0.1 <= pause(None, 1) <= 0.2
    assert 5.0 <= pause(GoneError(410, ""), 50) <= 10.0
    assert 15.0 <= pause(ForbiddenError(403, ""), 50) <= 30.0
    assert 7.0 < pause(TooManyRequestsError(429, "", 7.0), 1) < 7.3
    assert pause(TooManyRequestsError(429, "", 9999.0), 1) < 61.0
    assert len({pause(None, 5) for _ in range(20)}) > 10


@pytest.mark.parametrize(
    ("problem", "again"),
    [
        (None, False),
        (KubeError(0, ""), False),
        (KubeError(503, ""), False),
        (ForbiddenError(401, ""), False),
        (TooManyRequestsError(429, ""), False),
        (GoneError(410, ""), True),
        (GoneError(504, ""), True),
        (NotFoundError(404, ""), True),
        (KeyError("x"), True),
    ],
)
def test_the_errors_after_which_a_watch_needs_a_list(problem: Exception | None, *, again: bool) -> None:
    assert must_list(problem, 1) is again
    assert must_list(problem, 5)


async def test_a_watch_that_neither_ends_nor_hears_anything_is_overdue(
    kube: KubeClient, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    clock = 0.0
    health = Health(clock=lambda: clock)
    monkeypatch.setattr(Informer, "_once", hang)
    async with informer(kube, "a", health=health):
        await asyncio.sleep(0.05)
        clock = informers.BEAT_SECONDS - 1
        assert health.overdue() == []
        clock = informers.BEAT_SECONDS + 1
        assert health.overdue() == ["watch of qwenservices in a"]
    assert health.overdue() == []
    assert objects.lists == []


def failing_watches() -> float | None:
    return REGISTRY.get_sample_value("qwen_operator_failing_watches", {"kind": "QwenService"})


@pytest.mark.usefixtures("soon")
async def test_watches_that_fail_again_and_again_are_counted(kube: KubeClient, objects: Objects) -> None:
    def watches() -> float | None:
        return REGISTRY.get_sample_value("qwen_operator_watches", {"kind": "QwenService"})

    objects.refuse = lambda request: refusal(403) if "/namespaces/a/" in request.path else None
    async with informer(kube, "a", "b"):
        await until(lambda: failing_watches() == 1)
        assert watches() == 2
        objects.refuse = lambda _: None
        await until(lambda: failing_watches() == 0)
        objects.refuse = lambda _: refusal(403)
        objects.end_watches()
        await until(lambda: failing_watches() == 2)
    assert failing_watches() == watches() == 0


async def test_many_namespaces_are_followed_one_after_another(kube: KubeClient, objects: Objects) -> None:
    """All at once, they would keep the event loop from renewing the Lease."""
    many = [f"team-{number}" for number in range(20)]
    objects.answers_lists.clear()
    async with informer(kube, *many) as subject:
        await until(lambda: objects.lists)
        await asyncio.sleep(0.2)
        assert len(objects.lists) == 1
        objects.answers_lists.set()
        await until(subject.synced.is_set)
    assert sorted(objects.lists) == sorted(many)


async def test_a_watch_that_fails_once_is_no_failing_one(kube: KubeClient, objects: Objects) -> None:
    async with informer(kube, "a"):
        await until(lambda: objects.watches)
        objects.end_watches()  # within its first second
        await until(lambda: len(objects.watches) > 1)
        assert failing_watches() == 0


async def test_a_watch_of_a_kind_that_nobody_changes_is_no_failing_one(
    kube: KubeClient, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API server sends not even bookmarks then."""
    monkeypatch.setattr(clients, "WATCH_SILENCE", 0.05)
    monkeypatch.setattr(informers, "SHORT_SECONDS", 0.01)
    objects.silent = True
    async with informer(kube, "a"):
        await until(lambda: len(objects.watches) > 2 * informers.FAILING)
        assert failing_watches() == 0
    assert len(objects.lists) == 1


def test_what_is_too_deep_is_null_and_the_rest_is_kept() -> None:
    text = b'{"a":{"b":[1,{"c":"]}\\"{["}]},"d":"\\\\","e":[[],{}]}'
    assert json.loads(prune(text, 1)) == {"a": None, "d": "\\", "e": None}
    assert json.loads(prune(text, 2)) == {"a": {"b": None}, "d": "\\", "e": [None, None]}
    assert json.loads(prune(text, 9)) == json.loads(text)
    value = read_json(deep())
    assert value["spec"]["replicas"] == 3
    with pytest.raises(ValueError, match="Expecting"):
        read_json(b"{")


async def test_lines_of_any_length_in_chunks_of_any_length() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for chunk in (b"a", b"b\n\nc\nd", b"", b"e" * 300_000, b"\nlast"):
            yield chunk

    assert [line async for line in lines(chunks())] == [b"ab", b"c", b"d" + b"e" * 300_000, b"last"]

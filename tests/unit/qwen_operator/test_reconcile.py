"""The parts of a reconciliation that need no cluster: differences, status patches, the queue."""

from __future__ import annotations

import asyncio
import contextlib
from itertools import pairwise
from typing import Any

from qwen_operator.api.objects import is_owned_by
from qwen_operator.kube.workqueue import BACKOFF_MAX, WorkQueue, backoff
from qwen_operator.status.transitions import status_patch
from tests.unit.qwen_operator.kube_server import until


def live(**changes: Any) -> dict[str, Any]:
    metadata = {"name": "d", "namespace": "n", **changes.pop("metadata", {})}
    return {"kind": "Deployment", "metadata": metadata, "spec": {"replicas": 1}, **changes}


def test_ownership_is_by_uid() -> None:
    obj = live(metadata={"ownerReferences": [{"uid": "u1", "name": "news"}]})
    assert is_owned_by(obj, "u1")
    assert not is_owned_by(obj, "u2")
    assert not is_owned_by(live(), "u1")


def test_a_status_patch_holds_what_changed_and_never_remediation() -> None:
    old = {"replicas": 1, "url": "a", "observedGeneration": 1, "remediation": {"restartsInWindow": 1}}
    new = {"replicas": 2, "url": "a", "remediation": {"restartsInWindow": 0}}
    assert status_patch(old, new) == {"replicas": 2, "observedGeneration": None}
    assert status_patch(new, new) == {}
    assert status_patch({"download": {"b": 1, "c": 2}}, {"download": {"b": 3}}) == {"download": {"b": 3, "c": None}}
    assert status_patch({"download": {"b": 1}}, {}) == {"download": None}


def test_backoff_grows_to_a_minute() -> None:
    assert [backoff(failures) for failures in (1, 2, 3)] == [1.0, 2.0, 4.0]
    assert backoff(1000) == BACKOFF_MAX == 60.0


async def work_on(queue: WorkQueue[str], until: asyncio.Event) -> None:
    task = asyncio.create_task(queue.run())
    try:
        await asyncio.wait_for(until.wait(), 5)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_burst_becomes_one_and_a_change_meanwhile_another() -> None:
    calls = 0
    done = asyncio.Event()

    async def work(key: str) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            queue.add(key, 0.0)
            await asyncio.sleep(0.05)
            assert calls == 1  # never twice at once
        else:
            done.set()

    queue: WorkQueue[str] = WorkQueue(work, lambda *_: None)
    for _ in range(10):
        queue.add("a", 0.01)
    await work_on(queue, done)
    assert calls == 2
    assert len(queue) == 0


async def test_a_failure_is_retried_and_does_not_block_other_keys() -> None:
    failures: list[int] = []
    done = asyncio.Event()

    async def work(key: str) -> None:
        if key == "bad":
            raise ValueError(key)
        done.set()

    queue: WorkQueue[str] = WorkQueue(work, lambda _key, _error, count: failures.append(count))
    queue.add("bad", 0.0)
    queue.add("good", 0.02)
    await work_on(queue, done)
    assert failures == [1]
    assert len(queue) == 1


async def test_an_event_does_not_override_a_back_off() -> None:
    tries: list[float] = []

    async def work(_: str) -> None:
        tries.append(asyncio.get_running_loop().time())
        raise ValueError("no")

    queue: WorkQueue[str] = WorkQueue(work, lambda *_: None)
    queue.add("bad", 0.0)
    task = asyncio.create_task(queue.run())
    async with asyncio.timeout(10):
        while len(tries) < 2:
            await asyncio.sleep(0.02)
            queue.add("bad", 0.0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert tries[1] - tries[0] >= backoff(1)


async def test_a_key_that_is_always_due_gets_half_of_a_worker() -> None:
    loop = asyncio.get_running_loop()
    turns: list[tuple[float, float]] = []

    async def work(key: str) -> None:
        started = loop.time()
        queue.add(key, 0.0)
        await asyncio.sleep(0.03)
        turns.append((started, loop.time()))

    queue: WorkQueue[str] = WorkQueue(work, lambda *_: None)
    queue.add("hot", 0.0)
    task = asyncio.create_task(queue.run())
    await until(lambda: len(turns) > 5)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    for (began, ended), (following, _) in pairwise(turns):
        assert following - ended >= 0.99 * (ended - began)


async def test_keys_that_are_always_due_do_not_keep_others_waiting() -> None:
    done, turns = asyncio.Event(), 0

    async def work(key: str) -> None:
        nonlocal turns
        if key == "calm":
            done.set()
        elif not done.is_set():
            turns += 1
            queue.add(key, 0.0)
            await asyncio.sleep(0.05)

    queue: WorkQueue[str] = WorkQueue(work, lambda *_: None)
    for number in range(8):
        queue.add(f"hot-{number}", 0.0)
    queue.add("calm", 0.01)
    await work_on(queue, done)
    assert turns <= 12  # one for each of the others, and a few


async def test_a_forgotten_key_starts_without_its_past() -> None:
    calls: list[str] = []
    done = asyncio.Event()

    async def work(key: str) -> None:
        calls.append(key)
        if len(calls) == 1:
            raise ValueError(key)
        done.set()

    def failed(key: str, *_: object) -> None:
        asyncio.get_running_loop().call_soon(again, key)

    def again(key: str) -> None:
        queue.forget(key)
        queue.add(key, 0.0)

    queue: WorkQueue[str] = WorkQueue(work, failed)
    queue.add("a", 0.0)
    started = asyncio.get_running_loop().time()
    await work_on(queue, done)
    assert asyncio.get_running_loop().time() - started < backoff(1)

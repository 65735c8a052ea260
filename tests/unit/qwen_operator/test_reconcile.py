"""The parts of a reconciliation that need no cluster: differences, status patches, the queue."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from qwen_operator.api.objects import is_owned_by
from qwen_operator.kube.workqueue import BACKOFF_MAX, WorkQueue, backoff
from qwen_operator.status.transitions import status_patch


def live(**changes: Any) -> dict[str, Any]:
    metadata = {"name": "d", "namespace": "n", **changes.pop("metadata", {})}
    return {"kind": "Deployment", "metadata": metadata, "spec": {"replicas": 1}, **changes}


def test_ownership_is_by_uid() -> None:
    obj = live(metadata={"ownerReferences": [{"uid": "u1", "name": "news"}]})
    assert is_owned_by(obj, "u1")
    assert not is_owned_by(obj, "u2")
    assert not is_owned_by(live(), "u1")


def test_a_status_patch_holds_what_changed_and_never_remediation() -> None:
    old = {"replicas": 1, "url": "a", "gone": 1, "remediation": {"restartsInWindow": 1}}
    new = {"replicas": 2, "url": "a", "remediation": {"restartsInWindow": 0}}
    assert status_patch(old, new) == {"replicas": 2, "gone": None}
    assert status_patch(new, new) == {}
    assert status_patch({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}) == {"a": {"b": 3, "c": None}}


def test_backoff_grows_to_five_minutes() -> None:
    assert [backoff(failures) for failures in (1, 2, 3)] == [1.0, 2.0, 4.0]
    assert backoff(1000) == BACKOFF_MAX


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

"""Leader election: which process may take the Lease, and what it writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from qwen_operator.kube import lease
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.errors import ConflictError
from qwen_operator.kube.lease import Leader, LeaseWatch, claim
from tests.unit.qwen_operator.kube_server import until

NOW = datetime(2026, 1, 1, 12, 0, 0, 5, tzinfo=UTC)


def lease_held_by(holder: str, renewed: str = "a", seconds: int = 15, transitions: int = 3) -> dict[str, Any]:
    return {
        "metadata": {"name": "l", "namespace": "n", "resourceVersion": "7"},
        "spec": {
            "holderIdentity": holder,
            "renewTime": renewed,
            "leaseDurationSeconds": seconds,
            "leaseTransitions": transitions,
            "acquireTime": "before",
        },
    }


def test_a_free_lease_and_ones_own_can_be_taken() -> None:
    assert LeaseWatch().may_take(lease_held_by(""), "me", 0.0)
    assert LeaseWatch().may_take(lease_held_by("me"), "me", 0.0)


def test_anothers_lease_can_be_taken_once_it_was_seen_unchanged_for_its_duration() -> None:
    watch = LeaseWatch()
    assert not watch.may_take(lease_held_by("other"), "me", 100.0)
    assert not watch.may_take(lease_held_by("other"), "me", 115.0)
    assert watch.may_take(lease_held_by("other"), "me", 115.1)


def test_a_renewal_restarts_the_wait_whatever_its_timestamp_is() -> None:
    watch = LeaseWatch()
    assert not watch.may_take(lease_held_by("other", "2020-01-01T00:00:00Z"), "me", 0.0)
    assert not watch.may_take(lease_held_by("other", "1999-01-01T00:00:00Z"), "me", 14.0)
    assert not watch.may_take(lease_held_by("other", "1999-01-01T00:00:00Z"), "me", 28.0)
    assert watch.may_take(lease_held_by("other", "1999-01-01T00:00:00Z"), "me", 30.0)


def test_a_new_lease_names_its_holder() -> None:
    made = claim(None, "l", "n", "me", NOW)
    assert made["metadata"] == {"name": "l", "namespace": "n"}
    assert made["spec"]["holderIdentity"] == "me"
    assert made["spec"]["leaseTransitions"] == 0
    assert made["spec"]["renewTime"] == "2026-01-01T12:00:00.000005Z"


def test_taking_over_counts_a_transition_and_keeps_the_precondition() -> None:
    taken = claim(lease_held_by("other"), "l", "n", "me", NOW)
    assert taken["metadata"]["resourceVersion"] == "7"
    assert taken["spec"]["leaseTransitions"] == 4
    assert taken["spec"]["acquireTime"] == taken["spec"]["renewTime"]


def test_renewing_changes_only_the_time() -> None:
    renewed = claim(lease_held_by("me"), "l", "n", "me", NOW)
    assert renewed["spec"]["leaseTransitions"] == 3
    assert renewed["spec"]["acquireTime"] == "before"


async def test_a_lease_that_cannot_be_renewed_is_given_up_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock goes on only while the lease's holder waits."""
    clock = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal clock
        clock += seconds

    @asynccontextmanager
    async def timeout(seconds: float) -> AsyncIterator[None]:
        await sleep(seconds)
        raise TimeoutError
        yield

    monkeypatch.setattr(lease, "asyncio", SimpleNamespace(sleep=sleep, timeout=timeout))
    await Leader(cast("KubeClient", None), name="l", namespace="n", identity="me", clock=lambda: clock).hold()
    assert clock == pytest.approx(lease.RENEW_DEADLINE)


class Store:
    """The API of one Lease. `answers` are returned or raised by the next reads."""

    def __init__(self, lease: dict[str, Any], *answers: dict[str, Any] | Exception) -> None:
        self.lease = lease
        self.answers = list(answers)
        self.reads = 0

    async def get(self, *_: object) -> dict[str, Any]:
        self.reads += 1
        answer = self.answers.pop(0) if self.answers else self.lease
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def replace(self, lease: dict[str, Any]) -> dict[str, Any]:
        if lease["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise ConflictError(409, "another version")
        version = str(int(lease["metadata"]["resourceVersion"]) + 1)
        self.lease = {**lease, "metadata": {**lease["metadata"], "resourceVersion": version}}
        return self.lease


def leader(store: Store) -> Leader:
    return Leader(cast("KubeClient", store), name="l", namespace="n", identity="me")


@pytest.mark.parametrize(
    "answer", [{"metadata": {}, "spec": {"leaseTransitions": "many"}}, {}, AttributeError("nobody thought of this")]
)
async def test_a_surprise_does_not_end_the_wait_for_the_lease(
    monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any] | Exception
) -> None:
    monkeypatch.setattr(lease, "STANDBY_SECONDS", 0.05)
    store = Store(lease_held_by(""), answer)
    await asyncio.wait_for(leader(store).acquire(), 5)
    assert store.lease["spec"]["holderIdentity"] == "me"


@pytest.mark.parametrize(("surprises", "deadline"), [(1, 60.0), (1000, 0.5)])
async def test_a_surprise_while_renewing_counts_as_a_failed_try(
    monkeypatch: pytest.MonkeyPatch, surprises: int, deadline: float
) -> None:
    monkeypatch.setattr(lease, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(lease, "RENEW_DEADLINE", deadline)
    store = Store(lease_held_by(""))
    candidate = leader(store)
    await candidate.acquire()
    store.answers = [AttributeError("nobody thought of this")] * surprises
    reads = store.reads
    holding = asyncio.create_task(candidate.hold())
    await until(lambda: holding.done() if surprises > 1 else store.reads >= reads + 5)
    assert holding.done() is (surprises > 1)
    holding.cancel()
    await asyncio.wait((holding,))


async def test_a_lease_is_released_also_if_the_answer_to_its_last_renewal_was_lost() -> None:
    store = Store(lease_held_by(""))
    candidate = leader(store)
    await candidate.acquire()
    store.lease = {**store.lease, "metadata": {**store.lease["metadata"], "resourceVersion": "99"}}
    await candidate.release()
    assert store.lease["spec"]["holderIdentity"] == ""


async def test_a_lease_that_someone_else_holds_is_not_released() -> None:
    store = Store(lease_held_by(""))
    candidate = leader(store)
    await candidate.acquire()
    store.lease = lease_held_by("other")
    await candidate.release()
    assert store.lease["spec"]["holderIdentity"] == "other"


async def test_a_lease_is_released_also_if_a_late_renewal_comes_between() -> None:
    class Renewed(Store):
        """Another version of the Lease is written right after the first read."""

        async def get(self, *arguments: object) -> dict[str, Any]:
            found = await super().get(*arguments)
            if self.reads == 1:
                self.lease = {**self.lease, "metadata": {**self.lease["metadata"], "resourceVersion": "99"}}
            return found

    store = Renewed(lease_held_by("me"))
    candidate = leader(store)
    candidate._lease = store.lease
    await candidate.release()
    assert store.reads == 2
    assert store.lease["spec"]["holderIdentity"] == ""

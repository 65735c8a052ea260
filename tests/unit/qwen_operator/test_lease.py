"""Leader election: which process may take the Lease, and what it writes."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from qwen_operator.kube import lease
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.lease import Leader, LeaseWatch, claim

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
    class Silent:
        async def get(self, *_: object) -> None:
            await asyncio.sleep(60)

    monkeypatch.setattr(lease, "RENEW_DEADLINE", 1.0)
    monkeypatch.setattr(lease, "RETRY_SECONDS", 0.3)
    started = time.monotonic()
    await Leader(cast("KubeClient", Silent()), name="l", namespace="n", identity="me").hold()
    assert time.monotonic() - started < 1.4

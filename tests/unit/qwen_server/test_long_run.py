"""How the soak judges memory and latency."""

from __future__ import annotations

import pytest

from tests.integration.load import Answer
from tests.integration.long_run import check


def answers(last: float) -> list[Answer]:
    """An answer each second for half an hour. Those of the last 10 minutes take `last` seconds."""
    return [Answer("/", float(at), 200, latency=last if at >= 1200 else 1.0) for at in range(1800)]


def memory(last: float) -> list[tuple[float, float]]:
    """A sample every 5 s. Memory is still low at the beginning, and `last` MiB at the end."""
    return [(float(at), 50.0 if at < 20 else 100.0 if at < 1200 else last) for at in range(0, 1800, 5)]


@pytest.mark.parametrize(("mib", "seconds"), [(100, 1.0), (101.9, 1.09), (98.1, 0.5)])
def test_small_changes_are_allowed(mib: float, seconds: float) -> None:
    check(memory(mib), answers(seconds))


@pytest.mark.parametrize(("mib", "seconds"), [(102.1, 1.0), (97.9, 1.0), (100, 1.11)])
def test_more_memory_or_slower_answers_fail(mib: float, seconds: float) -> None:
    with pytest.raises(AssertionError):
        check(memory(mib), answers(seconds))


def test_refused_requests_do_not_count() -> None:
    refused = [Answer("/", float(at), 503, latency=9.0) for at in range(1800)]
    check(memory(100), answers(1.0) + refused)

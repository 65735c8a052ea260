"""Each row of the tables in docs/remediation.md names tests that exist."""

from __future__ import annotations

import re

import pytest

from .named_tests import ROOT, TEST, missing, rows

PAGE = (ROOT / "docs" / "remediation.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("heading", "count"),
    [
        ("What happens to the pod", 11),
        ("Eight ways to stop working", 8),
        ("When the engine dies", 4),
        ("Four healthy engines that look alike", 4),
        ("Pods that the operator cannot see", 4),
    ],
)
def test_every_row_names_tests_that_exist(heading: str, count: int) -> None:
    found = rows(PAGE, heading)
    assert len(found) == count
    assert [row for row in found if not TEST.search(row)] == []
    assert [name for row in found for name in missing(row)] == []


def test_a_test_that_does_not_exist_is_noticed() -> None:
    assert missing("| `tests/unit/docs/test_remediation.py::test_of_nothing` |") != []
    assert missing("| `tests/unit/docs/test_nothing.py::test_of_nothing` |") != []


def test_tests_are_named_in_one_way() -> None:
    assert re.findall(r"\btest_\w+(?=`)", PAGE) == [name for _, name in TEST.findall(PAGE)]

"""Each row of the tables in docs/remediation.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "remediation.md").read_text(encoding="utf-8")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def rows(heading: str) -> list[str]:
    """The rows of the table below a heading."""
    [section] = re.findall(rf"^## {heading}$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return [line for line in section.splitlines() if line.startswith("|")][2:]


def missing(row: str) -> list[str]:
    """The tests that a row names and that do not exist."""
    return [
        f"{path}::{name}"
        for path, name in TEST.findall(row)
        if not (ROOT / path).is_file()
        or not re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
    ]


@pytest.mark.parametrize(
    ("heading", "count"),
    [
        ("Eight ways to stop working", 8),
        ("Four healthy engines that look alike", 4),
        ("Pods that the operator cannot see", 4),
    ],
)
def test_every_row_names_tests_that_exist(heading: str, count: int) -> None:
    found = rows(heading)
    assert len(found) == count
    assert [row for row in found if not TEST.search(row)] == []
    assert [name for row in found for name in missing(row)] == []


def test_a_test_that_does_not_exist_is_noticed() -> None:
    assert missing("| `tests/unit/docs/test_remediation.py::test_of_nothing` |") != []
    assert missing("| `tests/unit/docs/test_nothing.py::test_of_nothing` |") != []


def test_tests_are_named_in_one_way() -> None:
    assert re.findall(r"\btest_\w+(?=`)", PAGE) == [name for _, name in TEST.findall(PAGE)]

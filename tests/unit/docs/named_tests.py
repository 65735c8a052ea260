"""Tests that a page names as `tests/PATH.py::NAME`."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def rows(page: str, heading: str) -> list[str]:
    """The rows of the table below a heading."""
    [section] = re.findall(rf"^## {heading}$(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    return [line for line in section.splitlines() if line.startswith("|")][2:]


def missing(row: str) -> list[str]:
    """The tests that a row names and that do not exist."""
    return [
        f"{path}::{name}"
        for path, name in TEST.findall(row)
        if not (ROOT / path).is_file()
        or not re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
    ]

"""The commands of a page that a test executes, and what they print there."""

from __future__ import annotations

import re
from typing import NamedTuple

from tests.cluster.settings import ROOT


class Example(NamedTuple):
    """A command, and its output as the page shows it."""

    command: str
    shown: str


def examples(page: str, test: str) -> list[Example]:
    """What a page of docs/ shows in the blocks that this test executes.

    They have the comment `<!-- executed by TEST -->` in front of them. A line that is indented
    belongs to the command before it.
    """
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(rf"<!-- executed by {re.escape(test)} -->\n\n```console\n(.*?)```", text, re.DOTALL)
    parts = [part for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    return [_example(part.splitlines()) for part in parts]


def _example(lines: list[str]) -> Example:
    end = next((number for number, line in enumerate(lines) if number and not line.startswith("  ")), len(lines))
    return Example("\n".join(lines[:end]), "\n".join(lines[end:]).strip())

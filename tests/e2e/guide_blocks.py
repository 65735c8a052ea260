"""The fenced blocks of a guide, in order, and what its test does with each.

A comment above a block changes what is done with it:

    <!-- file: chat.yaml -->        the reader saves the block under this name
    <!-- dry run: REASON -->        the API server checks the objects and keeps none of them
    <!-- answer -->                 what the command above prints, in shape
    <!-- not run: REASON -->        nothing; the reason says what the block needs
"""

from __future__ import annotations

import json
import re
import shlex
import textwrap
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
VALUES = ROOT / "charts" / "qwen-operator" / "values.yaml"
LANGUAGES = frozenset({"bash", "console", "python", "yaml"})
"""Of the blocks that a reader executes. Others are examples of files and answers."""
_MARK = r"<!-- (?P<mark>not run|dry run|file|answer)(?:: (?P<note>(?:(?!-->).)+))? -->\n\n?"
_BLOCK = re.compile(
    rf"(?:^ *{_MARK})?^(?P<indent> *)```(?P<language>\w+)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
_HEREDOC = re.compile(r"<<-?\s*['\"]?(\w+)")
_TABLE = re.compile(r"[A-Z][A-Z ()-]+")
_READ = re.compile(r"(?:kubectl (?:describe|get|logs|rollout status|wait)|curl)\b")


class Kind(Enum):
    """What is done with a block."""

    COMMANDS = "its commands run in the page's shell"
    SCRIPT = "Python runs it"
    FILE = "it is saved under its name"
    OBJECTS = "kubectl applies it"
    DRY_RUN = "the API server checks it"
    PART = "the API server checks it as a change of the page's service"
    VALUES = "Helm renders the chart with it"
    ANSWER = "it has the shape of the last answer"
    EXCUSED = "nothing, for a reason"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    mark: str = ""
    note: str = ""

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def kind(self) -> Kind:
        """What is done with the block. Raises ValueError if nobody has said so."""
        marked = {"not run": Kind.EXCUSED, "answer": Kind.ANSWER, "file": Kind.FILE}.get(self.mark)
        if marked is not None:
            return marked
        if self.language == "yaml":
            return self._kind_of_yaml()
        by_language = {"console": Kind.COMMANDS, "bash": Kind.COMMANDS, "python": Kind.SCRIPT}
        if self.mark or self.language not in by_language:
            raise ValueError(f"{self.where}: nothing is known to be done with this block")
        return by_language[self.language]

    def _kind_of_yaml(self) -> Kind:
        documents = list(yaml.safe_load_all(self.text))
        if all(isinstance(document, dict) and "apiVersion" in document for document in documents):
            return Kind.DRY_RUN if self.mark else Kind.OBJECTS
        [document] = documents
        if not self.mark and isinstance(document, dict):
            if document.keys() == {"spec"}:
                return Kind.PART
            if document.keys() <= yaml.safe_load(VALUES.read_text(encoding="utf-8")).keys():
                return Kind.VALUES
        raise ValueError(f"{self.where}: nothing is known to be done with this block")


@dataclass(frozen=True)
class Step:
    """A command of a console block, and what the page shows of its output."""

    command: str
    shown: str


def all_blocks(page: str) -> list[Block]:
    """Every block of a page that has a language; `page` is its path in the repository."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, found.start("indent")) + 1,
            found["language"],
            textwrap.dedent(found["text"]),
            found["mark"] or "",
            " ".join((found["note"] or "").split()),
        )
        for found in _BLOCK.finditer(text)
    ]


def blocks(page: str) -> list[Block]:
    """The blocks of a page that a reader executes, and the answers that it shows."""
    return [block for block in all_blocks(page) if block.language in LANGUAGES or block.mark]


def steps(block: Block) -> list[Step]:
    """The commands of a block, as a reader pastes them. Raises ValueError without a prompt."""
    if block.language == "bash":
        return [Step(block.text.rstrip("\n"), "")]
    commands: list[list[str]] = []
    outputs: list[list[str]] = []
    goes_on = False
    for line in block.text.splitlines():
        if goes_on:
            commands[-1].append(line)
        elif line.startswith("$ "):
            commands.append([line.removeprefix("$ ")])
            outputs.append([])
        elif outputs:
            outputs[-1].append(line)
            continue
        else:
            raise ValueError(f"{block.where}: there is no command above the output {line!r}")
        goes_on = is_incomplete("\n".join(commands[-1]))
    if goes_on:
        raise ValueError(f"{block.where}: a command is not complete")
    return [
        Step("\n".join(command), "\n".join(output).strip("\n"))
        for command, output in zip(commands, outputs, strict=True)
    ]


def is_incomplete(command: str) -> bool:
    """Whether a shell would wait for another line."""
    if command.endswith("\\"):
        return True
    first, *others = command.splitlines()
    heredoc = _HEREDOC.search(first)
    if heredoc:
        return heredoc[1] not in others
    try:
        shlex.split(command, comments=True)
    except ValueError:  # a quotation is open
        return True
    return False


def difference(shown: str, actual: str) -> str:
    """How the output of a command differs from what the page shows; empty if the shape is the same.

    JSON must have the keys that are shown, with values of the same types. A table must have the
    same columns. Other output must be equal.
    """
    if not shown:
        return ""
    if shown.startswith(("{", "[")):
        try:
            answer = json.loads(actual)
        except ValueError:
            return f"this is no JSON: {actual!r}"
        return _json_difference(json.loads(shown), answer, "$")
    header, *rows = shown.splitlines()
    if not _TABLE.fullmatch(header):
        return "" if shown.split() == actual.split() else f"{actual!r} instead of {shown!r}"
    lines = actual.splitlines()
    if not lines or lines[0].split() != header.split():
        return f"the columns {header.split()} are not those of {actual!r}"
    return "" if len(lines) > 1 or not rows else f"no row below {lines[0]!r}"


def _json_difference(shown: Any, actual: Any, path: str) -> str:
    """The first difference in keys or types; null fits every type."""
    if isinstance(shown, dict) and isinstance(actual, dict):
        lacks = shown.keys() - actual.keys()
        if lacks:
            return f"{path} lacks {sorted(lacks)}"
        inside = (_json_difference(value, actual[key], f"{path}.{key}") for key, value in shown.items())
        return next(filter(None, inside), "")
    if isinstance(shown, list) and isinstance(actual, list):
        if not shown or not actual:
            return ""
        return _json_difference(shown[0], actual[0], f"{path}[0]")
    if shown is None or actual is None or _type_name(shown) == _type_name(actual):
        return ""
    return f"{path} is {_type_name(actual)} instead of {_type_name(shown)}"


def _type_name(value: Any) -> str:
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    return "an object" if isinstance(value, dict) else "a list"


def is_read(command: str) -> bool:
    """Whether a command only reads, so that it may be tried again."""
    return _READ.match(command) is not None

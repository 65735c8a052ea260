"""The commands of a page: what stands behind `$ ` in its console blocks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

_BLOCK = re.compile(r"^( *)```console\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)
_SEPARATORS = {"|", "&&", "||", ";", "&"}


class Command(NamedTuple):
    """One program with its arguments, without the variables that are set for it."""

    program: str
    arguments: list[str]

    def __str__(self) -> str:
        return " ".join([self.program, *self.arguments])

    @property
    def own_arguments(self) -> list[str]:
        """The arguments before `--`, which begins those of another program."""
        if "--" not in self.arguments:
            return self.arguments
        return self.arguments[: self.arguments.index("--")]

    @property
    def flags(self) -> list[str]:
        """The names of its flags, without their values."""
        return [argument.partition("=")[0] for argument in self.own_arguments if re.match(r"-{1,2}[a-zA-Z]", argument)]

    def values(self, flag: str) -> list[str]:
        """The values of a flag that may be given more than once."""
        following = zip(self.own_arguments, [*self.own_arguments[1:], ""], strict=False)
        return [
            value if argument == flag else argument.partition("=")[2]
            for argument, value in following
            if argument.partition("=")[0] == flag
        ]


def commands(page: Path) -> Iterator[Command]:
    """Every program that the page's console blocks call, in a pipeline each of its parts."""
    for _, block in _BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in _lines(block):
            yield from _programs(line)


def _lines(block: str) -> Iterator[list[str]]:
    """The words of each line behind a prompt, with the lines that continue it."""
    pending = ""
    for line in block.splitlines():
        if pending.endswith("\\"):
            pending = pending.removesuffix("\\") + line
        elif pending:
            pending += "\n" + line
        elif line.lstrip().startswith("$ "):
            pending = line.lstrip().removeprefix("$ ")
        else:
            continue  # output
        if pending.endswith("\\"):
            continue
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:  # a quotation goes on in the next line
            continue
        pending = ""
        yield words
    assert not pending, f"a command is not complete: {pending}"


def _programs(words: list[str]) -> Iterator[Command]:
    for separator, part in groupby(words, key=lambda word: word in _SEPARATORS):
        rest = list(part)
        while rest and _ASSIGNMENT.fullmatch(rest[0]):
            rest.pop(0)
        if not separator and rest:
            yield Command(rest[0], rest[1:])

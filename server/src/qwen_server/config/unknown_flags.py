"""Flags that the server does not have, and what to write instead.

Most of them are vLLM's, because `vllm serve` takes them without a `--`. vLLM is not asked which
flags it has: its import takes seconds.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Final

from qwen_server.config.pass_through import instead_of

# vLLM's flags that may follow `--`, but for which the server has a flag of its own.
_OWN_FLAGS: Final = {"--limit-mm-per-prompt": "use --max-images"}
_FLAG: Final = re.compile(r"--?[A-Za-z][\w.+-]*")
_SIMILAR: Final = 0.85


def explain(words: Sequence[str], own: Sequence[str]) -> str:
    """Returns what is wrong with the words of a command line that belong to no flag of the server.

    `own` holds the server's flags as they are written. The values of other flags are not shown,
    because one of them may be a key.
    """
    return "; ".join([*_stray(words), *_unknown(words, own)])


def _stray(words: Sequence[str]) -> Iterator[str]:
    """A sentence for each word before the first unknown flag. After it, a word may be its value."""
    stray = list(takewhile(lambda word: not _FLAG.match(word), words))
    if stray[:1] == ["serve"]:
        yield "leave out serve: qwen-server has no such command"
        stray = stray[1:]
    for word in stray:
        yield f"{word!r} is not the value of a flag: if it is the model, write --model={word}"


def _unknown(words: Sequence[str], own: Sequence[str]) -> Iterator[str]:
    """A sentence for each flag that has a replacement, and one for all others."""
    others: list[str] = []
    for name in dict.fromkeys(match[0] for word in words if (match := _FLAG.match(word))):
        if hint := _hint(name, own):
            yield f"{name} is not a flag of the server: {hint}"
        else:
            others.append(name)
    if others:
        are = "is not a flag" if len(others) == 1 else "are not flags"
        names = ", ".join(others)
        example = " ".join(["qwen-server ... --", *(f"{name} ..." for name in others)])
        yield f"{names} {are} of the server: vLLM's own flags follow `--`, as in {example}"


def _hint(name: str, own: Sequence[str]) -> str:
    """What to write instead of a flag; empty if nothing is known."""
    written = name.replace("_", "-")
    if written in own:
        return f"did you mean {written}?"
    if replaced := _OWN_FLAGS.get(written) or instead_of(written):
        return replaced
    similar = difflib.get_close_matches(written, own, 1, cutoff=_SIMILAR)
    return f"did you mean {similar[0]}? If it is a flag of vLLM, write it after `--`" if similar else ""

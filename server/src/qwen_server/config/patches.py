"""Patches: every place that reaches past a public interface of vLLM, uvicorn or multiprocessing.

Each patch is a module in `engine/vllm/patches/` or `http/` that states what it gains and what it
relies on. It is in use if the setting `patches` allows it and everything it relies on exists.
Otherwise the server works without it, but more slowly. The log and the metric `qwen_patch_in_use`
say which patches are in use.
"""

from __future__ import annotations

import dis
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any

_log = logging.getLogger(__name__)

ENGINE_PATCHES = (
    "bounded-masks",
    "checked-grammars",
    "early-core",
    "fast-metrics",
    "output-tap",
    "polite-compiler",
    "replay",
    "spot-renderer",
    "step-heartbeat",
    "token-loop",
)
HTTP_PATCHES = ("early-writes", "joined-heads")
ALL_PATCHES = (*ENGINE_PATCHES, *HTTP_PATCHES)


def parse_patches(value: object) -> object:
    """Returns the patch names in a setting: `on`, `off`, or names separated by commas.

    Raises ValueError.
    """
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text in ("on", "off"):
        return frozenset(ALL_PATCHES if text == "on" else ())
    names = frozenset(name.strip() for name in text.split(","))
    if unknown := sorted(names.difference(ALL_PATCHES)):
        raise ValueError(f"{unknown[0]!r} is neither on, off, nor a patch ({', '.join(ALL_PATCHES)})")
    return names


@dataclass(frozen=True, slots=True)
class Patch:
    """One patch: its name, its gain, and what it relies on, in words.

    `missing` yields whatever it relies on that does not exist. It may import the modules that it
    checks.
    """

    name: str
    gains: str
    relies_on: str
    missing: Callable[[], Iterable[str]]


class Patches:
    """Decides which patches are in use, once for each."""

    def __init__(self, wanted: frozenset[str]) -> None:
        self._wanted = wanted
        self._in_use: dict[str, bool] = {}

    @property
    def in_use(self) -> Mapping[str, bool]:
        """Whether each patch that `use` was called for is in use."""
        return self._in_use

    def use(self, patch: Patch) -> bool:
        """Returns whether to use `patch`. Checks it on the first call, and logs what is missing."""
        if patch.name not in self._in_use:
            self._in_use[patch.name] = patch.name in self._wanted
            if self._in_use[patch.name] and (missing := _missing(patch)):
                self.withdraw(patch, missing)
        return self._in_use[patch.name]

    def withdraw(self, patch: Patch, missing: Iterable[str]) -> None:
        """Records and logs that `patch` is not in use, because what it relies on is missing."""
        self._in_use[patch.name] = False
        _log.warning(
            "patch %s is not in use: %s not found; it relies on: %s; without it you lose: %s",
            patch.name,
            ", ".join(missing),
            patch.relies_on,
            patch.gains,
        )


def _missing(patch: Patch) -> list[str]:
    try:
        return list(patch.missing())
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        return [str(error)]


def absent(owner: Any, *names: str) -> Iterator[str]:
    """Yields the names that `owner`, a class or a module, does not have.

    A class also has the attributes that its methods set.
    """
    known = set(dir(owner))
    if isinstance(owner, type):
        for base in owner.__mro__:
            known.update(getattr(base, "__annotations__", ()))
            for member in vars(base).values():
                code = getattr(inspect.unwrap(member) if callable(member) else member, "__code__", None)
                if isinstance(code, CodeType):
                    known.update(step.argval for step in dis.get_instructions(code) if step.opname == "STORE_ATTR")
    for name in names:
        if name not in known:
            yield f"{owner.__name__}.{name}"


def changed_parameters(function: Any, *expected: str) -> Iterator[str]:
    """Yields the expected signature if `function` does not begin with the `expected` parameters.

    `self` is one of the parameters.
    """
    names = tuple(inspect.signature(function).parameters)[: len(expected)]
    if names != expected:
        yield f"{function.__qualname__}({', '.join(expected)})"

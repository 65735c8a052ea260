"""The modules that an adapter has weights for, held against those of the model. Pure.

vLLM compares the last part of a module's name only. Weights for a module that the model does not
have, such as `foo.q_proj`, would be ignored: the adapter would answer as the model does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from qwen_server.engine.adapter_files import WEIGHTS, AdapterFiles

ABSENT: Final = 0
UNUSED: Final = 1
USED: Final = 2
"""What a part of the model does with the weights of an adapter for a module.

It does not have the module, it has it but applies no adapter to it, or it applies them.
"""
_MOST_NAMED: Final = 4
_LONGEST: Final = 100


def check_modules(files: AdapterFiles, answers: Sequence[Sequence[int]]) -> str:
    """Compares the modules of an adapter with those of the model.

    answers: what each part of the model does with each of `files.weights`, in their order. Each
        worker holds a part.

    Returns the modules whose weights the model does not use, for a message; "" if there are none.
    Raises BrokenAdapterError for modules that no part has, and if no weights are used at all.
    """
    found = dict(zip(files.weights, map(max, zip(*answers, strict=True)), strict=True))
    if absent := [module for module, use in found.items() if use == ABSENT]:
        raise files.broken(f"{WEIGHTS} has weights for modules that the model does not have: {_listed(absent)}")
    unused = [module for module, use in found.items() if use == UNUSED]
    if len(unused) == len(found):
        raise files.broken(f"{WEIGHTS} has weights only for modules that take no adapter: {_listed(unused)}")
    return _listed(unused)


def _listed(modules: Sequence[str]) -> str:
    """The first of the modules, and how many more there are."""
    shown = [module if len(module) <= _LONGEST else f"{module[:_LONGEST]}..." for module in modules[:_MOST_NAMED]]
    more = len(modules) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")

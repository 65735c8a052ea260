"""Compiles grammars in the engine core with less priority than its steps.

The core compiles in a thread, and xgrammar adds eight more. On a machine with few cores they would
take most of the CPU time from the core's own steps and from the event loop.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Iterator
from typing import Any, Final

from qwen_server.config.patches import Patch, absent, changed_parameters

_NICENESS: Final = 10
_MODULE: Final = "vllm.v1.structured_output"


def _missing() -> Iterator[str]:
    manager = importlib.import_module(_MODULE).StructuredOutputManager
    yield from absent(manager, "executor", "_use_async_grammar_compilation")
    yield from changed_parameters(manager._create_grammar, "self", "request")  # noqa: SLF001


POLITE_COMPILER: Final = Patch(
    name="polite-compiler",
    gains="steps of the engine that hardly notice that a grammar is compiled (docs/decisions/0012)",
    relies_on="the method of vLLM's StructuredOutputManager that compiles in a thread; and the patch early-core",
    missing=_missing,
)


def compile_politely() -> None:
    """Lowers the priority of the threads that compile grammars. Runs in the engine core."""
    if any(_missing()):
        return
    manager = importlib.import_module(_MODULE).StructuredOutputManager
    create = manager._create_grammar  # noqa: SLF001

    def create_grammar(self: Any, request: Any) -> Any:
        if self._use_async_grammar_compilation:  # else it is the thread of the steps
            # The threads that xgrammar starts inherit the priority.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        return create(self, request)

    manager._create_grammar = create_grammar  # noqa: SLF001

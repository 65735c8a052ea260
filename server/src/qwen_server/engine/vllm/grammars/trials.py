"""The checks of grammars for one engine, as its settings ask for them."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Final

from qwen_server.config.settings import Settings
from qwen_server.engine.vllm import environment
from qwen_server.engine.vllm.grammars.checks import GrammarChecks
from qwen_server.engine.vllm.grammars.fork_server import ForkServer

_COMPILER: Final = "qwen_server.engine.vllm.grammars.compiler:start"
_MEMORY: Final = 1 << 30
# A grammar that compiled in a second on trial may take some in the engine core, which is busy.
_CORE_FACTOR: Final = 4


class Trials:
    """Compiles grammars on trial. `config` returns vLLM's configuration.

    `executor` must have a thread that lives as long as the engine (see ForkServer).
    """

    def __init__(self, settings: Settings, executor: Executor, config: Callable[[], Any]) -> None:
        self._config = config
        self.forks = ForkServer(
            _COMPILER, self._setup, executor=executor, environment=environment.of_compiler, memory=_MEMORY
        )
        self.checks = GrammarChecks(
            self.forks,
            seconds=settings.grammar_timeout,
            patience=settings.queue_timeout,
            # As many as the engine core compiles at a time, so that none of them waits there.
            at_a_time=(multiprocessing.cpu_count() + 1) // 2,
        )

    def _setup(self) -> bytes:
        # Imported late, because it imports vLLM.
        from qwen_server.engine.vllm.grammars.compiler import Setup  # noqa: PLC0415

        return pickle.dumps(Setup(self._config()))


def longest_in_core(settings: Settings) -> float:
    """How many seconds the engine core may compile without making tokens."""
    return _CORE_FACTOR * settings.grammar_timeout

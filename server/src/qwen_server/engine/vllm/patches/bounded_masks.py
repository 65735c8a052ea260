"""Bounds the time that the steps of the engine core wait for the masks of a grammar.

Before each token, the grammar says which tokens it allows. What that costs depends on the text so
far, so that no trial can know it: some grammars are fast for a hundred tokens, and then need a
minute for one. All requests of the step would wait, because the core computes masks between the
steps and cannot interrupt xgrammar.

With this patch, a thread computes the masks. The grammar that exceeds its budget is rejected: its
requests end with an error, and the step goes on without it. Its thread ends when it can, with the
lowest priority.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from qwen_server.config.patches import Patch, absent, changed_parameters

_MODULE: Final = "vllm.v1.structured_output"
# A grammar may take this much CPU time at once. What it has used comes back with each step and each
# mask, because many requests may have the same grammar. Usual masks take 0.1 ms, and 1 ms with a
# large vocabulary.
_AT_ONCE_SECONDS: Final = 0.5
_STEP_SECONDS: Final = 0.05
_MASK_SECONDS: Final = 0.005
# Threads that still compute a mask of a rejected grammar. With more of them, the core takes no
# grammar that it does not know.
_MOST_LOST_THREADS: Final = 4
_MOST_ACCOUNTS: Final = 4096
_LOWEST_PRIORITY: Final = 19
_ACCOUNT: Final = "_qwen_account"


def _missing() -> Iterator[str]:
    manager = importlib.import_module(_MODULE).StructuredOutputManager
    yield from absent(manager, "_grammar_bitmask")
    yield from changed_parameters(manager._create_grammar, "self", "request")  # noqa: SLF001
    yield from changed_parameters(manager._fill_bitmasks, "self", "batch")  # noqa: SLF001
    yield from changed_parameters(
        manager.grammar_bitmask,
        "self",
        "requests",
        "structured_output_request_ids",
        "scheduled_spec_decode_tokens",
    )


BOUNDED_MASKS: Final = Patch(
    name="bounded-masks",
    gains="a bound on the time that all requests wait for the grammar of one (docs/decisions/0012)",
    relies_on="the methods of vLLM's StructuredOutputManager that compute masks; and the patch early-core",
    missing=_missing,
)


def bound_masks() -> None:
    """Computes masks in a thread, within a budget. Runs in the engine core."""
    if not any(_missing()):
        Guard().attach(importlib.import_module(_MODULE).StructuredOutputManager)


class RejectedGrammar:
    """Takes the place of a grammar that is too expensive. It accepts no token.

    vLLM then ends the request with an error.
    """

    def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
        """Accepts nothing."""
        del request_id, tokens
        return False

    def validate_tokens(self, tokens: list[int]) -> list[int]:
        """Accepts nothing."""
        del tokens
        return []

    def fill_bitmask(self, bitmask: Any, idx: int) -> None:
        """Leaves the mask as it is."""

    def rollback(self, num_tokens: int) -> None:
        """Does nothing."""

    def reset(self) -> None:
        """Does nothing."""

    def is_terminated(self) -> bool:
        """It never ends."""
        return False


@dataclass(slots=True)
class _Account:
    """What the masks of one grammar have cost, in all of its requests."""

    # The CPU time in seconds that the next mask may take.
    left: float = field(default_factory=lambda: _AT_ONCE_SECONDS)
    masks: int = 0
    latest: _Attempt | None = None
    rejected: bool = False

    def book(self, seconds: float, attempt: _Attempt) -> None:
        """Adds a mask of the step that `attempt` is for."""
        earned = _MASK_SECONDS if attempt is self.latest else _MASK_SECONDS + _STEP_SECONDS
        self.left = min(self.left + earned, _AT_ONCE_SECONDS) - seconds
        self.latest = attempt
        self.masks += 1


@dataclass(slots=True, eq=False)
class _Attempt:
    """The computation of the masks of one step."""

    work: Callable[[], Any]
    done: threading.Event = field(default_factory=threading.Event)
    result: Any = None
    error: BaseException | None = None
    given_up: bool = False
    # The grammar that each thread is at, and the thread's CPU time when it began.
    filling: dict[int, tuple[_Account, float]] = field(default_factory=dict)


class _GivenUpError(Exception):
    """Ends the thread of an attempt that was given up."""


def _cpu_seconds(thread: int) -> float:
    return time.clock_gettime(time.pthread_getcpuclockid(thread))


class Guard:
    """Wraps the methods of a StructuredOutputManager. There is one manager in a core."""

    def __init__(self) -> None:
        self._accounts: OrderedDict[Any, _Account] = OrderedDict()
        self._local = threading.local()
        self._attempt: _Attempt | None = None
        self._lost: list[_Attempt] = []
        self._rejects = False  # an account has been rejected since its requests were looked at
        self._jobs: queue.SimpleQueue[_Attempt | None] | None = None

    def attach(self, manager: type[Any]) -> None:
        """Replaces the methods of the class."""
        create, fill, compute = manager._create_grammar, manager._fill_bitmasks, manager.grammar_bitmask  # noqa: SLF001

        def create_grammar(self_: Any, request: Any) -> Any:
            account = self._account(request.structured_output_request.structured_output_key)
            if account.rejected or (not account.masks and self._lost_threads() >= _MOST_LOST_THREADS):
                return RejectedGrammar()
            grammar = create(self_, request)
            setattr(grammar, _ACCOUNT, account)
            return grammar

        def fill_bitmasks(self_: Any, batch: Iterable[tuple[Any, int, bool]]) -> None:
            attempt = getattr(self._local, "attempt", None) or self._attempt
            for grammar, index, applied in batch:
                account = getattr(grammar, _ACCOUNT, None)
                if account is None:
                    fill(self_, ((grammar, index, applied and not isinstance(grammar, RejectedGrammar)),))
                elif account.rejected or not applied:
                    fill(self_, ((grammar, index, False),))
                else:
                    self._measure(attempt, account, partial(fill, self_, ((grammar, index, True),)))

        def grammar_bitmask(
            self_: Any, requests: Mapping[str, Any], ids: Sequence[str], drafts: Mapping[str, Any]
        ) -> Any:
            if not ids:
                return None
            return self._compute(self_, requests, lambda: compute(self_, requests, ids, drafts))

        manager._create_grammar = create_grammar  # noqa: SLF001
        manager._fill_bitmasks = fill_bitmasks  # noqa: SLF001
        manager.grammar_bitmask = grammar_bitmask

    def _measure(self, attempt: _Attempt | None, account: _Account, work: Callable[[], None]) -> None:
        """Computes one mask. Raises _GivenUpError if nobody waits for the masks any more."""
        if attempt is None:
            work()
            return
        thread, begun = threading.get_ident(), time.thread_time()
        if attempt.given_up:
            raise _GivenUpError
        attempt.filling[thread] = account, begun
        try:
            work()
        finally:
            del attempt.filling[thread]
        if attempt.given_up:
            raise _GivenUpError
        account.book(time.thread_time() - begun, attempt)
        if account.left < 0:
            account.rejected = self._rejects = True

    def _account(self, key: Any) -> _Account:
        account = self._accounts.setdefault(key, _Account())
        while len(self._accounts) > _MOST_ACCOUNTS:
            self._accounts.popitem(last=False)
        return account

    def _lost_threads(self) -> int:
        self._lost = [attempt for attempt in self._lost if attempt.filling]
        return sum(len(attempt.filling) for attempt in self._lost)

    def _compute(self, manager: Any, requests: Mapping[str, Any], work: Callable[[], Any]) -> Any:
        """The masks of a step. Each grammar that exceeds its budget meanwhile is rejected."""
        while True:
            attempt = self._attempt = _Attempt(work)
            self._begin(attempt)
            in_time = self._wait(attempt)
            if not in_time:
                self._give_up(attempt, manager)
            self._reject(requests)
            if in_time and attempt.error is not None:
                raise attempt.error
            if in_time:
                return attempt.result

    def _begin(self, attempt: _Attempt) -> None:
        if self._jobs is None:
            self._jobs = queue.SimpleQueue()
            threading.Thread(target=self._work, args=(self._jobs,), name="masks", daemon=True).start()
        self._jobs.put(attempt)

    def _work(self, jobs: queue.SimpleQueue[_Attempt | None]) -> None:
        while (attempt := jobs.get()) is not None:
            self._local.attempt = attempt
            try:
                attempt.result = attempt.work()
            except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
                attempt.error = error
            attempt.done.set()

    def _wait(self, attempt: _Attempt) -> bool:
        """Whether the masks are there. If not, the accounts of the culprits are rejected."""
        while not attempt.done.wait(_AT_ONCE_SECONDS):
            # The CPU time counts, because the machine may be busy with other things.
            for thread, (account, begun) in list(attempt.filling.items()):
                if _cpu_seconds(thread) - begun > account.left:
                    account.rejected = self._rejects = True
                    return False
        return True

    def _give_up(self, attempt: _Attempt, manager: Any) -> None:
        attempt.given_up = True
        self._lost.append(attempt)
        if self._jobs is not None:
            self._jobs.put(None)
        self._jobs = None
        # The lost threads may still write into this one, and keep their executor busy.
        manager._grammar_bitmask = None  # noqa: SLF001
        executor = getattr(manager, "executor_for_fillmask", None)
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)
            manager.executor_for_fillmask = ThreadPoolExecutor(executor._max_workers)  # noqa: SLF001
        for thread in threading.enumerate():
            if thread.ident in attempt.filling and thread.native_id is not None:
                with contextlib.suppress(OSError):
                    os.setpriority(os.PRIO_PROCESS, thread.native_id, _LOWEST_PRIORITY)

    def _reject(self, requests: Mapping[str, Any]) -> None:
        """Takes the rejected grammars from their requests."""
        if not self._rejects:
            return
        self._rejects = False
        for request in requests.values():
            structured = request.structured_output_request
            grammar = None if structured is None else structured.grammar
            account = getattr(grammar, _ACCOUNT, None)
            if account is not None and account.rejected:
                structured.grammar = RejectedGrammar()

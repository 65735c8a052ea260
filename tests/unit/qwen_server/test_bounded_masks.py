"""A grammar whose masks take too long is rejected; the engine's steps go on without it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from qwen_server.engine.vllm.patches import bounded_masks
from qwen_server.engine.vllm.patches.bounded_masks import Guard, RejectedGrammar

FULL = -1


class Grammar:
    """Takes CPU time for each mask, from the mask `since` on, or until `stuck` is set."""

    def __init__(self, seconds: float = 0.0, since: int = 0) -> None:
        self._seconds, self._since = seconds, since
        self.masks = 0
        self.go_on = threading.Event()

    def fill_bitmask(self, bitmask: list[int], index: int) -> None:
        self.masks += 1
        if self.masks > self._since:
            end = time.thread_time() + self._seconds
            while time.thread_time() < end and not self.go_on.is_set():
                pass
        bitmask[index] = self.masks

    def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
        del request_id, tokens
        return True

    def is_terminated(self) -> bool:
        return False


class Structured:
    def __init__(self, key: str) -> None:
        self.structured_output_key = key
        self.grammar: Any = None


def manager_class(made: Mapping[str, Grammar]) -> type[Any]:
    """A class like vLLM's StructuredOutputManager, with a patch of its own."""

    class Manager:
        def __init__(self) -> None:
            self._grammar_bitmask: list[int] | None = None

        def _create_grammar(self, request: Any) -> Any:
            return made[request.structured_output_request.structured_output_key]

        def _fill_bitmasks(self, batch: Iterable[tuple[Any, int, bool]]) -> None:
            assert self._grammar_bitmask is not None
            for grammar, index, applied in batch:
                if applied and not grammar.is_terminated():
                    grammar.fill_bitmask(self._grammar_bitmask, index)
                else:
                    self._grammar_bitmask[index] = FULL

        def grammar_bitmask(
            self, requests: Mapping[str, Any], ids: Sequence[str], drafts: Mapping[str, Any]
        ) -> list[int]:
            del drafts
            if self._grammar_bitmask is None:
                self._grammar_bitmask = [0] * 8
            for index, name in enumerate(ids):
                self._fill_bitmasks(((requests[name].structured_output_request.grammar, index, True),))
            return list(self._grammar_bitmask[: len(ids)])

    Guard().attach(Manager)
    return Manager


class Core:
    """The part of an engine core that concerns grammars."""

    def __init__(self, made: Mapping[str, Grammar]) -> None:
        self._others = _mask_threads()
        self.manager = manager_class(made)()
        self.requests: dict[str, Any] = {"plain": SimpleNamespace(structured_output_request=None)}

    def add(self, name: str, key: str) -> None:
        request = SimpleNamespace(structured_output_request=Structured(key))
        request.structured_output_request.grammar = self.manager._create_grammar(request)
        self.requests[name] = request

    def step(self, *names: str) -> list[int]:
        masks: list[int] = self.manager.grammar_bitmask(self.requests, names, {})
        return masks

    def until_one_thread(self) -> None:
        end = time.monotonic() + 10
        while len(_mask_threads() - self._others) != 1:
            assert time.monotonic() < end
            time.sleep(0.01)

    def accepts(self, name: str) -> bool:
        accepted: bool = self.requests[name].structured_output_request.grammar.accept_tokens(name, [1])
        return accepted


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_masks, "_AT_ONCE_SECONDS", 0.05)
    monkeypatch.setattr(bounded_masks, "_STEP_SECONDS", 0.001)
    monkeypatch.setattr(bounded_masks, "_MASK_SECONDS", 0.0001)


@pytest.fixture
def stuck() -> Iterator[Grammar]:
    grammar = Grammar(seconds=60)
    yield grammar
    grammar.go_on.set()


def test_usual_grammars_are_computed_as_ever() -> None:
    core = Core({"a": Grammar(), "b": Grammar()})
    core.add("1", "a")
    core.add("2", "b")
    assert [core.step("1", "2"), core.step("2", "1"), core.step()] == [[1, 1], [2, 2], None]
    assert core.accepts("1")
    assert core.accepts("2")


def test_a_mask_that_does_not_end_rejects_its_grammar_and_holds_nobody_else(stuck: Grammar) -> None:
    core = Core({"stuck": stuck, "good": Grammar()})
    for name, key in (("1", "good"), ("2", "stuck"), ("3", "good"), ("4", "stuck")):
        core.add(name, key)
    began = time.monotonic()
    masks = core.step("1", "2", "3")
    assert time.monotonic() - began < 10
    assert masks[1] == FULL
    assert masks[2] > 0
    # The fourth request has the same grammar and was not even in this step.
    assert [core.accepts(name) for name in ("1", "2", "3", "4")] == [True, False, True, False]
    core.add("5", "stuck")
    assert not core.accepts("5")
    assert stuck.masks == 1


def test_a_late_mask_does_not_write_into_those_of_others(stuck: Grammar) -> None:
    core = Core({"stuck": stuck, "good": Grammar()})
    core.add("1", "stuck")
    core.add("2", "good")
    core.step("1")
    stuck.go_on.set()
    assert core.step("2", "1") == [1, FULL]
    core.until_one_thread()
    assert core.manager._grammar_bitmask[:2] == [1, FULL]


def test_many_masks_that_are_a_little_slow_use_up_the_budget() -> None:
    core = Core({"slow": Grammar(seconds=0.01, since=5), "good": Grammar()})
    core.add("1", "slow")
    core.add("2", "good")
    steps = 0
    while core.accepts("1"):
        core.step("1", "2")
        steps += 1
        assert steps < 50
    assert steps > 5
    assert core.accepts("2")


def test_nothing_is_saved_up_by_many_fast_masks() -> None:
    core = Core({"late": Grammar(seconds=0.2, since=100)})
    core.add("1", "late")
    for _ in range(100):
        core.step("1")
    assert core.accepts("1")
    core.step("1")
    assert not core.accepts("1")


def test_an_error_of_a_mask_is_raised_where_it_was() -> None:
    class Broken(Grammar):
        def fill_bitmask(self, bitmask: list[int], index: int) -> None:
            raise ValueError("broken")

    core = Core({"broken": Broken(), "good": Grammar()})
    core.add("1", "broken")
    core.add("2", "good")
    with pytest.raises(ValueError, match="broken"):
        core.step("1")
    assert core.step("2") == [1]


def test_new_grammars_are_rejected_while_too_many_threads_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_masks, "_MOST_LOST_THREADS", 2)
    made = {"a": Grammar(seconds=60), "b": Grammar(seconds=60), "known": Grammar(), "new": Grammar()}
    core = Core(made)
    core.add("known", "known")
    core.step("known")
    for name in ("a", "b"):
        core.add(name, name)
        core.step(name)
    core.add("new", "new")
    core.add("again", "known")
    assert [core.accepts("new"), core.accepts("again")] == [False, True]
    for name in ("a", "b"):
        made[name].go_on.set()
    core.until_one_thread()
    core.add("later", "new")
    assert core.accepts("later")


def test_a_rejected_grammar_accepts_nothing_and_allows_everything() -> None:
    grammar = RejectedGrammar()
    assert not grammar.accept_tokens("1", [1])
    assert grammar.validate_tokens([1]) == []
    assert not grammar.is_terminated()


def _mask_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "masks"}

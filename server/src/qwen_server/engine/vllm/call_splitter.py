"""Splits an answer into its text and its complete calls of tools. Nothing here knows vLLM.

A call is passed on once it is complete, so that no client runs half a call. A call that the answer
does not complete, because a limit or a stop string ended it, is text. The result is the same in
however many pieces the answer arrives.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Generic, TypeVar

Call = TypeVar("Call")


class CallSplitter(Generic[Call]):
    """Reads one answer.

    marks: for each mark that begins a call, the mark that ends it.
    dropped: marks that are neither text nor part of a call.
    read: the calls in a text that begins with a mark; none if it holds no valid call.
    is_whole: whether a text that begins with a mark is a whole call although its end mark is
        missing.
    """

    def __init__(
        self,
        marks: Mapping[str, str],
        dropped: Collection[str],
        read: Callable[[str], Sequence[Call]],
        is_whole: Callable[[str], bool],
    ) -> None:
        self._marks = marks
        self._dropped = dropped
        self._all_marks = (*marks, *dropped)
        self._read = read
        self._is_whole = is_whole
        # What is not passed on yet: blanks, the beginning of a mark, or the beginning of a call.
        self._held = ""
        self._has_text = False  # since the latest call
        self._has_calls = False

    def feed(self, text: str) -> tuple[str, list[Call]]:
        """Takes the next piece of the answer. Returns the text and the calls to pass on."""
        self._held += text
        passed, calls = "", list[Call]()
        while (found := self._first_mark()) is not None:
            start, mark = found
            if mark in self._dropped:
                self._held = self._held[:start] + self._held[start + len(mark) :]
                continue
            end_mark = self._marks[mark]
            end = self._held.find(end_mark, start + len(mark))
            if end < 0:
                return passed + self._available(start), calls
            end += len(end_mark)
            before, written, self._held = self._held[:start], self._held[start:end], self._held[end:]
            if read := self._read(written):
                passed += self._ahead_of_call(before)
                calls += read
            else:
                passed += self._text(before + written)
        return passed + self._available(len(self._held) - self._half_a_mark()), calls

    def finish(self) -> tuple[str, list[Call]]:
        """Returns the rest, once the answer has ended."""
        start, _ = self._first_mark() or (len(self._held), "")
        before, rest, self._held = self._held[:start], self._held[start:], ""
        calls = list(self._read(rest)) if rest and self._is_whole(rest) else []
        if calls or (self._has_calls and not rest):
            return self._ahead_of_call(before), calls
        return self._text(before + rest), []

    def _available(self, end: int) -> str:
        """Takes the text up to `end` out of what is held, unless there are only blanks so far."""
        text = self._held[:end]
        if not self._has_text and not text.strip():
            return ""
        self._held = self._held[end:]
        return self._text(text)

    def _text(self, text: str) -> str:
        self._has_text |= bool(text)
        return text

    def _ahead_of_call(self, text: str) -> str:
        """The text before a call or after the last one. Blanks alone only separate calls."""
        is_text = self._has_text or bool(text.strip())
        self._has_text, self._has_calls = False, True
        return text if is_text else ""

    def _first_mark(self) -> tuple[int, str] | None:
        found = [(self._held.find(mark), mark) for mark in self._all_marks]
        return min(((start, mark) for start, mark in found if start >= 0), default=None)

    def _half_a_mark(self) -> int:
        """The length of the end of what is held that may become a mark."""
        most = min(len(self._held), max(map(len, self._all_marks)) - 1)
        for size in range(most, 0, -1):
            if any(mark.startswith(self._held[-size:]) for mark in self._all_marks):
                return size
        return 0

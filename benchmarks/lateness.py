"""How late tokens are at the client: their arrival against the engine's step that made them.

A frontend may put several tokens into one event, so that events say nothing. All streams get the
same token in a step, which is one character (see `replay`): the characters of a stream name its
steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from benchmarks.figures import percentile
from benchmarks.pace import Step

Stream = Sequence[tuple[float, str]]  # when a piece of text came, and the text


class Lateness(NamedTuple):
    """Of the tokens made at the full pace; NaN if there were none."""

    p99: float  # seconds
    rate: float  # tokens a second that the engine made


def of(streams: Sequence[Stream], steps: Sequence[Step], words: str, first: int) -> Lateness:
    """Compares the arrivals with the steps, of which the first one has the number `first`.

    Raises ValueError if a token came that no step made.
    """
    places = {word: at for at, word in enumerate(words)}
    late: list[float] = []
    made: set[int] = set()
    for stream in streams:
        for step, came in _steps_of(stream, places, first):
            if step >= len(steps):
                raise ValueError(f"a token of step {first + step} came, and the engine made {first + len(steps)} steps")
            if steps[step].full:
                made.add(step)
                late.append(came - steps[step].at)
    if len(made) < 2:
        return Lateness(percentile([], 0.99), percentile([], 0.99))
    begun, ended = steps[min(made)].at, steps[max(made)].at
    return Lateness(percentile(late, 0.99), len(late) / (ended - begun))


def _steps_of(stream: Stream, places: dict[str, int], first: int) -> Iterator[tuple[int, float]]:
    """The step of each token, counted from the first one, and when the token came.

    The words repeat: a token belongs to the next step with its word.
    """
    at = -1
    for came, text in stream:
        for word in text:
            try:
                place = places[word]
            except KeyError as error:
                raise ValueError(f"the text has {word!r}, which no step makes") from error
            at += 1 + (place - first - at - 1) % len(places)
            yield at, came

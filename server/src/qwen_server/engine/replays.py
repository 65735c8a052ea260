"""What becomes of a request whose engine has died: the decisions, in plain values.

An answer continues only if its client cannot tell: the rest comes from the same distribution as
without the interruption. An answer of which the client has seen nothing can always start over.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from qwen_server.engine.base import EngineRestartedError, Observer, Output

Obstacle = Literal["grammar", "seed", "penalties", "bad_words", "repetition_detection", "logprobs", "unknown"]

_REASONS: Final[dict[Obstacle, str]] = {
    "grammar": "it follows a grammar",
    "seed": "it is sampled with a seed",
    "penalties": "it has a presence or frequency penalty",
    "bad_words": "it has bad_words",
    "repetition_detection": "it has repetition_detection",
    "logprobs": "it has log probabilities",
    "unknown": "the server does not know which tokens it has",
}
# A request that is in the engine at so many of its deaths may be their cause.
MOST_DEATHS: Final = 3
BEGUN_TEXT: Final = "vLLM's own serving code had begun it"


def restarted(reason: str) -> EngineRestartedError:
    """The error of an answer that cannot go on."""
    return EngineRestartedError(f"the engine was restarted, and this answer cannot go on: {reason}")


def require_innocence(deaths: int) -> None:
    """Raises EngineRestartedError if a request was in the engine at too many of its deaths."""
    if deaths >= MOST_DEATHS:
        raise restarted(f"the engine has died {deaths} times while it had the request")


@dataclass(frozen=True, slots=True)
class Interrupted:
    """One sequence when its engine died.

    made: the tokens that the engine has made, as far as the server knows.
    streamed: whether the client gets each token, so that it has seen what was made.
    known: whether the server has the tokens themselves.
    max_tokens, min_tokens: of the whole answer.
    """

    made: int
    streamed: bool
    max_tokens: int
    min_tokens: int = 0
    known: bool = True
    samples: bool = False
    seeded: bool = False
    grammar: bool = False
    penalties: bool = False
    bad_words: bool = False
    repetition_detection: bool = False
    logprobs: bool = False


@dataclass(frozen=True, slots=True)
class FromStart:
    """Start the sequence from its prompt."""


@dataclass(frozen=True, slots=True)
class Continued:
    """Continue after the tokens that were made, with what is left of the limits."""

    max_tokens: int
    min_tokens: int


Plan = FromStart | Continued


def plan(found: Interrupted) -> Plan:
    """How the sequence goes on. Raises EngineRestartedError if it cannot."""
    if found.made == 0:
        return FromStart()
    obstacle = obstacle_of(found)
    if obstacle is None and found.made < found.max_tokens:
        return Continued(found.max_tokens - found.made, max(found.min_tokens - found.made, 0))
    if not found.streamed:
        return FromStart()
    raise restarted(_REASONS[obstacle or "unknown"])


def obstacle_of(found: Interrupted) -> Obstacle | None:
    """Why an engine that gets the tokens as a part of the prompt would go on differently.

    The state of a grammar and of a random generator is lost. vLLM applies presence and frequency
    penalties, bad words and the detection of repetitions to what follows the prompt.
    """
    obstacles: tuple[tuple[Obstacle, bool], ...] = (
        ("grammar", found.grammar),
        ("seed", found.seeded and found.samples),
        ("penalties", found.penalties),
        ("bad_words", found.bad_words),
        ("repetition_detection", found.repetition_detection),
        ("logprobs", found.logprobs),
        ("unknown", not found.known),
    )
    return next((name for name, there in obstacles if there), None)


@dataclass(slots=True)
class Observations:
    """Passes on what an answer gains over all attempts, each token once.

    An answer that starts over makes its tokens again. Its client and the statistics see the last
    attempt only, so what an earlier one has reported already is left out.
    """

    observe: Observer
    _reported: Counter[int] = field(default_factory=Counter)
    _made: Counter[int] = field(default_factory=Counter)
    _prompts_reported: int = 0
    _prompts: int = 0

    def begin(self) -> None:
        """An attempt begins."""
        self._made.clear()
        self._prompts = 0

    def __call__(self, output: Output) -> None:
        """Reports what is new in an output of the current attempt."""
        deltas = []
        for delta in output.deltas:
            made = self._made[delta.index] = self._made[delta.index] + delta.tokens
            new = max(made - self._reported[delta.index], 0)
            self._reported[delta.index] = max(made, self._reported[delta.index])
            deltas.append(replace(delta, tokens=min(new, delta.tokens)))
        self._prompts += output.prompt_tokens
        prompts = max(self._prompts - self._prompts_reported, 0)
        self._prompts_reported = max(self._prompts, self._prompts_reported)
        self.observe(replace(output, deltas=tuple(deltas), prompt_tokens=min(prompts, output.prompt_tokens)))

"""What the HTTP layer needs from an engine, as plain values; nothing here knows vLLM.

An engine turns validated request bodies into token streams and tells how alive it is. Judging that (hung, stalled,
dead) is pure: `hung_seconds` and `stalled_seconds` take the engine's vital signs and the clock's reading.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

# What a client may ask for. The last three generate nothing.
Kind = Literal["chat", "completion", "responses", "messages", "count_tokens", "tokenize", "detokenize"]
FinishReason = Literal["stop", "length", "tool_calls", "abort", "error"]
EngineState = Literal["starting", "ready", "dead"]


class EngineError(Exception):
    """The engine failed; the client is answered 500 with the text."""


class EngineGoneError(EngineError):
    """The engine's processes are gone and will not come back; the process must exit."""


class InvalidRequestError(Exception):
    """The engine refuses the request: the client is answered `status` with the parameter's name."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.status = status


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What is served. `kv_cache_tokens` is the number of tokens that the KV cache holds; 0 when unknown.

    `chats_need_parsing`: the model always thinks before it answers, so that every chat takes the reference path.
    `patches` tells of each patch of the engine whether it is in use.
    """

    served_name: str
    root: str
    max_model_len: int
    max_num_seqs: int
    kv_cache_tokens: int
    device: Literal["cuda", "cpu"]
    chats_need_parsing: bool = False
    patches: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that is rendered, tokenized and checked: nothing about it can be refused any more.

    `payload` belongs to the engine. `prompt_tokens` is summed over the prompts; choices are numbered
    `prompt index * n + k`.
    """

    request_id: str
    prompt_tokens: int
    prompts: int
    n: int
    payload: Any


@dataclass(frozen=True, slots=True)
class Delta:
    """What one choice gained since the last output: text, its number of tokens and, at the end, the reason."""

    index: int
    text: str
    tokens: int
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """One step's gains of a request.

    `first_token_at` is the `time.monotonic()` of the request's first token, also where a single output carries the
    whole answer. `prompt_tokens` counts the tokens of prompts that report for the first time: for observers, who see
    no `Prepared`.
    """

    deltas: tuple[Delta, ...]
    finished: bool
    first_token_at: float | None = None
    prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Vitals:
    """Signs of life, all times in seconds of `time.monotonic()`.

    unfinished: requests inside the engine. last_step_at: the scheduler's latest step. last_token_at: the latest step
    that produced prompt or output tokens, or the moment when the engine was last idle. ping_sent_at: when the oldest
    unanswered ping was sent, None when all are answered. busy_since: when `unfinished` last rose from 0. cpu_active_at:
    when the engine's processes were last seen using CPU time; None where it is not measured (CUDA spins while hung).
    """

    state: EngineState
    unfinished: int = 0
    last_step_at: float | None = None
    last_token_at: float | None = None
    ping_sent_at: float | None = None
    busy_since: float | None = None
    cpu_active_at: float | None = None
    kv_cache_usage: float = 0.0
    death_cause: str | None = None


def hung_seconds(vitals: Vitals, now: float) -> float:
    """For how long the engine has made no scheduler step with work present, or left a ping unanswered; 0.0 if alive.

    On a CPU a long step is not a hang: there the engine's processes must also have used no CPU time.
    """
    if vitals.state != "ready":
        return 0.0
    ages = [0.0]
    if vitals.unfinished > 0:
        starts = [t for t in (vitals.last_step_at, vitals.busy_since) if t is not None]
        if starts:
            ages.append(now - max(starts))
    elif vitals.ping_sent_at is not None:
        ages.append(now - vitals.ping_sent_at)
    age = max(ages)
    if vitals.cpu_active_at is not None:
        age = min(age, now - vitals.cpu_active_at)
    return max(age, 0.0)


def stalled_seconds(vitals: Vitals, now: float) -> float:
    """For how long requests were present and the scheduler stepped without a prompt or output token; 0.0 if none.

    Judged at the latest step: nobody knows what one that goes on will bring, and whether it ends is the hang's matter.
    """
    if vitals.state != "ready" or vitals.unfinished == 0 or vitals.last_step_at is None:
        return 0.0
    starts = [t for t in (vitals.last_token_at, vitals.busy_since) if t is not None]
    return max(min(now, vitals.last_step_at) - max(starts), 0.0) if starts else 0.0


@dataclass(frozen=True, slots=True)
class ReferenceAnswer:
    """An answer of the engine's own serving code: a JSON body with its status, or the events of a stream."""

    status: int = 200
    body: dict[str, Any] = field(default_factory=dict)
    stream: AsyncIterator[str] | None = None


Observer = Callable[[Output], None]


class Tap(Protocol):
    """Takes gains of a request with one choice at the moment they come, past the iterator, which costs far more.

    The engine asks only while the iterator has handed out all that came before, and never offers it an end.
    """

    def ready(self) -> bool:
        """Whether it takes the next gain; one that it does not take comes out of the iterator."""

    def take(self, text: str, tokens: int) -> None:
        """Takes what was gained: text, empty when nothing can be shown yet, and its number of tokens."""


class Engine(Protocol):
    """An engine behind the HTTP API. `info` may be read once `start()` has returned."""

    @property
    def info(self) -> EngineInfo: ...

    async def start(self) -> None:
        """Loads the model and warms it up with real requests. Raises EngineError with the cause."""

    async def prepare_chat(self, body: Mapping[str, Any], request_id: str, arrival: float) -> Prepared:
        """Renders the chat template and tokenizes, off the event loop. Raises InvalidRequestError."""

    async def prepare_completion(self, body: Mapping[str, Any], request_id: str, arrival: float) -> Prepared:
        """The same for a prompt, a list of prompts, or token ids. Raises InvalidRequestError."""

    def generate(self, prepared: Prepared, tap: Tap | None = None) -> AsyncIterator[Output]:
        """Streams the gains of all choices, but for those that `tap` takes. Closing the iterator aborts the work.

        Raises EngineError; InvalidRequestError only instead of the first output.
        """

    async def reference(
        self, kind: Kind, body: Mapping[str, Any], request_id: str, arrival: float, observe: Observer
    ) -> ReferenceAnswer:
        """Answers by the engine's own serving code: every kind, and all that a kind may ask for. Raises as above.

        `observe` is called with every output of the engine, so that both paths are measured alike. A stream raises
        what goes wrong in it, InvalidRequestError only instead of the first event; each of its items is one event.
        """

    def vitals(self) -> Vitals:
        """The signs of life, without touching the engine."""

    async def probe(self) -> None:
        """Generates one token outside of all counting. Raises EngineError; the caller sets the deadline."""

    def gpu_reserved_bytes(self) -> int:
        """Memory reserved by the engine's allocator, read once after the warm-up; 0 on a CPU."""

    async def shutdown(self, drain_seconds: float) -> None:
        """Ends the engine's processes, letting unfinished work end within `drain_seconds`."""

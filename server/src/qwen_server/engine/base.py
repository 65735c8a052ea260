"""The interface between the HTTP layer and an engine, in plain values. Nothing here knows vLLM.

An engine turns validated request bodies into token streams and reports its vital signs. Two pure
functions, `hung_seconds` and `stalled_seconds`, evaluate the vital signs at a given time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

# The kinds of request. The last three ask nothing of the model, the five before them pool a text.
Kind = Literal[
    "chat",
    "completion",
    "responses",
    "messages",
    "embeddings",
    "pooling",
    "score",
    "rerank",
    "classify",
    "count_tokens",
    "tokenize",
    "detokenize",
]
FinishReason = Literal["stop", "length", "tool_calls", "abort", "error"]
EngineState = Literal["starting", "ready", "restarting", "dead"]
# Within this time an engine moves its memory to sleep or to wake up.
SWITCHING_SECONDS = 300.0


class EngineError(Exception):
    """The engine failed. The client gets a 500 with this text."""


class NoModelError(EngineError):
    """The engine has not found the model. A hub that cannot be asked looks the same to it."""


class EngineGoneError(EngineError):
    """The engine's processes have ended, and no restart follows. The server must exit."""


class EngineRestartedError(EngineError):
    """The engine was restarted, and this answer cannot go on. The client gets a 503."""


class InvalidRequestError(Exception):
    """The engine refuses the request. The client gets `status` and the name of the parameter."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.status = status


class BusyError(Exception):
    """The engine cannot check the request's grammar now. The client gets a 503."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """The model that the engine serves.

    kv_cache_tokens: the number of tokens that fit into the KV cache, 0 if unknown.
    chats_need_parsing: the model always thinks before it answers, so every chat takes the
        reference path.
    can_sleep: the engine was started with vLLM's sleep mode, so it can give its GPU memory back.
    patches: whether each of the engine's patches is in use, by name.
    """

    served_name: str
    root: str
    max_model_len: int
    max_num_seqs: int
    kv_cache_tokens: int
    device: Literal["cuda", "cpu"]
    chats_need_parsing: bool = False
    can_sleep: bool = False
    patches: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter of the model.

    key: what a request's `model` says to the engine, `NAME@NUMBER`. It is unique for each time of
        loading, so that nothing of an adapter with the same name is ever used for this one.
    name: the adapter's name in the API.
    folder: where its files are.
    """

    key: str
    name: str
    folder: Path


def not_served(name: str, why: str | None) -> str:
    """The error of a request that names no model, or an adapter that is not loaded, and `why`."""
    shown = name[:200]
    return f"The model `{shown}` does not exist." if why is None else f"The adapter `{shown}` is not loaded: {why}"


def name_of(key: str) -> str:
    """The name of the adapter with this key."""
    return key.rpartition("@")[0]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that is rendered, tokenized and validated.

    prompt_tokens: the sum over all prompts.
    n: the number of choices for each prompt. Choice k of a prompt has the index
        `prompt index * n + k`.
    payload: private to the engine.
    """

    request_id: str
    prompt_tokens: int
    prompts: int
    n: int
    payload: Any


@dataclass(frozen=True, slots=True)
class Delta:
    """The new text and tokens of one choice since the last output.

    tokens: the number of new tokens.
    finish_reason: set only in the last delta of the choice.
    """

    index: int
    text: str
    tokens: int
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """The result of one engine step for a request.

    deltas: one for each choice that has changed.
    first_token_at: `time.monotonic()` of the request's first token, even if this output contains
        the whole answer.
    prompt_tokens: the number of tokens of the prompts that appear for the first time. Observers
        need it because they do not see `Prepared`.
    cached_tokens: how many of those were in the prefix cache.
    """

    deltas: tuple[Delta, ...]
    finished: bool
    first_token_at: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Vitals:
    """The vital signs of an engine. All times are in seconds of `time.monotonic()`.

    unfinished: the number of requests inside the engine.
    last_step_at: the latest step of the scheduler.
    last_token_at: the latest step that produced prompt or output tokens, or the last time when the
        engine was idle.
    ping_sent_at: when the oldest unanswered ping was sent, None if all are answered.
    busy_since: when `unfinished` last rose from 0.
    cpu_active_at: when the engine's processes last used CPU time. None on CUDA, where a hung
        process may spin.
    compiling_seconds: how long since `last_token_at` all requests have only waited for their
        grammars. It is bounded, so that grammars cannot hide a stall.
    switching_since: since when the engine falls asleep or wakes up. It answers no ping meanwhile.
    """

    state: EngineState
    unfinished: int = 0
    last_step_at: float | None = None
    last_token_at: float | None = None
    ping_sent_at: float | None = None
    busy_since: float | None = None
    cpu_active_at: float | None = None
    compiling_seconds: float = 0.0
    switching_since: float | None = None
    kv_cache_usage: float = 0.0
    death_cause: str | None = None


def hung_seconds(vitals: Vitals, now: float) -> float:
    """How long the engine has had work but made no step, or has not answered a ping.

    0.0 if it is responsive. An engine that moves its memory to sleep or to wake up has time for it
    first. A long step on a CPU is not a hang: there, the engine's processes must
    also have used no CPU time.
    """
    if vitals.state != "ready":
        return 0.0
    if vitals.switching_since is not None:
        return max(now - vitals.switching_since - SWITCHING_SECONDS, 0.0)
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
    """How long the engine has made steps without producing a prompt or output token; 0.0 if not.

    The time ends at the latest step. A step that has not ended yet may still produce tokens, and
    `hung_seconds` covers a step that never ends. Compiling a grammar is no stall.
    """
    if vitals.state != "ready" or vitals.unfinished == 0 or vitals.last_step_at is None:
        return 0.0
    starts = [t for t in (vitals.last_token_at, vitals.busy_since) if t is not None]
    return max(min(now, vitals.last_step_at) - max(starts) - vitals.compiling_seconds, 0.0) if starts else 0.0


@dataclass(frozen=True, slots=True)
class ReferenceAnswer:
    """An answer from the engine's own serving code: a status with a JSON body, or events.

    content: the body as bytes, where it is too large to be encoded on the event loop.
    """

    status: int = 200
    body: dict[str, Any] = field(default_factory=dict)
    stream: AsyncIterator[str] | None = None
    content: bytes | None = None


Observer = Callable[[Output], None]

# One sequence's turn: entered when it may start, left when it has ended.
Turn = Callable[[], AbstractAsyncContextManager[None]]


class Tap(Protocol):
    """Receives new text directly, without the iterator, which costs far more CPU time.

    A tap is only for requests with one choice. The engine uses it only while the iterator has no
    output left, so the order is kept. The last output of a request always comes from the iterator.
    """

    def ready(self) -> bool:
        """Whether the tap accepts the next text. If not, the iterator yields it."""

    def take(self, text: str, tokens: int) -> None:
        """Accepts new text, empty if there is nothing to show yet, and its number of tokens."""


class Maintenance(Protocol):
    """What administrators do with a running engine. Everything raises EngineError."""

    async def reset_prefix_cache(self, *, running: bool, external: bool) -> bool:
        """Empties the prefix cache and returns whether it is empty.

        While requests run, only with `running`: their prompts are then computed again. `external`
        is the cache behind a KV connector, too.
        """

    async def sleep(self, level: int) -> None:
        """Stops the scheduler: at level 0 only this.

        At level 1 the weights leave the GPU, at 2 they are lost. Requests that are still in the
        engine are aborted.
        """

    async def wake_up(self, tags: Sequence[str] | None) -> bool:
        """Wakes up, or only what `tags` name, and returns whether the engine is fully awake.

        Weights that were lost are read from the model's files again.
        """

    async def is_sleeping(self) -> bool:
        """Whether the engine sleeps at any level."""

    async def tokenizer_info(self) -> dict[str, Any]:
        """The configuration of the tokenizer, as JSON values."""


class Engine(Protocol):
    """An engine behind the HTTP API. `info` is available once `start()` has returned."""

    @property
    def info(self) -> EngineInfo: ...

    @property
    def maintenance(self) -> Maintenance: ...

    async def start(self) -> None:
        """Loads the model and warms it up with requests. Raises EngineError with the cause."""

    async def restart(self) -> None:
        """Replaces the engine's processes, whether they live or not, and warms the new ones up.

        Requests wait meanwhile. Then each goes on where it was, or starts over, or fails with
        EngineRestartedError. Raises EngineError with the cause; the requests then still wait.
        """

    def give_up(self) -> None:
        """Ends the wait of the requests of a dead engine: they raise EngineGoneError."""

    async def check_grammar(self, kind: Kind, body: Mapping[str, Any]) -> None:
        """Compiles the grammar of a request on trial, away from the event loop.

        It may take seconds, so it comes before the request takes a slot.

        Raises:
            InvalidRequestError: the grammar is wrong, or takes too long or too much memory.
            BusyError: too many other grammars are waiting.
            EngineError: the engine failed.
        """

    async def prepare_chat(self, body: Mapping[str, Any], request_id: str, arrival: float) -> Prepared:
        """Renders the chat template and tokenizes the prompt.

        Raises InvalidRequestError, and BusyError for a grammar.
        """

    async def prepare_completion(self, body: Mapping[str, Any], request_id: str, arrival: float) -> Prepared:
        """Tokenizes a prompt, a list of prompts, or token IDs.

        Raises InvalidRequestError, and BusyError for a grammar.
        """

    def generate(self, prepared: Prepared, tap: Tap | None = None, turn: Turn | None = None) -> AsyncIterator[Output]:
        """Streams the outputs of all choices, except those that `tap` accepts.

        Closing the iterator aborts the request. Where a request has several sequences (prompts x
        n), each of them waits for a `turn` of its own.

        Raises:
            EngineError: the engine failed.
            EngineRestartedError: the engine was restarted, and the rest would not fit what came.
            InvalidRequestError: the request cannot be served. After the first output only if no
                token fits its grammar any more.
        """

    async def reference(
        self,
        kind: Kind,
        body: Mapping[str, Any],
        request_id: str,
        arrival: float,
        observe: Observer,
        *,
        turn: Turn | None = None,
    ) -> ReferenceAnswer:
        """Answers a request of any kind with the engine's own serving code.

        `observe` is called with every output of the engine, so both paths have the same metrics.
        Each prompt waits for a `turn`, which covers all of its choices. Texts to pool are short
        work, so several of them share one.
        Each item of the answer's stream is one event.

        Raises, also from the stream:
            EngineError: the engine failed.
            EngineRestartedError: the engine was restarted after the first event.
            InvalidRequestError: the request cannot be served. Only before the first event.
            BusyError: its grammar cannot be checked now. Only before the first event.
        """

    async def add_adapter(self, adapter: Adapter) -> None:
        """Checks and loads an adapter. Then requests may name its key as their model.

        Raises:
            InvalidRequestError: the adapter is broken, or does not fit the model.
            EngineError: the engine failed.
        """

    async def remove_adapter(self, adapter: Adapter) -> None:
        """Frees an adapter that no request uses. Raises EngineError."""

    def lost_adapters(self) -> Mapping[str, str]:
        """The adapters that a restarted engine could not load again: their keys, and why.

        Each is reported once.
        """

    def vitals(self) -> Vitals:
        """The vital signs, read without calling the engine."""

    async def probe(self) -> None:
        """Asks the model for the least that no metric counts: one token, or one text to pool.

        Raises EngineError. It has no timeout.
        """

    def gpu_reserved_bytes(self) -> int:
        """The bytes that the engine's allocator holds, read once after the warm-up; 0 on a CPU."""

    def standby_bytes(self) -> int:
        """The memory that only the process for the next restart uses; 0 without one."""

    async def shutdown(self, drain_seconds: float) -> None:
        """Stops the engine's processes. Unfinished requests get `drain_seconds` to finish."""

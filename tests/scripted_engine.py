"""An engine without a model, for tests of the real HTTP server: it follows a script.

The text of a request may contain a directive, a JSON object after an `@`:

    @{"tokens": 20, "first": 0.5, "delay": 0.05}   20 tokens: after 0.5 s, then 0.05 s apart
    @{"fail": "CUDA out of memory", "after": 3}    raises an engine error after 3 tokens
    @{"first": 9, "cache": 0.5}                    fills half of the KV cache while it runs
    @{"action": "hang"}                            the whole engine stops, as under SIGSTOP
    @{"action": "stall"}                           the engine steps but makes no token
    @{"action": "die", "cause": "..."}             the engine's processes are gone
    @{"tokens": 9, "goes_on": false}               cannot go on in the next engine
    @{"action": "die", "poison": true}             kills each engine that gets it

`python -m tests.scripted_engine --port 8000 ...` runs it in the real program with the server's own
flags. There, SIGUSR1 hangs or resumes the engine, and SIGUSR2 kills it. The environment variable
SCRIPTED_START_SECONDS delays the start, and SCRIPTED_START_FAILURE makes it fail with that reason.
A restart takes SCRIPTED_RESTART_SECONDS.
`--model` may be any name that is not a path.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from qwen_server.config.settings import Settings
from qwen_server.engine.base import (
    Adapter,
    Delta,
    EngineError,
    EngineGoneError,
    EngineInfo,
    EngineState,
    FinishReason,
    InvalidRequestError,
    Kind,
    Observer,
    Output,
    Prepared,
    ReferenceAnswer,
    Tap,
    Turn,
    Vitals,
)
from qwen_server.engine.merging import merged
from qwen_server.engine.replays import require_innocence, restarted
from qwen_server.engine.revival import Revival, answered_with_repeats
from qwen_server.runner import main
from tests import scripted_answers

CHAT_ANSWER = "这条新闻属于【财经】类别。"
COMPLETION_ANSWER = "科技"
_DIRECTIVE = re.compile(r"@(\{.*\})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Script:
    """The script of one answer; `limit` is its max_tokens, `cache` its share of the KV cache."""

    tokens: tuple[str, ...]
    limit: int
    first: float = 0.0
    delay: float = 0.0
    fail: str | None = None
    after: int = 0
    cache: float = 0.0
    action: str | None = None
    goes_on: bool = True
    poison: bool = False
    for_one_engine: bool = False
    cause: str = "CUDA error: an illegal memory access was encountered"


@dataclass
class ScriptedMaintenance:
    """Implements `qwen_server.engine.base.Maintenance`. `orders` are all orders, in turn.

    An order waits for `may_switch`, and fails with `failure` if there is one. The prefix cache is
    emptied if the order takes it from running requests, or if it `empties`.
    """

    orders: list[tuple[Any, ...]] = field(default_factory=list)
    asleep: set[str] = field(default_factory=set)
    may_switch: asyncio.Event = field(default_factory=asyncio.Event)
    failure: str | None = None
    empties: bool = False

    def __post_init__(self) -> None:
        self.may_switch.set()

    async def reset_prefix_cache(self, *, running: bool, external: bool) -> bool:
        await self._order("reset_prefix_cache", running, external)
        return running or self.empties

    async def sleep(self, level: int) -> None:
        await self._order("sleep", level)
        self.asleep = {"weights", "kv_cache"} if level else {"scheduling"}

    async def wake_up(self, tags: Sequence[str] | None) -> bool:
        await self._order("wake_up", tags)
        self.asleep -= self.asleep if tags is None else set(tags)
        return not self.asleep

    async def is_sleeping(self) -> bool:
        return bool(self.asleep)

    async def tokenizer_info(self) -> dict[str, Any]:
        return {"tokenizer_class": "Qwen2TokenizerFast", "model_max_length": 2048}

    async def _order(self, *order: Any) -> None:
        self.orders.append(order)
        await self.may_switch.wait()
        if self.failure is not None:
            raise EngineError(self.failure)


@dataclass
class ScriptedEngine:
    """Implements `qwen_server.engine.base.Engine`; one event loop owns it."""

    served_name: str = "qwen-news-classifier"
    start_seconds: float = 0.0
    start_failure: str | None = None
    restart_seconds: float = 0.0
    restart_failures: int = 0
    max_model_len: int = 2048
    info: EngineInfo = field(init=False)
    started: bool = False
    unfinished: int = 0
    aborted: int = 0
    generated: int = 0
    tapped: int = 0
    bodies: list[Mapping[str, Any]] = field(default_factory=list)
    keeps_bodies: bool = True
    cause: str | None = None
    stalled: bool = False
    kv_cache_usage: float = 0.0
    cached_tokens: int = 0
    reserved_bytes: int = 0
    checked: list[Mapping[str, Any]] = field(default_factory=list)
    checks: int = 0
    grammar_error: Exception | None = None
    maintenance: ScriptedMaintenance = field(default_factory=ScriptedMaintenance)
    adapters: dict[str, Adapter] = field(default_factory=dict)
    adapter_error: Exception | None = None
    lost: dict[str, str] = field(default_factory=dict)
    restarts: int = 0

    def __post_init__(self) -> None:
        self.info = EngineInfo(
            self.served_name, self.served_name, self.max_model_len, 256, 65536, "cpu", can_sleep=True
        )
        self._goes = asyncio.Event()
        self._goes.set()
        self._dead = asyncio.Event()
        self._revival: Revival[int] = Revival(lambda: "the engine died")
        self._restarting = False
        self.may_restart = asyncio.Event()
        self.may_restart.set()
        self.compiles = asyncio.Event()
        self.compiles.set()
        self._hung_at: float | None = None
        self._busy_since: float | None = None
        self._last_token: float | None = None

    # Commands of tests and signals.

    def hang(self) -> None:
        """Stops the engine like SIGSTOP: no steps, no answers to pings."""
        self._hung_at = time.monotonic()
        self._goes.clear()

    def resume(self) -> None:
        """Resumes a hung or stalled engine."""
        self._hung_at = None
        self.stalled = False
        self._busy_since = self._last_token = time.monotonic()
        self._goes.set()

    def toggle(self) -> None:
        """Hangs a working engine; resumes a hung one."""
        if self._hung_at is None:
            self.hang()
        else:
            self.resume()

    def die(self, cause: str = "CUDA error: an illegal memory access was encountered") -> None:
        """Ends the engine; every request in it fails."""
        self.cause = cause
        self._dead.set()

    # The engine protocol.

    async def start(self) -> None:
        await asyncio.sleep(self.start_seconds)
        if self.start_failure is not None:
            raise EngineError(self.start_failure)
        self.started = True
        self._revival.arrived(0)

    async def restart(self) -> None:
        """Takes `restart_seconds`, and until `may_restart` is set."""
        self._restarting = True
        self.cause = self.cause or "the engine was killed"
        self._dead.set()
        try:
            await asyncio.sleep(self.restart_seconds)
            await self.may_restart.wait()
            self.restarts += 1
            if self.restart_failures > 0:
                self.restart_failures -= 1
                raise EngineError("the weights are gone")
            self.cause = None
            self._dead = asyncio.Event()
            self.resume()
            self._revival.arrived(self.restarts)
        finally:
            self._restarting = False

    def give_up(self) -> None:
        self._revival.give_up()

    async def check_grammar(self, kind: Kind, body: Mapping[str, Any]) -> None:
        """Waits while `compiles` is not set, then raises `grammar_error` if there is one."""
        self.checked.append(body)
        self.checks += 1
        try:
            await self.compiles.wait()
        finally:
            self.checks -= 1
        if self.grammar_error is not None:
            raise self.grammar_error

    async def prepare_chat(self, body: Mapping[str, Any], request_id: str, arrival: float) -> Prepared:
        return self._prepare("chat", body, request_id, arrival)

    async def prepare_completion(self, body: Mapping[str, Any], request_id: str, arrival: float) -> Prepared:
        return self._prepare("completion", body, request_id, arrival)

    async def generate(
        self, prepared: Prepared, tap: Tap | None = None, turn: Turn | None = None
    ) -> AsyncGenerator[Output, None]:
        scripts: list[Script] = [script for script in prepared.payload for _ in range(prepared.n)]
        if len(scripts) == 1:
            async with aclosing(self._sequence(scripts[0], 0, tap)) as outputs:
                async for output in outputs:
                    yield output
            return
        running = len(scripts)
        sequences = [self._in_turn(script, index, turn) for index, script in enumerate(scripts)]
        async with aclosing(merged(sequences)) as results:
            async for _, output in results:
                running -= output.finished
                yield replace(output, finished=running == 0)

    async def _pool(
        self, kind: Kind, body: Mapping[str, Any], prepared: Prepared, observe: Observer, turn: Turn
    ) -> ReferenceAnswer:
        """One turn for all texts, and no tokens."""
        async with turn():
            for script in prepared.payload:
                self._act(script)
                await self._step(script.first)
                if script.fail is not None:
                    raise EngineError(script.fail)
                observe(Output((), finished=True, prompt_tokens=scripted_answers.PROMPT_TOKENS))
        content = json.dumps(scripted_answers.pooled(kind, request_id=prepared.request_id, texts=prepared.prompts))
        return ReferenceAnswer(content=content.encode())

    async def _in_turn(self, script: Script, index: int, turn: Turn | None) -> AsyncGenerator[Output, None]:
        async with (turn or nullcontext)(), aclosing(self._sequence(script, index)) as outputs:
            async for output in outputs:
                yield output

    async def _sequence(self, script: Script, index: int, tap: Tap | None = None) -> AsyncGenerator[Output, None]:
        """One choice, unless a tap takes its text."""
        if self.unfinished == 0:
            self._busy_since = self._last_token = time.monotonic()
        self.unfinished += 1
        self.kv_cache_usage += script.cache
        complete = False
        try:
            made = deaths = 0
            while not complete:
                engine = self._revival.current
                try:
                    async for output in self._outputs(script, index, made):
                        made += 1
                        (delta,) = output.deltas
                        if tap is None or output.finished or not tap.ready():
                            yield output
                        else:
                            tap.take(delta.text, delta.tokens)
                            self.tapped += 1
                    complete = True
                except EngineGoneError:
                    if script.for_one_engine:
                        raise
                    await self._revival.after(engine)
                    deaths += 1
                    require_innocence(deaths)
                    script = replace(script, action=script.action if script.poison else None)
                    if made and not script.goes_on:
                        raise restarted("the script says so") from None
        finally:
            self.unfinished -= 1
            self.kv_cache_usage -= script.cache
            self.aborted += not complete

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
        async def attempt(_: int, observer: Observer) -> ReferenceAnswer:
            return await self._answer(kind, body, request_id, arrival, observer, turn=turn)

        return await answered_with_repeats(
            attempt,
            observe,
            running=self._revival.current or 0,
            dead=lambda engine: self.cause is not None or engine != self._revival.current,
            revival=self._revival,
        )

    async def _answer(
        self,
        kind: Kind,
        body: Mapping[str, Any],
        request_id: str,
        arrival: float,
        observe: Observer,
        *,
        turn: Turn | None,
    ) -> ReferenceAnswer:
        prepared = self._prepare(kind, body, request_id, arrival, for_one_engine=True)
        if kind in scripted_answers.POOLING:
            return await self._pool(kind, body, prepared, observe, turn or nullcontext)
        if kind in ("count_tokens", "tokenize", "detokenize"):
            script: Script = prepared.payload[0]
            self._act(script)
            await self._step(script.first)
            text = "".join(scripted_answers.prompts_of(kind, body)[0])
            return ReferenceAnswer(body=scripted_answers.computed(kind, text, self.max_model_len))
        adapter = self.adapters.get(body["model"])
        head = {"id": request_id, "model": body["model"] if adapter is None else adapter.name}
        if body.get("stream"):
            return ReferenceAnswer(stream=self._reference_stream(kind, prepared, head, observe, turn))
        text = ""
        tokens = 0
        async for output in self.generate(prepared, None, turn):
            observe(output)
            text += "".join(delta.text for delta in output.deltas)
            tokens += sum(delta.tokens for delta in output.deltas)
        return ReferenceAnswer(body=scripted_answers.whole(kind, head, text, tokens))

    async def add_adapter(self, adapter: Adapter) -> None:
        """Takes any folder that exists, unless there is an `adapter_error`."""
        if self.adapter_error is not None:
            raise self.adapter_error
        if not adapter.folder.is_dir():
            raise InvalidRequestError(f"{adapter.folder.name} is not a folder", param="lora_path")
        self.adapters[adapter.key] = adapter

    async def remove_adapter(self, adapter: Adapter) -> None:
        self.adapters.pop(adapter.key, None)

    def lost_adapters(self) -> Mapping[str, str]:
        """What a test has put into `lost`, once."""
        lost, self.lost = self.lost, {}
        for key in lost:
            del self.adapters[key]
        return lost

    def vitals(self) -> Vitals:
        now = time.monotonic()
        return Vitals(
            state=self._state(),
            unfinished=self.unfinished,
            last_step_at=now if self._hung_at is None else self._hung_at,
            last_token_at=self._last_token,
            ping_sent_at=self._hung_at,
            busy_since=self._busy_since if self.unfinished else None,
            kv_cache_usage=self.kv_cache_usage,
            death_cause=self.cause,
        )

    def _state(self) -> EngineState:
        if self._restarting:
            return "restarting"
        return "dead" if self.cause is not None else "ready" if self.started else "starting"

    async def probe(self) -> None:
        if self.maintenance.asleep:
            raise EngineError("the engine is asleep")
        await self._step(0)

    def gpu_reserved_bytes(self) -> int:
        return self.reserved_bytes

    def standby_bytes(self) -> int:
        return 0

    async def shutdown(self, drain_seconds: float) -> None:
        self.started = False

    # The script.

    def _prepare(
        self,
        kind: Kind,
        body: Mapping[str, Any],
        request_id: str,
        arrival: float,
        *,
        for_one_engine: bool = False,
    ) -> Prepared:
        """The scripts of a request. If they are for one engine, they end with it."""
        if self.keeps_bodies:
            self.bodies.append(body)
        prompts, length = scripted_answers.prompts_of(kind, body)
        if length > self.max_model_len:
            raise InvalidRequestError(
                f"the prompt has {length} tokens; the limit is {self.max_model_len}",
                param=scripted_answers.param_of(body),
                code="context_length_exceeded",
            )
        answer = COMPLETION_ANSWER if kind == "completion" else CHAT_ANSWER
        scripts = [_script_of(prompt, answer, scripted_answers.limit_of(body)) for prompt in prompts]
        scripts = [replace(script, for_one_engine=for_one_engine) for script in scripts]
        return Prepared(request_id, length, len(prompts), body.get("n", 1), scripts)

    async def _outputs(self, script: Script, index: int, made: int) -> AsyncIterator[Output]:
        """Every step gives one token, after those that were `made` before a restart."""
        self._act(script)
        await self._step(script.first if made == 0 else script.delay)
        length = min(len(script.tokens), script.limit)
        for position in range(made, length):
            if position > made:
                await self._step(script.delay)
            if script.fail is not None and position >= script.after:
                raise EngineError(script.fail)
            self._last_token = time.monotonic()
            self.generated += 1
            begins = position == 0 and index == 0
            yield Output(
                (_delta(index, script, position),),
                finished=position == length - 1,
                prompt_tokens=scripted_answers.PROMPT_TOKENS if begins else 0,
                cached_tokens=self.cached_tokens if begins else 0,
            )

    def _act(self, script: Script) -> None:
        if script.action == "hang":
            self.hang()
        elif script.action == "stall":
            self.stalled = True
            self._goes.clear()
        elif script.action == "die":
            self.die(script.cause)

    async def _step(self, seconds: float) -> None:
        """Waits for `seconds`, and while the engine hangs; raises if the engine is dead or dies."""
        if seconds or not self._goes.is_set():
            dead = asyncio.ensure_future(self._dead.wait())
            work = asyncio.ensure_future(self._pass(seconds))
            try:
                await asyncio.wait({dead, work}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                dead.cancel()
                work.cancel()
        else:
            await asyncio.sleep(0)
        if self.cause is not None:
            raise EngineGoneError("the engine died")

    async def _pass(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._goes.wait()

    async def _reference_stream(
        self, kind: Kind, prepared: Prepared, head: Mapping[str, Any], observe: Observer, turn: Turn | None
    ) -> AsyncGenerator[str, None]:
        events = scripted_answers.Events(kind, head)
        begun = False
        async with aclosing(self.generate(prepared, None, turn)) as outputs:
            async for output in outputs:
                observe(output)
                for event in [*([] if begun else events.opening()), *events.of(output)]:
                    yield event
                begun = True
        for event in events.closing():
            yield event


def _delta(index: int, script: Script, position: int) -> Delta:
    last = position == min(len(script.tokens), script.limit) - 1
    reason: FinishReason = "stop" if len(script.tokens) <= script.limit else "length"
    return Delta(index, script.tokens[position], 1, reason if last else None)


def _script_of(text: str, answer: str, limit: int) -> Script:
    found = _DIRECTIVE.search(text)
    fields = json.loads(found[1]) if found else {}
    count = fields.pop("tokens", None)
    tokens = tuple(answer) if count is None else tuple("字" for _ in range(count))
    return Script(tokens, limit, **fields)


def engine_of(settings: Settings) -> ScriptedEngine:
    """The engine of the program; SIGUSR1 hangs or resumes it, SIGUSR2 kills it."""
    start = float(os.environ.get("SCRIPTED_START_SECONDS", "0"))
    engine = ScriptedEngine(settings.served_name, start, os.environ.get("SCRIPTED_START_FAILURE"))
    engine.restart_seconds = float(os.environ.get("SCRIPTED_RESTART_SECONDS", "0"))
    engine.restart_failures = int(os.environ.get("SCRIPTED_RESTART_FAILURES", "0"))
    if settings.engine_restarts == 0:
        engine.give_up()
    engine.keeps_bodies = False  # the program does not read them, and tests check its memory
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, engine.toggle)
    loop.add_signal_handler(signal.SIGUSR2, engine.die)
    return engine


if __name__ == "__main__":
    main(sys.argv[1:], engine_of)

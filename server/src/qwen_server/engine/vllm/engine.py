"""VllmEngine: starts vLLM, watches it and passes requests to the fast or the reference path."""

from __future__ import annotations

import asyncio
import gc
import logging
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen_server.config.patches import Patches
from qwen_server.config.settings import Settings
from qwen_server.engine.background import BackgroundTasks
from qwen_server.engine.base import (
    Adapter,
    EngineError,
    EngineInfo,
    EngineState,
    Kind,
    NoModelError,
    Observer,
    Output,
    Prepared,
    ReferenceAnswer,
    Tap,
    Turn,
    Vitals,
)
from qwen_server.engine.processes import descendants, give_memory_back, kill_descendants, shared_memory
from qwen_server.engine.revival import Revival, answered_with_repeats
from qwen_server.engine.vllm import causes, environment, remains
from qwen_server.engine.vllm.grammars.trials import Trials, longest_in_core
from qwen_server.engine.vllm.heartbeat import Heartbeat
from qwen_server.engine.vllm.maintenance import VllmMaintenance
from qwen_server.engine.vllm.patches.bounded_masks import BOUNDED_MASKS
from qwen_server.engine.vllm.patches.early_core import EARLY_CORE, EarlyChild
from qwen_server.engine.vllm.patches.polite_compiler import POLITE_COMPILER
from qwen_server.engine.vllm.patches.vllm_texts import NO_CONFIG
from qwen_server.engine.vllm.standby import Standby
from qwen_server.engine.vllm.warmup import POOLED, ignore, warm_up, warm_up_pooling
from qwen_server.engine.vllm.watch import Watch

if TYPE_CHECKING:
    from qwen_server.engine.vllm.adapters import LoadedAdapters
    from qwen_server.engine.vllm.build import Parts
    from qwen_server.engine.vllm.client import EngineProxy
    from qwen_server.engine.vllm.fast_path import FastPath
    from qwen_server.engine.vllm.reference_path import ReferencePath


@dataclass(frozen=True, slots=True)
class _Running:
    """The objects that exist once the model is loaded.

    fast: its requests go on in the next engine if this one dies. own: they do not.
    """

    parts: Parts
    fast: FastPath
    own: FastPath
    reference: ReferencePath

    @property
    def dead(self) -> bool:
        return bool(self.parts.llm.errored)


_log = logging.getLogger(__name__)

# Patches of the engine core's process, and the functions there that apply them.
_IN_THE_CORE = (
    (POLITE_COMPILER, "qwen_server.engine.vllm.patches.polite_compiler:compile_politely"),
    (BOUNDED_MASKS, "qwen_server.engine.vllm.patches.bounded_masks:bound_masks"),
)
# Requests leave little garbage that needs a collection, and Python's default thresholds collect 14
# times as often. An older generation is collected after 5 collections of the younger one instead of
# 10, because its garbage would otherwise grow to megabytes.
_GC_THRESHOLDS = (10_000, 5, 5)
# Processes that fail together fail within this time. Older errors are unrelated.
_CAUSE_WINDOW_SECONDS = 30.0


class VllmEngine:
    """Implements `engine.base.Engine` over AsyncLLM in this process. `start()` imports vLLM.

    The constructor raises EngineError if it cannot create a temporary folder.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._patches = Patches(settings.patches)
        self._heartbeat = Heartbeat(most_compiling_seconds=longest_in_core(settings))
        self._state: EngineState = "starting"
        self._death_cause: str | None = None
        self._started_wall = time.time()
        self._folder = _temporary_folder()
        self._errors = self._folder / "engine-errors.jsonl"
        # The engine's processes die with the thread that started them (see child_logging.py), so
        # the thread must live as long as the engine.
        self._builder = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._running: _Running | None = None
        self._maintenance = VllmMaintenance(self._living, lambda: self._heartbeat)
        self._trials = Trials(settings, self._builder, lambda: self._loaded().parts.llm.vllm_config)
        self._reserved = 0
        self._tasks = BackgroundTasks()
        self._probes = 0
        self._processes: list[BaseProcess] = []
        self._shared_memory: set[Path] = set()
        self._sees_steps = False
        self._revival: Revival[_Running] = Revival(self._cause_of_death)
        if settings.engine_restarts == 0:
            self._revival.give_up()
        self._standby = Standby(settings.standby_core, settings.engine_restarts, self._early_core)

    @property
    def info(self) -> EngineInfo:
        """The model that the engine serves."""
        return self._loaded().parts.info

    @property
    def maintenance(self) -> VllmMaintenance:
        """See Engine."""
        return self._maintenance

    def _loaded(self) -> _Running:
        if self._running is None:
            raise EngineError("the engine is still starting")
        return self._running

    async def start(self) -> None:
        """Loads the model and warms it up.

        Raises:
            EngineError: the engine did not start. The text is the cause.
            NoModelError: vLLM found no model.
            EngineGoneError: the engine died during the warm-up.
        """
        environment.prepare(self._folder, self._settings)
        await self._load(self._early_core())

    def _early_core(self) -> EarlyChild | None:
        """A process that imports what an engine core needs; None without the patch."""
        if not self._patches.use(EARLY_CORE):
            return None
        with self._trials.forks.socket_for_fork() as twin:
            after = [function for patch, function in _IN_THE_CORE if patch.name in self._settings.patches]
            return EarlyChild("EngineCore", environment.core_modules(self._settings), twin, after=after)

    async def _load(self, child: EarlyChild | None, before: LoadedAdapters | None = None) -> None:
        """Builds an engine with the adapters of the one `before`, and warms it up."""
        loop = asyncio.get_running_loop()
        try:
            running = self._running = await loop.run_in_executor(self._builder, self._build, child)
        except EngineError:
            raise
        except Exception as error:
            _log.debug("the engine did not start", exc_info=True)
            raise self._start_failure(error) from error
        finally:
            if child is not None:
                child.discard()
        if before is not None:
            await running.parts.adapters.restore(before)
        await self._warm_up(running)
        if self._state == "starting":
            gc.collect()
        gc.freeze()  # objects from loading the model never become garbage: skip them from now on
        gc.set_threshold(*_GC_THRESHOLDS)
        give_memory_back()
        self._shared_memory = await asyncio.to_thread(lambda: shared_memory(descendants()))
        self._state = "ready"
        self._revival.arrived(running)
        self._tasks.start(self._watch(running).run())
        self._tasks.start(self._standby.prepare(lambda: running.parts.llm.get_num_unfinished_requests() == 0))

    async def _warm_up(self, running: _Running) -> None:
        on_cuda = running.parts.info.device == "cuda"
        if self._settings.task == "generate":
            await warm_up(running.own, running.reference, images=running.parts.images.read, wide=on_cuda)
        else:
            await warm_up_pooling(self._settings.task, running.reference)
        if on_cuda:
            self._reserved = sum(await running.parts.llm.collective_rpc("reserved_bytes"))

    async def restart(self) -> None:
        """See Engine."""
        self._state = "restarting"
        before = self._loaded().parts.adapters
        self._tasks.cancel()
        try:
            await remains.end(self._loaded().parts.llm, self._standby.processes, self._shared_memory)
            self._trials.forks.renew()
            collecting = asyncio.create_task(asyncio.to_thread(_collect))  # while the engine core loads
            self._death_cause, self._started_wall = None, time.time()
            self._heartbeat = Heartbeat(most_compiling_seconds=longest_in_core(self._settings))
            self._maintenance.asleep = False
            await self._load(self._standby.take() or self._early_core(), before)
            await collecting
        except BaseException as error:
            self._state = "dead"
            self._death_cause = f"the engine died, and its restart failed: {error}"
            raise

    def give_up(self) -> None:
        """See Engine."""
        self._revival.give_up()

    def _build(self, child: EarlyChild | None) -> _Running:
        # Garbage collection takes a fifth of the time of the imports and frees nothing.
        gc.disable()
        try:
            # Imported in the thread, because it takes seconds. The event loop serves /health.
            from qwen_server.engine.vllm.build import build  # noqa: PLC0415
            from qwen_server.engine.vllm.fast_path import FastPath  # noqa: PLC0415
            from qwen_server.engine.vllm.grammars.params import Grammars  # noqa: PLC0415
            from qwen_server.engine.vllm.patches.step_heartbeat import STEP_HEARTBEAT  # noqa: PLC0415
            from qwen_server.engine.vllm.reference_path import ReferencePath  # noqa: PLC0415
        finally:
            gc.enable()
        grammars = Grammars(self._trials.checks)
        parts = build(self._settings, self._heartbeat, child, self._patches, grammars)
        if child is not None:
            for patch, _ in _IN_THE_CORE:
                self._patches.use(patch)
        cause = self._cause_of_death
        self._sees_steps = self._patches.use(STEP_HEARTBEAT)
        self._processes = multiprocessing.active_children()
        fast, own = FastPath(parts, cause, self._next_client), FastPath(parts, cause)
        return _Running(parts, fast, own, ReferencePath(parts, cause, self._settings.task))

    def _start_failure(self, error: BaseException) -> EngineError:
        logged = causes.cause_of(causes.read_errors(self._errors), since=self._started_wall, server=os.getpid())
        cause = causes.with_advice(logged or causes.explain(error), environment.expected_device(self._settings))
        return NoModelError(cause) if NO_CONFIG.search(cause) else EngineError(cause)

    # --- requests ---

    async def check_grammar(self, kind: Kind, body: Mapping[str, Any]) -> None:
        """See Engine."""
        await (await self._alive()).reference.check_grammar(kind, body)

    async def prepare_chat(self, body: Mapping[str, Any], request_id: str, arrival: float) -> Prepared:
        """See Engine."""
        return await (await self._alive()).fast.prepare_chat(body, request_id, arrival)

    async def prepare_completion(self, body: Mapping[str, Any], request_id: str, arrival: float) -> Prepared:
        """See Engine."""
        return await (await self._alive()).fast.prepare_completion(body, request_id, arrival)

    def generate(
        self, prepared: Prepared, tap: Tap | None = None, turn: Turn | None = None
    ) -> AsyncGenerator[Output, None]:
        """See Engine."""
        return self._announced().fast.generate(prepared, tap, turn)

    async def add_adapter(self, adapter: Adapter) -> None:
        """See Engine."""
        running = await self._alive()
        if self._maintenance.asleep:
            raise EngineError("the engine is asleep")
        await running.parts.adapters.add(adapter)

    async def remove_adapter(self, adapter: Adapter) -> None:
        """See Engine."""
        await (await self._alive()).parts.adapters.remove(adapter)

    def lost_adapters(self) -> Mapping[str, str]:
        """See Engine."""
        return {} if self._running is None else self._running.parts.adapters.take_lost()

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
        """See Engine."""

        async def attempt(running: _Running, observer: Observer) -> ReferenceAnswer:
            return await running.reference.answer(kind, body, request_id, arrival, observer, turn=turn)

        running = await self._alive()
        return await answered_with_repeats(
            attempt, observe, running=running, dead=lambda engine: engine.dead, revival=self._revival
        )

    def _announced(self) -> _Running:
        """The latest engine that was ready, which may have died since."""
        if self._revival.current is None:
            raise EngineError("the engine is still starting")
        return self._revival.current

    def _living(self) -> Parts:
        """The engine now. Raises EngineError if there is none, or if it is dead."""
        running = self._announced()
        if running.dead:
            raise EngineError(self._cause_of_death())
        return running.parts

    async def _alive(self) -> _Running:
        """The engine, or the next one if it is dead. Raises EngineGoneError if none follows."""
        running = self._announced()
        return await self._revival.after(running) if running.dead else running

    async def _next_client(self, dead: EngineProxy) -> EngineProxy:
        running = self._announced()
        while running.parts.client is dead:
            running = await self._revival.after(running)
        return running.parts.client

    async def probe(self) -> None:
        """See Engine."""
        if self._maintenance.asleep:
            raise EngineError("the engine is asleep")
        now = time.monotonic()
        self._probes += 1
        running = self._announced()
        if self._settings.task != "generate":
            kind, body = POOLED[self._settings.task]
            await running.reference.answer(kind, body, f"probe-{self._probes}", now, ignore)
            return
        prepared = await running.own.prepare_completion(
            {"prompt": "1", "max_tokens": 1, "temperature": 0.0}, f"probe-{self._probes}", now
        )
        async with aclosing(running.own.generate(prepared)) as outputs:
            async for _ in outputs:
                pass

    # --- vital signs ---

    def vitals(self) -> Vitals:
        """See Engine."""
        if self._running is None or self._state in ("starting", "restarting"):
            return Vitals(state=self._state)
        parts = self._running.parts
        heartbeat = self._heartbeat
        dead = self._state == "dead" or parts.llm.errored
        return Vitals(
            state="dead" if dead else self._state,
            # While the engine sleeps, only a probe may wait in it.
            unfinished=0 if self._maintenance.asleep else parts.llm.get_num_unfinished_requests(),
            last_step_at=heartbeat.last_step_at,
            last_token_at=heartbeat.last_token_at,
            ping_sent_at=heartbeat.ping_sent_at,
            busy_since=heartbeat.busy_since,
            cpu_active_at=heartbeat.cpu_active_at if parts.info.device == "cpu" else None,
            compiling_seconds=heartbeat.compiling_seconds,
            switching_since=heartbeat.switching_since,
            kv_cache_usage=heartbeat.kv_cache_usage,
            death_cause=self._cause_of_death() if dead else None,
        )

    def _cause_of_death(self) -> str:
        """Why the engine died. Call it only once the engine is dead.

        The first cause that is found is kept, because it is the most precise.
        """
        if self._death_cause is None:
            since = max(time.time() - _CAUSE_WINDOW_SECONDS, self._started_wall)
            logged = causes.cause_of(causes.read_errors(self._errors), since=since, server=os.getpid())
            cause = logged or causes.ending_of(self._exit_codes())
            if cause is None:
                return "the engine died"
            self._death_cause = f"the engine died: {cause}"
        return self._death_cause

    def _exit_codes(self) -> dict[str, int | None]:
        """The exit code of each of vLLM's processes by name.

        None if it is alive, negative for a signal.
        """
        return {process.name: process.exitcode for process in self._processes}

    def _watch(self, running: _Running) -> Watch:
        return Watch(
            running.parts.llm,
            self._heartbeat,
            self._tasks,
            sees_steps=self._sees_steps,
            on_cpu=running.parts.info.device == "cpu",
            asleep=lambda: self._maintenance.asleep,
            strangers=self._trials.forks.processes,
            probe=self.probe,
        )

    # --- shutdown ---

    def gpu_reserved_bytes(self) -> int:
        """See Engine."""
        return self._reserved

    def standby_bytes(self) -> int:
        """See Engine."""
        return self._standby.bytes()

    async def shutdown(self, drain_seconds: float) -> None:
        """Stops the engine's processes: gracefully for `drain_seconds`, then with SIGKILL."""
        self._tasks.cancel()
        self._trials.forks.close()
        if self._running is not None and not self._running.parts.llm.errored:
            try:
                async with asyncio.timeout(drain_seconds + 1):
                    await asyncio.to_thread(self._running.parts.llm.shutdown, drain_seconds)
            except TimeoutError:
                _log.warning("the engine did not stop in time, killing it")
            except Exception:  # noqa: BLE001 - the processes must end in any case
                _log.warning("the engine failed to shut down, killing it", exc_info=True)
        self._standby.discard()
        await asyncio.to_thread(kill_descendants)
        shutil.rmtree(self._folder, ignore_errors=True)


def _collect() -> None:
    """Frees what is left of earlier engines in this process."""
    gc.unfreeze()
    gc.collect()


def _temporary_folder() -> Path:
    """Creates a folder for the files that the processes share. Raises EngineError."""
    try:
        return Path(tempfile.mkdtemp(prefix="qwen-server-"))
    except OSError as error:
        raise EngineError(f"cannot create a temporary folder (set TMPDIR to a writable one): {error}") from error

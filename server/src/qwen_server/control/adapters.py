"""The LoRA adapters of the model: which are served, who uses them, and which are declared.

Adapters come from `--lora-modules`, from administrators, and from a file that is followed while the
server runs. A broken one is refused with its cause, and nothing else changes.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

from qwen_server.config.settings import Settings
from qwen_server.config.values import is_adapter_name
from qwen_server.control.adapters_file import AdaptersFile, Source
from qwen_server.engine.adapter_files import CONFIG, WEIGHTS
from qwen_server.engine.base import Adapter, Engine, EngineError, InvalidRequestError
from qwen_server.observe.observation import AdapterState

_log = logging.getLogger(__name__)
# The operator reads no answer that is too long.
_MOST_SHOWN: Final = 64
_MOST_OF_A_CAUSE: Final = 200
_MOST_BYTES: Final = 48 * 1024  # of all of them: the operator reads 64 KiB of metrics
_LONGEST_PAUSE: Final = 60.0
_LOOK_SECONDS: Final = 0.5
_RECOVERY_SECONDS: Final = 30.0  # for which a restart of the engine waits for its adapters


class AdapterError(Exception):
    """An adapter cannot be loaded or unloaded. The text says why.

    `temporary` failures may go away by themselves.
    """

    def __init__(self, text: str, *, param: str = "lora_name", status: int = 400, temporary: bool = False) -> None:
        super().__init__(text)
        self.param = param
        self.status = status
        self.temporary = temporary


# Downloads a repository, and returns the folder. It blocks, and raises AdapterError.
Fetch = Callable[[Source], Path]


@dataclass(slots=True, eq=False)
class Served:
    """An adapter that is loaded, and how many requests use it."""

    adapter: Adapter
    source: Source
    users: int = 0
    retired: bool = False
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def release(self) -> None:
        """One request has ended."""
        self.users -= 1
        if self.retired and not self.users:
            self.idle.set()


@dataclass(frozen=True, slots=True)
class _Failure:
    source: Source
    cause: str
    temporary: bool
    attempts: int
    retry_at: float


class Adapters:
    """The adapters of one server. One event loop owns it.

    `clock` is monotonic, and `sleep` waits for seconds of it.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        *,
        fetch: Fetch | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.enabled = settings.lora
        self._settings = settings
        self._engine = engine
        self._fetch = fetch
        self._clock = clock
        self._sleep = sleep
        self._served: dict[str, Served] = {}
        self._by_key: dict[str, Served] = {}
        self._leaving: dict[asyncio.Task[None], str] = {}
        self._numbers = itertools.count(1)
        self._loading = asyncio.Lock()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._file = AdaptersFile(settings.adapters_file)
        self._followed: dict[str, Source] = {}
        self._lost: dict[str, Source] = {}
        self._failures: dict[str, _Failure] = {}
        self._following: asyncio.Task[None] | None = None
        self._started = False

    # --- requests ---

    def find(self, name: str) -> Adapter | None:
        """The adapter that requests call by this name. Any thread may ask."""
        served = self._served.get(name)
        return None if served is None else served.adapter

    def hold(self, adapter: Adapter) -> Served:
        """Keeps an adapter for a request, which must `release` it. Raises AdapterError 404."""
        served = self._by_key.get(adapter.key)
        if served is None:
            raise _unknown(adapter.name)
        served.users += 1
        return served

    def why_missing(self, name: str) -> str | None:
        """Why an adapter is not served that should be; None for other names.

        Any thread may ask.
        """
        if self._wanted(name) is None or name in self._served or name in self._settings.own_names:
            return None
        failure = self._failures.get(name)
        return "it is still loading" if failure is None else failure.cause

    def served(self) -> Mapping[str, str]:
        """The names of all adapters, and where each comes from."""
        return {name: served.source.text for name, served in self._served.items()}

    def states(self) -> tuple[AdapterState, ...] | None:
        """The adapters that should be served, as many as are shown; None if they are off."""
        if not self.enabled:
            return None
        names = dict.fromkeys((*self._file.declared, *self._served, *self._lost))
        states = [self._state(name) for name in itertools.islice(names, _MOST_SHOWN)]
        sizes = itertools.accumulate(map(_size, states))
        return tuple(state for state, size in zip(states, sizes, strict=True) if size <= _MOST_BYTES)

    def _state(self, name: str) -> AdapterState:
        served, failure, source = self._served.get(name), self._failures.get(name), self._wanted(name)
        loaded = served is not None
        if served is not None and (source is None or self._followed.get(name) == source):
            return AdapterState(name, served.source.label, "loaded", loaded=True)
        label = "" if source is None else source.label
        if failure is not None and failure.source == source:
            return AdapterState(name, label, "failed", loaded=loaded, reason=failure.cause[:_MOST_OF_A_CAUSE])
        return AdapterState(name, label, "loading", loaded=loaded)

    # --- loading and unloading ---

    async def load(self, name: str, path: str, *, in_place: bool) -> None:
        """Loads an adapter for an administrator, from one of the folders of `--lora-dirs`.

        With `in_place`, it may take the place of another one of this name, whose requests finish
        with the old weights. Raises AdapterError, and EngineError.
        """
        self._require_own(name)
        folder = await asyncio.to_thread(self._allowed, path)
        await self._load(name, Source(folder), in_place=in_place)

    async def unload(self, name: str) -> None:
        """Ends an adapter for an administrator: it gets no new requests from now on.

        Returns when its last request has ended and its memory is free, and that of those whose
        place it took. Raises AdapterError.
        """
        self._require_own(name)
        async with self._turn(name):  # it may just be loaded or replaced, which waits for a restart of the engine
            if name in self._served:
                self._retire(self._served.pop(name))
            elif name not in self._lost:
                raise _unknown(name)
            self._forget(name)
        leaving = [task for task, of in self._leaving.items() if of == name]
        await asyncio.shield(asyncio.gather(*leaving))

    def _turn(self, name: str) -> asyncio.Lock:
        """What is asked for an adapter happens in the order in which it is asked."""
        return self._turns.setdefault(name, asyncio.Lock())

    def _forget(self, name: str) -> None:
        """Nothing is known any more of how the adapter was lost or failed."""
        self._lost.pop(name, None)
        self._failures.pop(name, None)

    def _require_own(self, name: str) -> None:
        if not self.enabled:
            raise AdapterError("this server has no LoRA adapters: start it with --enable-lora")
        if name in self._file.declared:
            text = f"the adapter {name} belongs to {self._settings.adapters_file}, which the server follows"
            raise AdapterError(text)

    def _allowed(self, path: str) -> Path:
        """The folder behind all links, if it and its files lie in an allowed one.

        Raises AdapterError.
        """
        folders = self._settings.lora_dirs
        if not folders:
            raise AdapterError("no folder is allowed: set --lora-dirs", param="lora_path", status=403)
        folder = Path(path)
        real = _inside(folder, folders) if folder.is_absolute() else None
        names = ", ".join(map(str, folders))
        if real is None:
            raise AdapterError(f"lora_path must lie in {names} (--lora-dirs)", param="lora_path", status=403)
        for name in (CONFIG, WEIGHTS):
            if _inside(real / name, folders) is None:
                text = f"{name} is a link that leads out of {names} (--lora-dirs)"
                raise AdapterError(text, param="lora_path", status=403)
        return real

    async def _load(self, name: str, source: Source, *, in_place: bool = True, again: bool = False) -> None:
        """Loads an adapter, `in_place` of one of this name. Raises AdapterError and EngineError.

        Nothing happens if it is to be loaded `again` and is no longer lost.
        """
        if not is_adapter_name(name):
            raise AdapterError("the name must have 1 to 253 characters and no space, comma, = or *")
        settings = self._settings
        if name in settings.own_names:
            raise AdapterError(f"{name} is a name of the model itself")
        folder = source.path if source.path is not None else await self._fetched(source)
        async with self._turn(name), self._loading:
            if again and self._lost.get(name) != source:
                return
            if name in self._served and not in_place:
                raise AdapterError(f"the adapter {name} is already loaded; load_inplace: true replaces it")
            most = settings.max_cpu_loras
            if name not in self._served and len(self._served) >= most:
                raise AdapterError(f"{most} adapters are loaded, and no more are allowed (set by --max-cpu-loras)")
            while self._leaving and len(self._served) + len(self._leaving) > most:
                await asyncio.wait(self._leaving, return_when=asyncio.FIRST_COMPLETED)
            adapter = Adapter(f"{name}@{next(self._numbers)}", name, folder)
            try:
                await self._engine.add_adapter(adapter)
            except InvalidRequestError as error:
                raise AdapterError(error.message, param=error.param or "lora_path") from None
            before = self._served.get(name)
            self._served[name] = self._by_key[adapter.key] = Served(adapter, source)
            self._forget(name)
            if before is not None:
                self._retire(before)
        _log.info("loaded the adapter %s from %s", name, source.text)

    async def _fetched(self, source: Source) -> Path:
        if self._fetch is None:
            raise AdapterError("only adapters in a folder can be loaded", param="lora_path")
        return await asyncio.to_thread(self._fetch, source)

    def _retire(self, served: Served) -> None:
        """Removes an adapter as soon as its last request has ended."""
        served.retired = True
        if not served.users:
            served.idle.set()
        task = asyncio.create_task(self._remove(served), name=f"remove-{served.adapter.key}")
        self._leaving[task] = served.adapter.name
        task.add_done_callback(self._leaving.pop)

    async def _remove(self, served: Served) -> None:
        await served.idle.wait()
        del self._by_key[served.adapter.key]
        try:
            await self._engine.remove_adapter(served.adapter)
        except EngineError as error:
            _log.warning("%s", error)
        _log.info("unloaded the adapter %s", served.adapter.name)

    # --- the adapters that are declared ---

    async def start(self) -> None:
        """Loads the adapters of the command line, then those of the file.

        It returns when each of the file's is loaded or known to be broken: a broken one must not
        keep the model and the others away. Raises EngineError for one of the command line.
        """
        if not self.enabled:
            return
        for name, path in self._settings.lora_modules:
            try:
                await self._load(name, Source(path.absolute()))
            except AdapterError as error:
                raise EngineError(f"--lora-modules: {name}: {error}") from error
        self._file.poll()
        await self._follow()
        while pauses := [failure.retry_at - self._clock() for failure in self._failures.values() if failure.temporary]:
            if (vitals := self._engine.vitals()).state == "dead":
                raise EngineError(vitals.death_cause or "the engine died")
            await self._sleep(min(max(min(pauses), 0.01), _LOOK_SECONDS))
            self._file.poll()
            await self._follow()
        self._started = True

    def poll(self) -> None:
        """Follows the file and the engine. The ticker calls it."""
        if not self._started:
            return
        self._take_lost()
        self._file.poll()
        idle = self._following is None or self._following.done()
        if idle and self._due():
            self._following = asyncio.create_task(self._follow(), name="adapters")

    async def recover(self) -> None:
        """Waits until the adapters that a new engine has refused have been tried again.

        The ticker tries them. This returns when each is loaded or known to be broken, when the
        engine is dead, or after half a minute.
        """
        self._take_lost()
        until = self._clock() + _RECOVERY_SECONDS
        while any(failure.temporary for failure in self._failures.values()) and self._clock() < until:
            if self._engine.vitals().state == "dead":
                return
            await self._sleep(_LOOK_SECONDS)

    def _take_lost(self) -> None:
        for key, cause in self._engine.lost_adapters().items():
            self._lose(key, cause)

    def _lose(self, key: str, cause: str) -> None:
        """Ends an adapter that the engine no longer has. It is tried again."""
        lost = self._by_key.get(key)
        if lost is None or lost.retired:
            return
        name = lost.adapter.name
        _log.error("the adapter %s is served no longer: %s", name, cause)
        self._retire(self._served.pop(name))
        if self._followed.pop(name, None) is None:
            self._lost[name] = lost.source
        self._fail(name, lost.source, cause, temporary=True)

    def _wanted(self, name: str) -> Source | None:
        """Where an adapter comes from that is declared or lost."""
        return self._file.declared.get(name) or self._lost.get(name)

    def _due(self) -> list[str]:
        """The names that have to be loaded or unloaded now."""
        gone = [name for name in self._followed if name not in self._file.declared]
        return gone + [name for name in {**self._file.declared, **self._lost} if self._is_due(name)]

    def _is_due(self, name: str) -> bool:
        source = self._wanted(name)
        if self._followed.get(name) == source:
            return False
        failure = self._failures.get(name)
        return failure is None or failure.source != source or self._clock() >= failure.retry_at

    async def _follow(self) -> None:
        for name in [name for name in self._failures if self._wanted(name) is None]:
            del self._failures[name]
        for name in self._due():
            source = self._wanted(name)
            if source is None:
                del self._followed[name]
                if name in self._served:
                    self._retire(self._served.pop(name))
            else:
                await self._follow_one(name, source)

    async def _follow_one(self, name: str, source: Source) -> None:
        declared = name in self._file.declared
        try:
            await self._load(name, source, again=not declared)
        except (AdapterError, EngineError) as error:
            self._fail(name, source, str(error), temporary=isinstance(error, EngineError) or error.temporary)
        except Exception as error:  # noqa: BLE001 - a bug must not end the care for the other adapters
            _log.exception("cannot load the adapter %s", name)
            self._fail(name, source, f"internal error: {error!r}", temporary=False)
        else:
            if declared:
                self._followed[name] = source

    def _fail(self, name: str, source: Source, cause: str, *, temporary: bool) -> None:
        before = self._failures.get(name)
        attempts = before.attempts + 1 if before is not None and before.source == source else 1
        pause = min(_LONGEST_PAUSE, 2.0**attempts) if temporary else _LONGEST_PAUSE
        if before is None or before.source != source or before.cause != cause:
            _log.error("cannot load the adapter %s: %s", name, cause)
        self._failures[name] = _Failure(source, cause, temporary, attempts, self._clock() + pause)


def _inside(path: Path, folders: Sequence[Path]) -> Path | None:
    """The path behind all links, if it lies in one of `folders`."""
    try:
        real = path.resolve()
        return real if any(real.is_relative_to(allowed.resolve()) for allowed in folders) else None
    except (OSError, ValueError, RuntimeError):
        return None


def _size(state: AdapterState) -> int:
    """The bytes of a state in the metrics."""
    return len(json.dumps(state._asdict(), ensure_ascii=False).encode(errors="replace"))


def _unknown(name: str) -> AdapterError:
    return AdapterError(f"the adapter {name[:200]} is not loaded", status=404)

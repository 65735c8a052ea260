"""Starts the engine core's process early, so that it imports vLLM while this process does.

The engine core takes as long to import vLLM as this process. vLLM starts it only after its own
imports, but with this patch both import at the same time. The process is spawned, never forked:
`Process.start()` sends it the same data that it would send to a new interpreter.

Some cases need a new process: the data includes open files, the executable has changed, or the
early process has died. If environment variables have changed that libraries may read during their
import, the early process restarts itself with `exec`.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import logging
import multiprocessing
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import popen_spawn_posix, reduction, resource_tracker, spawn, util
from multiprocessing.context import BaseContext, SpawnContext, SpawnProcess, set_spawning_popen
from typing import Any, Final, Literal

from qwen_server.config.patches import Patch, Patches, absent
from qwen_server.engine.processes import die_with_parent
from qwen_server.engine.vllm.grammars.forking import serve_in_fork

_LENGTH = struct.Struct("!I")
# Variables that vLLM sets after the early process has started, but does not read during imports.
# Torch reads OMP_NUM_THREADS when it is imported, so it gets a later value from `_set_threads`.
# LD_LIBRARY_PATH is read when a process starts. The import of cv2 extends it, and in a standby core
# it does so a second time.
READ_LATE = frozenset(
    {
        "LD_LIBRARY_PATH",
        "LOCAL_WORLD_SIZE",
        "NUMEXPR_MAX_THREADS",
        "OMP_NUM_THREADS",
        "VLLM_DISABLE_SHARED_EXPERTS_STREAM",
        "VLLM_OMP_NUM_THREADS_SET_BY_VLLM",
        "VLLM_SSM_CONV_STATE_LAYOUT",
        "VLLM_WORKER_MULTIPROC_METHOD",
    }
)

_log = logging.getLogger(__name__)


def _missing() -> Iterator[str]:
    yield from absent(popen_spawn_posix.Popen, "_fds", "_launch", "finalizer", "pid", "sentinel")
    yield from absent(spawn, "get_command_line", "get_executable", "get_preparation_data", "spawn_main")
    yield from absent(util, "Finalize", "_args_from_interpreter_flags", "close_fds")
    yield from absent(resource_tracker, "getfd")


EARLY_CORE: Final = Patch(
    name="early-core",
    gains="half of the time to the first answer (docs/decisions/0007)",
    relies_on="how multiprocessing spawns, and that vLLM creates its processes with `engine.utils.get_mp_context`",
    missing=_missing,
)


class EarlyChild:
    """A child process that imports `modules` and then waits for its work.

    It dies with the thread that creates this object. A fork of it, made after the imports, serves
    jobs at `twin` (see `grammars/forking.py`). Then it calls the functions `after`, given as
    `package.module:function`.
    """

    def __init__(
        self, name: str, modules: Sequence[str], twin: socket.socket | None = None, *, after: Sequence[str] = ()
    ) -> None:
        self.executable = spawn.get_executable()
        self._state: Literal["waiting", "taken", "working", "ended"] = "waiting"
        tracker = resource_tracker.getfd()
        parent_reads, child_writes = os.pipe()
        child_reads, parent_writes = os.pipe()
        twin_control = None if twin is None else twin.fileno()
        arguments = f"{name!r}, {list(modules)!r}, {os.getpid()}, {child_reads}, {tracker}, {twin_control}"
        arguments += f", {list(after)!r}"
        flags = util._args_from_interpreter_flags()  # type: ignore[attr-defined]  # noqa: SLF001
        command = [self.executable, *flags, "-c", f"from {__name__} import main; main({arguments})"]
        command.append("--multiprocessing-fork")
        files = [
            descriptor for descriptor in (tracker, child_reads, child_writes, twin_control) if descriptor is not None
        ]
        try:
            # Passes os.environ, because Python does not see variables that C libraries set.
            self.pid: int = os.posix_spawn(
                self.executable,
                command,
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, file, file) for file in files],
                setpgroup=0,
            )
        finally:
            os.close(child_reads)
            os.close(child_writes)
        self.sentinel = parent_reads
        self.pipe = parent_writes

    @property
    def works(self) -> bool:
        """Whether the child has received its work."""
        return self._state == "working"

    def take(self) -> bool:
        """Claims the child. Returns whether it was free and has the right executable."""
        if self._state != "waiting" or spawn.get_executable() != self.executable:
            return False
        self._state = "taken"
        return True

    def begin(self) -> None:
        """Records that the child has received its work. From now on, multiprocessing ends it."""
        self._state = "working"

    def discard(self) -> None:
        """Kills the child, unless it has received its work or has been killed before."""
        if self._state in ("working", "ended"):
            return
        self._state = "ended"
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            if os.waitpid(self.pid, os.WNOHANG)[0] == 0:  # otherwise its number may be another's by now
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
        os.close(self.sentinel)
        os.close(self.pipe)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Pickles as None, because the process that receives the data needs no early child."""
        return type(None), ()


class EarlyContext(SpawnContext):
    """The `spawn` context of multiprocessing, but its first process runs in `child`."""

    def __init__(self, child: EarlyChild) -> None:
        super().__init__()
        self._child = child

    # The method has this name in multiprocessing.
    def Process(self, *arguments: Any, **options: Any) -> SpawnProcess:  # type: ignore[override]  # noqa: N802
        """Creates a process like the context's own method."""
        process = _EarlyProcess(*arguments, **options)
        process.early_child = self._child
        return process


@contextlib.contextmanager
def core_in(child: EarlyChild | None, patches: Patches) -> Iterator[None]:
    """Runs the first engine core that vLLM starts in this context in `child`, if given.

    vLLM has no argument for this. A child that is not used, because vLLM starts its processes in
    another way or fails before, is discarded.
    """
    if child is None:
        yield
        return
    # Imported late, because the child runs this module before it imports vLLM.
    from vllm.v1.engine import utils  # noqa: PLC0415

    if missing := list(absent(utils, "get_mp_context")):
        patches.withdraw(EARLY_CORE, missing)
        child.discard()
        yield
        return
    original = utils.get_mp_context

    def get_mp_context() -> BaseContext:
        context: BaseContext = original()
        return EarlyContext(child) if context.get_start_method() == "spawn" else context

    utils.get_mp_context = get_mp_context
    try:
        yield
    finally:
        utils.get_mp_context = original
        child.discard()
    if not child.works:
        patches.withdraw(EARLY_CORE, ["an engine core that can run in it"])


class _EarlyProcess(SpawnProcess):
    early_child: EarlyChild | None = None

    @staticmethod
    def _Popen(process: Any) -> Any:  # noqa: N802 - multiprocessing's name
        return _Popen(process)


class _Popen(popen_spawn_posix.Popen):
    def _launch(self, process: Any) -> None:
        child: EarlyChild | None = process.early_child
        if child is None or not child.take():
            super()._launch(process)  # type: ignore[misc]
        elif not self._hand_over(child, process):
            _log.warning("cannot use the early process, starting another one")
            child.discard()
            self._fds: list[int] = []
            super()._launch(process)  # type: ignore[misc]

    def _hand_over(self, child: EarlyChild, process: Any) -> bool:
        """Sends the child its work like the base class. Returns False if this is not possible."""
        data = io.BytesIO()
        environment = json.dumps(dict(os.environ)).encode()
        data.write(_LENGTH.pack(len(environment)))
        data.write(environment)
        set_spawning_popen(self)
        try:
            reduction.dump(spawn.get_preparation_data(process.name), data)
            reduction.dump(process, data)
        finally:
            set_spawning_popen(None)
        if self._fds:
            return False
        try:
            with open(child.pipe, "wb", closefd=False) as pipe:
                pipe.write(data.getbuffer())
        except BrokenPipeError:
            return False
        child.begin()
        self.pid = child.pid
        self.sentinel = child.sentinel
        self.finalizer = util.Finalize(self, util.close_fds, [child.sentinel, child.pipe])  # type: ignore[attr-defined]
        return True


def main(  # noqa: PLR0917 - only the constructor of EarlyChild calls it
    name: str,
    modules: Sequence[str],
    parent: int,
    pipe: int,
    tracker: int,
    twin_control: int | None = None,
    after: Sequence[str] = (),
) -> None:
    """Runs in the child."""
    die_with_parent(parent)
    multiprocessing.current_process().name = name
    gc.disable()
    # A failed import fails again where the module is needed. That error is reported.
    with contextlib.suppress(Exception):
        for module in modules:
            importlib.import_module(module)
    if twin_control is not None:
        serve_in_fork(twin_control)
    for place in after:
        module, _, function = place.partition(":")
        with contextlib.suppress(Exception):
            getattr(importlib.import_module(module), function)()
    # What the imports made stays for ever. vLLM collects garbage three times while it loads a
    # model, and each time would look at all of it: half a second.
    gc.freeze()
    gc.enable()
    environment = _receive_environment(pipe)
    if environment is None:
        os._exit(0)
    if changed := _changed(environment):
        _log.info("the environment has changed (%s), restarting the process", ", ".join(changed))
        command = spawn.get_command_line(tracker_fd=tracker, pipe_handle=pipe)
        os.execve(command[0], command, environment)  # noqa: S606 - our own command, no shell
    # setproctitle locates the command line through the environment, which follows it in memory. It
    # must do so before the environment moves.
    with contextlib.suppress(ImportError):
        importlib.import_module("setproctitle").getproctitle()
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ.clear()
    os.environ.update(environment)
    _set_threads(threads)
    spawn.spawn_main(pipe_handle=pipe, tracker_fd=tracker)


def _receive_environment(pipe: int) -> dict[str, str] | None:
    """The parent's environment. None if the parent has closed the pipe without sending work."""
    header = _read(pipe, _LENGTH.size)
    if header is None:
        return None
    body = _read(pipe, _LENGTH.unpack(header)[0])
    return None if body is None else dict(json.loads(body))


def _set_threads(before: str | None) -> None:
    """Gives torch the number of threads of OMP_NUM_THREADS, unless it has imported this value.

    On a GPU, vLLM sets the variable for an engine core that runs the worker itself.
    """
    now = os.environ.get("OMP_NUM_THREADS", "")
    torch = sys.modules.get("torch")
    if torch is not None and now != before and now.isdecimal() and int(now):
        torch.set_num_threads(int(now))


def _read(pipe: int, size: int) -> bytes | None:
    """Reads exactly `size` bytes. Returns None at the end of the stream."""
    data = b""
    while len(data) < size:
        chunk = os.read(pipe, size - len(data))
        if not chunk:
            return None
        data += chunk
    return data


def _changed(environment: Mapping[str, str]) -> list[str]:
    """The variables that differ from those that the imports in this process may have read."""
    names = (environment.keys() | os.environ.keys()) - READ_LATE
    return sorted(name for name in names if environment.get(name) != os.environ.get(name))

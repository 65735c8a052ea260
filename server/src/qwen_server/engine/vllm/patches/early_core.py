"""A process of multiprocessing's that is started before it is known what it shall do, and imports meanwhile.

The engine core takes as long to import vLLM as this process does, and vLLM starts it only afterwards. Started at once,
both import at the same time. It is spawned as ever, never forked: `Process.start()` sends it what it would have sent to
a new interpreter. What cannot be sent to a process that is running already (open files, another executable) starts a
new one, and so does the death of the early one; where the environment has changed in what libraries read when they are
imported, the process begins anew in its place.
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
import struct
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import popen_spawn_posix, reduction, resource_tracker, spawn, util
from multiprocessing.context import BaseContext, SpawnContext, SpawnProcess, set_spawning_popen
from typing import Any, Final

from qwen_server.config.patches import Patch, absent
from qwen_server.engine.processes import die_with_parent

_LENGTH = struct.Struct("!I")
# What vLLM sets between the two imports, and reads only when it is used.
READ_LATE = frozenset(
    {
        "LOCAL_WORLD_SIZE",
        "NUMEXPR_MAX_THREADS",
        "VLLM_DISABLE_SHARED_EXPERTS_STREAM",
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
    gains="the first answer after half of the time (docs/decisions/0007)",
    relies_on="multiprocessing's way to spawn, and that vLLM makes its processes by `engine.utils.get_mp_context`",
    missing=_missing,
)


class EarlyChild:
    """A child that imports `modules` and then waits for its work. It ends with the thread that makes this object."""

    def __init__(self, name: str, modules: Sequence[str]) -> None:
        self.executable = spawn.get_executable()
        self._taken = False
        tracker = resource_tracker.getfd()
        parent_reads, child_writes = os.pipe()
        child_reads, parent_writes = os.pipe()
        arguments = f"{name!r}, {list(modules)!r}, {os.getpid()}, {child_reads}, {tracker}"
        flags = util._args_from_interpreter_flags()  # type: ignore[attr-defined]  # noqa: SLF001
        command = [self.executable, *flags, "-c", f"from {__name__} import main; main({arguments})"]
        command.append("--multiprocessing-fork")
        files = [descriptor for descriptor in (tracker, child_reads, child_writes) if descriptor is not None]
        try:
            # With an environment of Python's: C libraries, such as readline, set variables that it does not see.
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

    def take(self) -> bool:
        """Whether the child is still to be had; it is only once."""
        taken, self._taken = self._taken, True
        return not taken and spawn.get_executable() == self.executable

    def discard(self) -> None:
        """Ends the child."""
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.sentinel)
        os.close(self.pipe)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """What is sent to the child needs no child of its own."""
        return type(None), ()


class EarlyContext(SpawnContext):
    """The context `spawn`, whose first process runs in `child`."""

    def __init__(self, child: EarlyChild) -> None:
        super().__init__()
        self._child = child

    def Process(self, *arguments: Any, **options: Any) -> SpawnProcess:  # type: ignore[override]  # noqa: N802 - multiprocessing's name
        """A process as the context's own."""
        process = _EarlyProcess(*arguments, **options)
        process.early_child = self._child
        return process


@contextlib.contextmanager
def core_in(child: EarlyChild | None) -> Iterator[None]:
    """Runs the first engine core that vLLM starts meanwhile in `child`, if there is one.

    vLLM has no argument for that.
    """
    # Imported here: the child runs this module before it has imported vLLM.
    from vllm.v1.engine import utils  # noqa: PLC0415

    original = getattr(utils, "get_mp_context", None)
    if child is None or original is None:
        if child is not None:
            _log.warning("vLLM does not start its processes as expected: the one started early is not used")
            child.discard()
        yield
        return

    def get_mp_context() -> BaseContext:
        context: BaseContext = original()
        return EarlyContext(child) if context.get_start_method() == "spawn" else context

    utils.get_mp_context = get_mp_context
    try:
        yield
    finally:
        utils.get_mp_context = original


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
            _log.warning("the process started early cannot be used; another is started")
            child.discard()
            self._fds: list[int] = []
            super()._launch(process)  # type: ignore[misc]

    def _hand_over(self, child: EarlyChild, process: Any) -> bool:
        """Sends the child its work, as the parent's method does; False when it cannot be done."""
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
        self.pid = child.pid
        self.sentinel = child.sentinel
        self.finalizer = util.Finalize(self, util.close_fds, [child.sentinel, child.pipe])  # type: ignore[attr-defined]
        return True


def main(name: str, modules: Sequence[str], parent: int, pipe: int, tracker: int) -> None:
    """What the child runs."""
    die_with_parent(parent)
    multiprocessing.current_process().name = name
    gc.disable()
    # What cannot be imported fails again where it is needed, and is reported there.
    with contextlib.suppress(Exception):
        for module in modules:
            importlib.import_module(module)
    gc.enable()
    environment = _receive_environment(pipe)
    if environment is None:
        os._exit(0)
    if changed := _changed(environment):
        _log.info("the environment has changed (%s): the process begins anew", ", ".join(changed))
        command = spawn.get_command_line(tracker_fd=tracker, pipe_handle=pipe)
        os.execve(command[0], command, environment)  # noqa: S606 - ourselves, without a shell
    # setproctitle finds the command line by the environment that lies behind it, so it must look before that moves.
    with contextlib.suppress(ImportError):
        importlib.import_module("setproctitle").getproctitle()
    os.environ.clear()
    os.environ.update(environment)
    spawn.spawn_main(pipe_handle=pipe, tracker_fd=tracker)


def _receive_environment(pipe: int) -> dict[str, str] | None:
    """The parent's environment; None when the parent wants nothing of us."""
    header = _read(pipe, _LENGTH.size)
    if header is None:
        return None
    body = _read(pipe, _LENGTH.unpack(header)[0])
    return None if body is None else dict(json.loads(body))


def _read(pipe: int, size: int) -> bytes | None:
    """Exactly `size` bytes, and none of those that follow; None at the end."""
    data = b""
    while len(data) < size:
        chunk = os.read(pipe, size - len(data))
        if not chunk:
            return None
        data += chunk
    return data


def _changed(environment: Mapping[str, str]) -> list[str]:
    """The variables that an import here may have seen otherwise."""
    names = (environment.keys() | os.environ.keys()) - READ_LATE
    return sorted(name for name in names if environment.get(name) != os.environ.get(name))
